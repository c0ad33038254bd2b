"""Named places between durable steps, where a test may stop the process. They do nothing in production."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["FAILPOINTS", "failpoint", "listening"]

#: Every place that the ledger passes, in order; a test visits each of them.
FAILPOINTS = (
    "create.file",
    "create.schema",
    "create.linked",
    "create.synced",
    "open_run.before",
    "open_run.begun",
    "open_run.written",
    "open_run.committed",
    "reserve.before",
    "reserve.begun",
    "reserve.written",
    "reserve.committed",
    "commit.before",
    "commit.begun",
    "commit.state",
    "commit.written",
    "commit.committed",
)

_listener: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Tell the listener, if there is one, that the place `name` is reached."""
    if _listener is not None:
        _listener(name)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call `listener` with the name of every place reached in this process meanwhile."""
    global _listener  # noqa: PLW0603 (one per process is the point)
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
