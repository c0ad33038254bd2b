"""Downloads a file over HTTP, and goes on where a broken download stopped.

`pooch` would hold the hashes, too, but starts a broken download again from nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx

from consortia.common.errors import ConsortiaError

__all__ = ["DownloadError", "download"]

_SECONDS: Final = 30.0
_TRIES: Final = 4
#: Nothing that is fetched here is larger; a wrong address must not fill the disk.
MOST_BYTES: Final = 64 * 2**20


class DownloadError(ConsortiaError):
    """A file could not be downloaded. What came so far stays beside its place, and the next call goes on from there."""


def download(url: str, place: Path, *, pause: float = 1.0) -> None:
    """Download to `place`, by way of `place.part`.

    A broken connection is tried again up to four times in all, and each try asks for the missing bytes only. With
    `place.part` stands `place.mark`, the server's mark of that version (ETag or date); a server that has another
    version, or knows no ranges, sends the whole file, and the old part is dropped. Whether the bytes are the right ones
    is for the caller to check.

    Parameters
    ----------
    pause : float
        Seconds before the second try; each further one waits twice as long.

    Raises
    ------
    DownloadError
        No network, a refusal of the server, or more than 64 MiB; the text says what to do.
    """
    part, mark = place.with_name(place.name + ".part"), place.with_name(place.name + ".mark")
    place.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    with httpx.Client(timeout=_SECONDS, follow_redirects=True) as client:
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            try:
                _rest(client, url, part, mark)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                problem = f"wanted the file, got HTTP status {status}"
                if status < 500 and status != 429:
                    break
            except httpx.InvalidURL:
                raise DownloadError(f"{url}: wanted an address of http or https, got another; correct it") from None
            except httpx.HTTPError as error:
                problem = f"wanted an answer, got {type(error).__name__}; is there a network, and does it need a proxy?"
            else:
                part.replace(place)
                mark.unlink(missing_ok=True)
                return
    raise DownloadError(f"{url}: {problem}")


def _rest(client: httpx.Client, url: str, part: Path, mark: Path) -> None:
    """Fetch what `part` lacks. HTTPError where the connection broke or the server refused."""
    have = part.stat().st_size if part.is_file() else 0
    # Bytes as they are stored: a range of packed bytes would be another one.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if mark.is_file():
            headers["If-Range"] = mark.read_text(encoding="utf-8")
    with client.stream("GET", url, headers=headers) as answer:
        if have and answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # it was whole already
            part.unlink()
            raise httpx.ReadError("the part that is here is of another file")
        answer.raise_for_status()
        goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT and _begin(answer.headers) == have
        if not goes_on:
            have = 0
            _remember(answer.headers, mark)
        with part.open("ab" if goes_on else "wb") as file:
            for block in answer.iter_raw():
                have += len(block)
                if have > MOST_BYTES:
                    part.unlink()
                    raise DownloadError(f"{url}: wanted at most {MOST_BYTES} bytes, got more; is the address right?")
                file.write(block)


def _begin(headers: Mapping[str, str]) -> int | None:
    """Return the first byte of `Content-Range: bytes 10-19/20`."""
    unit, _, rest = headers.get("Content-Range", "").partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdecimal() else None


def _remember(headers: Mapping[str, str], mark: Path) -> None:
    """Keep the version's strong mark: a weak ETag holds for no range."""
    tag = headers.get("ETag", "")
    told = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    if told:
        mark.write_text(told, encoding="utf-8")
    else:
        mark.unlink(missing_ok=True)
