"""`consortia participant`: says who joins and who leaves, at the coordinator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from consortia.cli.acts import KnownHead, show
from consortia.cli.options import ParticipantName
from consortia.cli.participant_serve import check_kit, serve, units
from consortia.common.console import friendly, out, tell
from consortia.common.errors import InputError
from consortia.common.strict import listed, parse
from consortia.deploy.members import MemberFolder, apply, build_file, read_public_key
from consortia.deploy.prepare import effective
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, load_scenario

app = typer.Typer(help="Add a participant to a federation, or remove one.", no_args_is_help=True)
app.command(
    "check-kit", epilog="Example: consortia participant check-kit factory-d --kit factory-d --authority A1:B2:…"
)(check_kit)
app.command(epilog="Example: consortia participant serve factory-d --kit kits/factory-d")(serve)
app.command(epilog="Example: consortia participant units factory-d --kit /srv/consortia/factory-d")(units)

_Scenario = Annotated[str, typer.Option(help="The scenario, by name or path.")]
_Members = Annotated[Path, typer.Option(help="Folder of who joined and who left.")]
_Json = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def _scenario(name: str, members: Path) -> tuple[Scenario, MemberFolder]:
    scenario = effective(name)  # as `make up` runs it, `$CONSORTIA_ROUNDS` included
    return scenario, MemberFolder(members, scenario.name)


def _register(scenario: str) -> str:
    return f"SCENARIO={scenario} docker compose run --rm register"


@app.command(
    epilog="Example: consortia participant add factory-d --industry factory --dataset machines --site M "
    "--units 1400 --epsilon 8 --address fed.example.org:8443 --public-key factory-d.pub"
)
@friendly
def add(
    name: ParticipantName,
    industry: Annotated[str, typer.Option(help="Its industry.")],
    dataset: Annotated[str, typer.Option(help="Its own name for its data set.")],
    units: Annotated[int, typer.Option(help="Declared, public number of units.")],
    epsilon: Annotated[str, typer.Option(help="Proposed epsilon of a run; inf is non-private.")],
    address: Annotated[str, typer.Option(help="HOST:PORT under which it calls the coordinator.")],
    site: Annotated[str, typer.Option(help="Site of the industry's public or synthetic data.")] = "",
    delta: Annotated[float, typer.Option(help="Proposed delta of a run.")] = 1e-5,
    unit: Annotated[
        str, typer.Option(help="Whom one unit of privacy is: record or a column; its policy decides without.")
    ] = "",
    public_key: Annotated[
        Path | None, typer.Option(help="Public half of its node key, where it sent one already.")
    ] = None,
    scenario: _Scenario = "cross-industry",
    members: _Members = Path("members"),
    pki: Annotated[Path, typer.Option(help="Folder of certificates.")] = Path("pki"),
    kits: Annotated[Path, typer.Option("--out", help="Where the join kit is written.")] = Path("kits"),
    image: Annotated[
        str,
        typer.Option(help="Image of the kit: NAME@sha256:DIGEST, or its ID sha256:…; the tag of `make up` without."),
    ] = "",
    as_json: _Json = False,
) -> None:
    """Add a participant to the roster, with its key and a join kit. Nobody else's files or services change."""
    from consortia.deploy.kit import FILES, check_certificate, check_image, write_kit
    from consortia.deploy.kit_signature import fingerprint
    from consortia.planning.plan import make_plans

    loaded, folder = _scenario(scenario, members)
    try:
        offer = float(epsilon)
    except ValueError:
        raise InputError(f"--epsilon: wanted a number > 0 or 'inf', got {epsilon!r}") from None
    participant = parse(
        RosterParticipant,
        {"name": name, "industry": industry, "dataset": dataset, "site": site or name, "units": units,
         "epsilon": offer, "delta": delta, "unit": unit},
        "participant add",
    )  # fmt: skip
    named = check_image(image) if image else ""
    authority = check_certificate(pki, address)
    key = read_public_key(public_key) if public_key else None
    target = kits / name
    if target.exists():
        raise InputError(f"{target}: wanted no kit there yet, got one; it may hold a ledger, move it away first")
    make_plans(folder.with_participant(loaded, participant)[1])
    whole = folder.add(loaded, participant, key)
    noted = build_file(members)
    build = noted.read_text(encoding="utf-8").strip() if noted.is_file() else ""
    write_kit(target, whole, name, address, authority, has_key=key is not None, image=named, build=build, pki=pki)
    told = fingerprint(authority)
    if as_json:
        done = {"added": name, "kit": str(target), "has_key": key is not None, "roster": _names(whole)}
        out.print_json(json.dumps(done | {"authority": told}))
        return
    tell(f"{target}: the join kit ({', '.join(FILES)}); hand it to {name}")
    tell(f"tell {name} by another way, such as by telephone, the authority that the kit is signed under: {told}")
    if key is None:
        tell(
            f"when {name} has sent {name}.pub: "
            f"consortia participant key {name} --public-key {name}.pub --scenario {scenario}"
        )
    else:
        tell(f"let it in: {_register(loaded.name)}")


@app.command(epilog="Example: consortia participant key factory-d --public-key factory-d.pub")
@friendly
def key(
    name: Annotated[str, typer.Argument(help="Name of a participant on the roster.")],
    public_key: Annotated[Path, typer.Option(help="Public half of its node key.")],
    scenario: _Scenario = "cross-industry",
    members: _Members = Path("members"),
) -> None:
    """Take a participant's public key, its first or a new one; the old one is revoked when `register` runs."""
    loaded, folder = _scenario(scenario, members)
    names = _names(apply(loaded, folder.load()))
    if name not in names:
        raise InputError(
            f"{name}: wanted a participant of {loaded.name} ({listed(names)}); `consortia participant add`"
        )
    folder.put_key(name, read_public_key(public_key))
    tell(f"let it in: {_register(loaded.name)}")


@app.command(epilog="Example: consortia participant remove factory-d")
@friendly
def remove(
    name: Annotated[str, typer.Argument(help="Name of a participant on the roster.")],
    scenario: _Scenario = "cross-industry",
    members: _Members = Path("members"),
    as_json: _Json = False,
) -> None:
    """Take a participant off the roster and revoke its key. Its ledger is its own and stays."""
    loaded, folder = _scenario(scenario, members)
    left = folder.remove(loaded, name)
    if as_json:
        typer.echo(json.dumps({"removed": name, "roster": _names(left)}))
        return
    tell(f"{name} is off the roster; revoke its key: {_register(loaded.name)}")
    tell("its ledger stays where it is: what was spent stays spent")


@app.command("list", epilog="Example: consortia participant list --scenario hospitals")
@friendly
def list_(scenario: _Scenario = "cross-industry", members: _Members = Path("members"), as_json: _Json = False) -> None:
    """Show the roster as it is now."""
    loaded = load_scenario(scenario, settle=False)
    folder = MemberFolder(members, loaded.name)
    changes = folder.load()
    joined = {participant.name for participant in changes.roster}
    rows = [
        {"name": participant.name, "industry": participant.industry, "joined": participant.name in joined,
         "has_key": participant.name not in joined or folder.public_key(participant.name).is_file()}
        for participant in apply(loaded, changes).roster
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"scenario": loaded.name, "roster": rows, "removed": list(changes.removed)}))
        return
    for row in rows:
        note = " (joined)" if row["joined"] else ""
        note += "" if row["has_key"] else " no key yet"
        tell(f"{row['name']}: {row['industry']}{note}")
    for name in changes.removed:
        tell(f"{name}: removed")


@app.command(epilog="Example: consortia participant acts --runs runs --pki pki")
@friendly
def acts(
    members: _Members = Path("members"),
    runs: Annotated[Path, typer.Option(help="Folder of runs: who started them, who signed in.")] = Path("runs"),
    pki: Annotated[Path, typer.Option(help="Folder of certificates: who renewed them.")] = Path("pki"),
    last: Annotated[int, typer.Option(min=1, help="How many of the last ones.")] = 20,
    head: KnownHead = "",
    as_json: _Json = False,
) -> None:
    """Show who did what at the coordinator, and check that no line was changed since."""
    show([members, runs, pki], head, last, as_json=as_json)


def _names(scenario: Scenario) -> list[str]:
    return [participant.name for participant in scenario.roster]
