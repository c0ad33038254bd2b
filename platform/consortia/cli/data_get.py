"""`consortia data get`: downloads public data sets from their publisher, for a first try on real rows."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortia.common.console import tell
from consortia.common.download import MOST_BYTES, DownloadError, download
from consortia.common.errors import InputError

if TYPE_CHECKING:
    from clients.public_data import PublicData

LICENCE = "LICENCE.txt"


def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="heart, german, ai4i, occupancy, or all.")],
    data: Annotated[Path, typer.Option(help="The folder that `consortia run --data` reads.")] = Path("public-data"),
    mirror: Annotated[str, typer.Option(metavar="URL", help="A server with the same paths as the publisher.")] = "",
) -> None:
    """Download public data sets from their publisher, with licence; each file is checked against its known SHA-256."""
    from clients.public_data import DATA_SETS

    wanted = list(DATA_SETS) if names == ["all"] else names
    if strange := [name for name in wanted if name not in DATA_SETS]:
        raise InputError(f"data get: wanted some of {', '.join(DATA_SETS)}, or all; got {', '.join(strange)}")
    for name in wanted:
        said = fetch(DATA_SETS[name], data, mirror)
        tell(f"{name}: {said}")
    tell(f"next: consortia run SCENARIO --data {data}")


def fetch(found: PublicData, data: Path, mirror: str = "", *, pause: float = 1.0) -> str:
    """Bring one data set's files into `data`; return a line that says what was done.

    Raises
    ------
    DownloadError
        It could not be downloaded.
    InputError
        What came, or what lies there, is not what is wanted.
    """
    folder = data / found.folder
    here = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in found.files
        if (folder / name).is_file()
    }
    if others := [name for name, digest in here.items() if digest != found.files[name]]:
        raise InputError(
            f"{folder}: wanted no file of other content there, got {', '.join(others)}; move them away, or name "
            "another folder with --data"
        )
    licence = folder / LICENCE
    if here == dict(found.files):
        licence.write_text(found.licence, encoding="utf-8")
        return f"{len(here)} file(s) are in {folder} already, with the wanted SHA-256"
    url = (mirror.rstrip("/") or found.publisher) + found.path
    archive = folder / Path(found.path).name
    by_hand = (
        f"Or download it elsewhere, and put {', '.join(found.files)} into {folder}: this command checks them then."
    )
    try:
        download(url, archive, pause=pause)
    except DownloadError as error:
        raise DownloadError(f"{error}. Call it again: it goes on where it stopped. {by_hand}") from None
    try:
        contents = _extracted(archive, found, url, by_hand)
    finally:
        archive.unlink()  # the next call starts anew; what was right is not needed any more
    for name, content in contents.items():
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
    licence.write_text(found.licence, encoding="utf-8")
    return f"{len(contents)} file(s) in {folder}, SHA-256 as wanted. {found.citation} CC BY 4.0, see {licence}"


def _extracted(archive: Path, found: PublicData, url: str, by_hand: str) -> dict[str, bytes]:
    """Return the contents of the wanted files; InputError unless each is there with its hash."""
    contents = {}
    try:
        with zipfile.ZipFile(archive) as opened:
            for name, wanted in found.files.items():
                places = [each for each in opened.infolist() if Path(each.filename).name == name]
                if len(places) != 1:
                    raise InputError(f"{url}: wanted {name} once in the archive, got it {len(places)} times. {by_hand}")
                if places[0].file_size > MOST_BYTES:
                    raise InputError(f"{url}: {name}: wanted at most {MOST_BYTES} bytes, got more. {by_hand}")
                contents[name] = opened.read(places[0])
                if (got := hashlib.sha256(contents[name]).hexdigest()) != wanted:
                    raise InputError(
                        f"{url}: {name}: wanted SHA-256 {wanted}, got {got}; nothing was kept. The publisher may have "
                        f"a new version, or something on the way changed it. {by_hand}"
                    )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        raise InputError(
            f"{url}: wanted a zip archive, got another file; is a login page in between? {by_hand}"
        ) from None
    return contents
