"""`consortia home init`: makes a participant's home with a policy for rows of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from consortia.cli.data_map import client_named, fit
from consortia.cli.new_from_rows import files_of, participant_name, read_rows
from consortia.cli.options import HomeFolder, home_of
from consortia.common.console import out, tell
from consortia.common.errors import InputError
from consortia.common.words import public_count
from consortia.participant.home import Home
from consortia.terms.contract import Contract
from consortia.terms.policy import parse_policy
from consortia.terms.proposed_policy import proposed_policy
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, load_scenario


def init(
    participant: Annotated[
        str, typer.Argument(help="Name of the participant; everybody of --scenario without it.")
    ] = "",
    data: Annotated[
        Path, typer.Option(help="Its file; without a participant a folder with a file NAME.* for each.")
    ] = Path("data"),
    client: Annotated[str, typer.Option(help="The industry of the rows.")] = "",
    scenario: Annotated[str, typer.Option(help="Takes industry, ε, δ and the contract to accept from it.")] = "",
    epsilon: Annotated[float | None, typer.Option(help="ε of one run; a lifetime is four of them.")] = None,
    unit: Annotated[
        str, typer.Option(help="Whom one unit of privacy is: record, or a hashed column; as the roster says without.")
    ] = "",
    home: HomeFolder = None,
    containers: Annotated[
        bool, typer.Option("--containers", help="For containers: data/NAME/FILE here is /data/FILE in NAME's own.")
    ] = False,
) -> None:
    """Make a participant's home for rows of its own: a policy with source and mapping, split key, empty ledger."""
    if bool(client) == bool(scenario):
        raise InputError("home init: wanted either --client NAME or --scenario NAME, got neither or both")
    loaded = load_scenario(scenario) if scenario else None
    if participant:
        places = {participant: data}
    elif loaded is not None:
        places = _places(data, loaded)
    else:
        raise InputError(
            "home init: wanted the participant's name, got none; or --scenario for everybody on its roster"
        )
    policies = {
        name: _policy(name, place, client, loaded, epsilon, unit, home_of(name, home), containers=containers)
        for name, place in places.items()
    }
    from consortia.deploy.homes import make_home_of_text

    for name, (text, said) in policies.items():
        own = home_of(name, home)
        make_home_of_text(own, text)
        tell(f"made {own.policy}: {said}")
    if loaded is None:
        out.print(f"next: read the policy; consortia budget allow {participant} SCENARIO", highlight=False)
    else:
        _introduce(loaded, {name: home_of(name, home) for name in places}, everybody=not participant)
        root = f" --ledger {home}" if home else ""
        run = f"make up SCENARIO={loaded.name}" if containers else f"consortia run {scenario}{root}"
        tell(f"next: read the policies; {run}")


def _introduce(scenario: Scenario, homes: dict[str, Home], *, everybody: bool) -> None:
    from consortia.participant.identity import pin_each_other

    if everybody and any(part.contract.trust == "aggregate" for part in scenario.parts()):
        pin_each_other(homes)


def _places(data: Path, scenario: Scenario) -> dict[str, Path]:
    """Return the file of everybody on the roster."""
    if not data.is_dir():
        raise InputError(f"--data {data}: wanted a folder with a file for each participant, got none; check the path")
    files = {participant_name(file): file for file in sorted(data.iterdir()) if file.is_file()}
    for participant in scenario.roster:
        within = files_of([str(data / participant.name)]) if (data / participant.name).is_dir() else []
        if len(within) == 1:  # data/NAME/FILE, as containers want it
            files.setdefault(participant.name, within[0])
    if lacking := [participant.name for participant in scenario.roster if participant.name not in files]:
        raise InputError(
            f"--data {data}: wanted a file NAME.csv, or a folder NAME with one file, for each of "
            f"{', '.join(lacking)}, got none; bring them"
        )
    return {participant.name: files[participant.name] for participant in scenario.roster}


def _policy(
    name: str,
    file: Path,
    client: str,
    scenario: Scenario | None,
    epsilon: float | None,
    unit: str,
    home: Home,
    *,
    containers: bool,
) -> tuple[str, str]:
    """Return a policy's text and what to say of it; nothing is written yet."""
    from clients.proposing import left_over, propose_mapping, to_toml

    if home.ledger.exists() or home.policy.exists():
        raise InputError(f"{home.folder}: wanted no home there yet, got one; a ledger is never replaced")
    if not file.is_file():
        raise InputError(f"--data {file}: wanted the file of {name}, got nothing there; check the path")
    contract: Contract | None = None
    dataset, delta = client.replace("_", "-"), 0.0
    if scenario is not None:
        try:
            participant = scenario.participant(name)
        except KeyError:
            raise InputError(f"home init: wanted a participant of {scenario.name}, got {name!r}") from None
        client, dataset, delta = participant.industry, participant.dataset, participant.delta
        unit = unit or participant.unit
        epsilon = participant.epsilon if epsilon is None else epsilon
        contract = scenario.contract
    found = client_named(client)
    frame, source = read_rows(file)
    if containers:
        if file.resolve().parent != Path("data", name).resolve():
            raise InputError(
                f"--containers: wanted the file of {name} in data/{name}/, which its container alone sees, got {file}; "
                "move it there"
            )
        source = source.replace(str(file.resolve()), f"/data/{file.name}", 1)
    unit = unit or "record"
    units = public_count(len(frame) if unit == "record" or unit not in frame else frame[unit].nunique())
    epsilon = 1.0 if epsilon is None or math.isinf(epsilon) else epsilon
    delta = min(delta or 1e-5, 10.0 ** -(len(str(units)) + 1))
    line = RosterParticipant(
        name=name, industry=client, dataset=dataset, site="", units=units, unit=unit, epsilon=epsilon, delta=delta
    )
    policy = proposed_policy(line, contract, source=source)
    lines = propose_mapping(frame, found.schema)
    mapping = to_toml(lines, dataset, left_over(lines, frame))
    text = (
        f"# The policy of {name}, for rows of its own: written by `consortia home init`, and yours to change.\n"
        "# declared_units is public: the number of units, rounded. A mapping is a proposal: check each line.\n"
        f"{tomli_w.dumps(policy)}" + (f"\n{mapping}" if mapping else "")
    )
    parse_policy(text, str(home.policy))
    said = f"ε {epsilon:g} a run, {4 * epsilon:g} in a lifetime, {units} units ({unit}) declared. "
    return text, said + fit(frame, found, lines)
