"""`consortia new client NAME --from rows.csv`: writes an industry as a file, and a scenario of it."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import tomli_w

from consortia.common.console import tell
from consortia.common.errors import InputError
from consortia.common.words import public_count
from consortia.terms.proposed_policy import proposed_policy
from consortia.terms.roster import RosterParticipant

if TYPE_CHECKING:
    import pandas as pd

    from clients.inferring import Kind

__all__ = ["files_of", "participant_name", "read_rows", "source_of", "write_client"]

_ENDINGS = r"(?i)\.(csv|csv\.gz|tsv|tsv\.gz|parquet|xlsx|xlsm)$"
#: Of the participants of a scenario that nobody's files name.
DEMO = ("north", "south")


def files_of(places: list[str]) -> list[Path]:
    """Return the files that are named, or that lie in named folders, or that fit patterns.

    Of a folder without files those of its folders count, one in each, as containers want them: data/NAME/FILE.
    """
    found: list[Path] = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            within = _within(path)
            found += within or [files[0] for each in sorted(path.iterdir()) if len(files := _within(each)) == 1]
        else:
            found += [path] if path.is_file() else [Path(each) for each in sorted(glob.glob(place))]
    if not found:
        raise InputError(f"--from: wanted CSV, Parquet or Excel files, got none at {', '.join(places)}; check the path")
    return found


def _within(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if re.search(_ENDINGS, each.name)) if folder.is_dir() else []


def _called(file: Path, places: list[str]) -> Path:
    """Return what names the file's participant: its folder where that is data/NAME/FILE of data, else the file."""
    return file.parent if file.parent.parent in {Path(place) for place in places} else file


def source_of(file: Path) -> str:
    """Return the source that reads a file by its ending: Parquet, Excel, or CSV as it is written."""
    from clients.sources.csv_file import sniffed
    from clients.sources.table import WrongRowsError

    kind = {".parquet": "parquet", ".xlsx": "excel", ".xlsm": "excel"}.get(file.suffix.lower())
    if kind is not None:
        return f"{kind}:{file.resolve()}"
    try:
        options = sniffed(file).options() if file.is_file() else ""
    except (OSError, WrongRowsError):
        options = ""  # the reader says what is wrong with it
    return f"csv:{file.resolve()}{options}"


def read_rows(file: Path) -> tuple[pd.DataFrame, str]:
    """Return a file's rows, and the source that reads them so, such as `csv:/data/a.csv?separator=;`."""
    from clients.errors import ClientError
    from clients.sources import parse_source, read_table

    source = source_of(file)
    try:
        return read_table(parse_source(source), key=str(file)), source
    except ClientError as error:
        raise InputError(str(error)) from None


def participant_name(file: Path) -> str:
    """Return a participant's name made of a file's."""
    name = re.sub(r"[^a-z0-9]+", "-", file.name.split(".")[0].lower()).strip("-")
    return name if re.match("[a-z]", name) else f"site-{name}"


def write_client(
    name: str,
    folder: Path,
    places: list[str],
    *,
    target: str,
    kind: str,
    unit: str,
    identifiers: list[str],
    epsilon: str,
) -> None:
    """Write `clients/NAME.toml`, `scenarios/NAME.toml` and demonstration policies with synthetic rows.

    Each file is one participant, who is called as the file is; of a single file there are two made-up participants.
    """
    from clients import registry
    from clients.errors import ClientError

    if not re.fullmatch(r"[a-z][a-z0-9_-]{1,29}", name):
        raise InputError(f"new client: wanted a name of 2 to 30 small letters, digits, - and _, got {name!r}")
    if name in registry.names():
        raise InputError(f"new client: wanted a new name, got {name!r}, which exists already")
    if not target:
        raise InputError("new client --from: wanted --target COLUMN (what is predicted), got none")
    files = files_of(places)
    from clients.inferring import propose

    frames = [read_rows(file)[0] for file in files]
    try:
        made = propose(
            frames,
            name,
            target,
            kind=cast("Kind | None", kind or None),
            unit=unit,
            identifiers=identifiers,
        )
    except ClientError as error:
        raise InputError(str(error)) from None
    participants = {
        participant_name(_called(file, places)): _units(frame, unit) for file, frame in zip(files, frames, strict=True)
    }
    if len(participants) < len(files):
        raise InputError("--from: wanted files with different names, for each is one participant; rename them")
    if len(participants) == 1:
        participants = {f"{name.replace('_', '-')}-{site}": next(iter(participants.values())) for site in DEMO}
    budgets = _budgets(epsilon, len(participants))
    slug = name.replace("_", "-")
    roster = [
        _participant(participant, name, rows, own, unit)
        for (participant, rows), own in zip(participants.items(), budgets, strict=True)
    ]
    contract = {"schema": 1, "wire": 1, "rounds": 20, "industries": {name: {}}}
    scenario = {"schema": 1, "name": slug, "title": f"Participants of the industry {name}", "contract": contract}
    written = {
        folder / "clients" / f"{name}.toml": made.text,
        folder / "scenarios" / f"{slug}.toml": tomli_w.dumps({**scenario, "roster": roster}),
    }
    for participant in roster:
        policy = folder / "scenarios" / "policies" / slug / f"{participant['name']}.toml"
        demo = proposed_policy(RosterParticipant(**participant))
        demo |= {"demo": True, "allow": {**demo["allow"], "contracts": "any"}}
        written[policy] = "# Demonstration policy: accepted in a simulation only.\n" + tomli_w.dumps(demo)
    if taken := [str(file) for file in written if file.exists()]:
        raise InputError(f"new client: wanted to write {', '.join(taken)}, got files there; move them away")
    for file, text in written.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        tell(f"wrote {file}")
    for note in [*made.notes, *_other_names(files, frames)]:
        tell(f"note: {note}")
    told = ", ".join(f"{each['name']} ε {each['epsilon']:g}" for each in roster)
    tell(f"proposed budgets, in the order of the files: {told}")
    tell(
        f"{made.kind} target. Bounds, categories and classes are read from rows: correct them in clients/{name}.toml.\n"
        f"next: consortia client confirm {name} && consortia home init --scenario {slug} --data FOLDER --home homes && "
        f"consortia run {slug} --ledger homes   (on synthetic rows: consortia run {slug})"
    )


def _other_names(files: list[Path], frames: list[pd.DataFrame]) -> list[str]:
    """Say which files lack columns of the first one: their bounds and codes are not in what was read."""
    wanted = {str(name).casefold() for name in frames[0].columns}
    lacking = {
        file.name: len(wanted - {str(name).casefold() for name in frame.columns})
        for file, frame in zip(files, frames, strict=True)
    }
    return [
        f"{name}: {count} of {len(wanted)} columns of {files[0].name} are not there under these names, so nothing was "
        "read from them: set bounds and categories for these rows, too; `home init` proposes the mapping"
        for name, count in lacking.items()
        if count
    ]


def _units(frame: pd.DataFrame, unit: str) -> int:
    return len(frame) if unit == "record" or unit not in frame else int(frame[unit].nunique())


def _budgets(text: str, count: int) -> list[float]:
    try:
        budgets = [float(each) for each in text.split(",")]
    except ValueError:
        budgets = []
    if len(budgets) not in {1, count} or not all(each > 0 for each in budgets):
        raise InputError(f"--epsilon: wanted one number > 0, or {count} with commas between them, got {text!r}")
    return budgets * count if len(budgets) == 1 else budgets


def _participant(name: str, industry: str, rows: int, epsilon: float, unit: str) -> dict[str, Any]:
    units = public_count(rows)
    site = "south" if name.endswith("south") else "north"
    delta = min(1e-5, 10.0 ** -(len(str(units)) + 1))
    return {
        "name": name,
        "industry": industry,
        "dataset": industry.replace("_", "-"),
        "site": site,
        "units": units,
        "unit": unit,
        "epsilon": epsilon,
        "delta": delta,
    }
