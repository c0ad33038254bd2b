"""Counts epsilons in the background, so that no page waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """One thread that counts; a page takes what is there, is told whether it is up to date, and comes again.

    The thread rests as long as it worked, so that whoever trains on this machine keeps most of it.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[Hashable, Any]] = {}
        self._wanted: queue.Queue[tuple[Hashable, Hashable, Callable[[], Any]]] = queue.Queue()
        self._queued: set[tuple[Hashable, Hashable]] = set()
        self._thread: threading.Thread | None = None
        self.version = 0

    def take(self, slot: Hashable, state: Hashable, count: Callable[[], T]) -> tuple[T | None, bool]:
        """Return the last value of `slot` and whether it is of this `state`; counts it where it is not.

        Parameters
        ----------
        slot : hashable
            What is counted.
        state : hashable
            What it depends on.
        """
        known = self._found.get(slot)
        if known is not None and known[0] == state:
            return known[1], True
        if (slot, state) not in self._queued:
            self._queued.add((slot, state))
            self._wanted.put((slot, state, count))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        return (known[1] if known else None), False

    def _work(self) -> None:
        while True:
            slot, state, count = self._wanted.get()
            started = time.monotonic()
            try:
                self._found[slot] = (state, count())
                self.version += 1
            except Exception:  # noqa: BLE001 - the next one may work; nothing of it may be shown
                self._found.setdefault(slot, (None, None))
            finally:
                self._queued.discard((slot, state))
            time.sleep(min(1.0, time.monotonic() - started))
