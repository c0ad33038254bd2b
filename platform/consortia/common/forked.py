"""What a forked process does first: it ends with its parent, and repeats none of its random numbers."""

from __future__ import annotations

import ctypes
import os
import random
import signal
from typing import Final

__all__ = ["end_with_parent", "fresh_globals"]

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def fresh_globals() -> None:
    """Fill Python's, numpy's and torch's global generators from the operating system.

    Nothing that claims privacy draws from them; a library that does must still not repeat its parent's values.
    """
    import numpy as np
    import torch

    random.seed()
    np.random.seed(np.frombuffer(os.urandom(16), np.uint32))
    torch.manual_seed(int.from_bytes(os.urandom(8), "little", signed=True))


def end_with_parent() -> None:
    """End this process when its parent ends, however that ends."""
    parent = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)
