"""Keeps secrets, row order and models of a vertical run at home. None of it is sent."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consortia.common import disk
from consortia.common.errors import RefusedError

__all__ = ["TRUSTED", "Store", "keep_once"]

#: Types that a kept model may contain, besides scikit-learn's estimators and NumPy's arrays.
TRUSTED: Final = (
    "consortia.vertical.assistance.Assistance",
    "consortia.vertical.assistance.Network",
    "consortia.vertical.assistance._Constant",
    "consortia.vertical.private_model.Linear",
    "consortia.vertical.stacking.Decision",
    "consortia.vertical.stacking.Stack",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


def keep_once(file: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of `file`. If it is missing, make and sync it first (mode 0600); the first writer decides."""
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

    Everything that a later step needs is written durably before the current step replies, and is never replaced. After
    a crash a participant continues with the same secrets.
    """

    def __init__(self, folder: Path, progress: Path) -> None:
        self.folder = folder
        self._progress = progress
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def once(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return the bytes kept under the name. The first caller's bytes stay."""
        return keep_once(self.folder / name, make)

    def read(self, name: str) -> bytes:
        """Return what an earlier step kept; RefusedError with code BAD_MESSAGE if that step never came."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise RefusedError("BAD_MESSAGE", f"a step came before the one that keeps {name}") from None

    def places(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[np.int64]:
        """Keep whole numbers (an order, the matched rows)."""
        return np.frombuffer(self.once(name, lambda: make().astype("<i8").tobytes()), dtype="<i8")

    def objects(self, name: str, make: Callable[[], Any]) -> Any:
        """Keep fitted models in the format of skops: arrays and named types. Only scikit-learn's types and `TRUSTED`
        are loaded.

        Raises
        ------
        RefusedError
            With code NOT_TRAINED if the file was altered, names another type, or comes from an older version.
        """
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        data = self.once(name, lambda: skops.io.dumps(make()))
        try:
            return skops.io.loads(data, trusted=list(TRUSTED))
        except (zipfile.BadZipFile, UntrustedTypesFoundException, KeyError, TypeError, ValueError, AttributeError):
            raise RefusedError("NOT_TRAINED", f"{name} at home is not a model that this version wrote") from None

    def has(self, name: str) -> bool:
        """Return whether something is kept under the name."""
        return (self.folder / name).is_file()

    def progress(self, step: str) -> Callable[[int, int], None]:
        """Return a function that notes the progress of a long step, for somebody who watches at home."""

        def note(done: int, total: int) -> None:
            line = {"step": step, "done": done, "total": total, "time": time.time()}
            disk.append_json(self._progress, line)

        return note
