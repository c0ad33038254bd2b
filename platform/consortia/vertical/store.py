"""What a participant keeps at home during a vertical run: secrets, order, models. Nothing of it is ever sent."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortia.errors import RefusedError

__all__ = ["Store", "keep_once"]


def keep_once(file: Path, make: Callable[[], bytes]) -> bytes:
    """Return what lies in `file`, made and synced first (mode 0600) if it is missing; whoever is first decides."""
    if not file.is_file():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(make())
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_bytes()


class Store:
    """A folder of one run and batch.

    Whatever a later step builds on is written durably before the step that used it replies, and never replaced: asked
    again after a crash, a participant goes on with the same secrets.
    """

    def __init__(self, folder: Path, progress: Path) -> None:
        self.folder = folder
        self._progress = progress
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def once(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return what was kept under the name; the first caller's bytes stay."""
        return keep_once(self.folder / name, make)

    def read(self, name: str) -> bytes:
        """Return what an earlier step kept; RefusedError with code BAD_MESSAGE when that step never came."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise RefusedError("BAD_MESSAGE", f"a step came before the one that keeps {name}") from None

    def places(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[np.int64]:
        """Keep whole numbers (an order, the matched rows)."""
        return np.frombuffer(self.once(name, lambda: make().astype("<i8").tobytes()), dtype="<i8")

    def objects(self, name: str, make: Callable[[], Any]) -> Any:
        """Keep fitted models. A pickle of this participant's own folder, never one that came over a wire."""
        return pickle.loads(self.once(name, lambda: pickle.dumps(make())))  # noqa: S301 - our own file, see above

    def has(self, name: str) -> bool:
        """Return whether something is kept under the name."""
        return (self.folder / name).is_file()

    def progress(self, step: str) -> Callable[[int, int], None]:
        """Return a function that notes how far a long step is, for whoever watches at home."""

        def note(done: int, total: int) -> None:
            line = {"step": step, "done": done, "total": total, "time": time.time()}
            with self._progress.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        return note
