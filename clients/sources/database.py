"""Opens a database at an address of SQLAlchemy, and says which one it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["connected", "identity_of"]


@contextmanager
def connected(location: str) -> Iterator[Connection]:
    """Connect to a database until the block ends; nothing is committed, and no connection is kept.

    Raises
    ------
    FileNotFoundError
        Where the file of SQLite is not there.
    """
    import sqlalchemy

    url = sqlalchemy.make_url(location)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise FileNotFoundError(url.database)  # SQLite makes an empty database where there is none
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def identity_of(location: str, asked: str) -> tuple[str, ...]:
    """Return which database an address means, and what is asked of it; who asks makes no difference."""
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(location)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return (location, asked)
    database = url.database or ""
    if url.get_backend_name() == "sqlite":
        database = str(Path(database).resolve())
    return (url.get_backend_name(), (url.host or "").casefold(), str(url.port or ""), database, asked)
