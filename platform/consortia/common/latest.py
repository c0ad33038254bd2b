"""Keeps the values that were made last in this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Latest"]

T = TypeVar("T")


class Latest(Generic[T]):
    """The last `most` values, by key; any thread may ask.

    Parameters
    ----------
    most : a new value beyond it puts the oldest one out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._items: OrderedDict[tuple[str, ...], T] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> T | None:
        """Return the value, or None where it is not kept."""
        with self._lock:
            return self._items.get(key)

    def put(self, key: tuple[str, ...], value: T) -> None:
        """Keep a value."""
        with self._lock:
            self._items[key] = value
            while len(self._items) > self._most:
                self._items.popitem(last=False)
