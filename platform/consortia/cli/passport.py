"""`consortia passport` and `consortia verify`: a run's passport, signed by each side and checked by anybody."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consortia.cli.leave import say_left
from consortia.cli.options import AsJson, HomeFolder, PkiKey, home_of
from consortia.common.console import err, say, tell
from consortia.common.errors import InputError

if TYPE_CHECKING:
    from consortia.trust.passport.verify import Verdict

_PKI_KEY = Path("pki") / "superlink.key"


def passport(
    run: Annotated[str, typer.Argument(help="Folder of a finished run; with --participant its id is enough.")],
    participant: Annotated[str, typer.Option(help="Sign this participant's part, on its side.")] = "",
    home: HomeFolder = None,
    key: PkiKey = None,
    parts: Annotated[
        Path | None, typer.Option(help="Folder of the participants' parts, NAME.json each; RUN/parts by default.")
    ] = None,
    image: Annotated[str, typer.Option(help="Digest of the container image that the run used.")] = "",
    audit: Annotated[Path | None, typer.Option(help="What `consortia audit --json` printed for the contract.")] = None,
    target: Annotated[Path | None, typer.Option("--out", help="Write this file instead of the usual one.")] = None,
) -> None:
    """Sign what a run cost and released: a participant its own part, the coordinator the passport around them."""
    from consortia.common.disk import write_json

    if participant:
        if key or parts or image or audit:
            raise InputError("--key, --parts, --image and --audit: wanted none with --participant, got one")
        file, envelope = _part(run, participant, home, target)
    else:
        file, envelope = _whole(Path(run), key, parts, image, audit, target)
    write_json(file, envelope)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    tell(f"{file}: SHA-256 {digest}")


def _part(run: str, participant: str, home: Path | None, target: Path | None) -> tuple[Path, dict[str, Any]]:
    from consortia.participant.passport import make_part

    place, run_id = home_of(participant, home), Path(run).name
    with place.open_for_owner() as ledger:
        envelope = make_part(place, ledger, run_id)
    if not envelope["signatures"]:
        _warn(f"not signed: {place.kept} has no identity.pem; `consortia secure key {participant}` makes one")
    return target or place.run_folder(run_id) / "passport-part.json", envelope


def _whole(
    run: Path, key: Path | None, parts: Path | None, image: str, audit: Path | None, target: Path | None
) -> tuple[Path, dict[str, Any]]:
    from consortia.coordinator.passport import make_passport
    from consortia.trust.passport import FILE
    from consortia.trust.passport.keys import private_key

    used = key or (_PKI_KEY if _PKI_KEY.is_file() else None)
    place = parts or run / "parts"
    envelope = make_passport(run, place, private_key(used) if used else None, image=image, audit=audit)
    if used is None:
        _warn(f"not signed: no --key, and no {_PKI_KEY} here")
    return target or run / FILE, envelope


def verify(
    passport: Annotated[Path, typer.Argument(help="The passport.")],
    keys: Annotated[
        Path, typer.Option(help="Public keys: a folder of NAME.pem, or a TOML file of NAME = hex; one is coordinator.")
    ],
    files: Annotated[
        Path | None, typer.Option(help="The run's folder, to hold its files against their hashes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a passport offline, with pinned keys. Exit 0: all is signed and agrees; 1: what is missing or forged.

    A certificate of leaving (`consortia leave`) is checked likewise.
    """
    from consortia.trust.passport.keys import public_keys
    from consortia.trust.passport.verify import check

    if not passport.is_file():
        raise InputError(f"{passport}: wanted a passport, got nothing there; check the path")
    data = passport.read_bytes()
    verdict = check(data, public_keys(keys), files)
    if as_json:
        typer.echo(json.dumps(_as_json(data, verdict), indent=1))
    else:
        _print(verdict)
    if verdict.problems:
        raise typer.Exit(1)


def _as_json(data: bytes, verdict: Verdict) -> dict[str, Any]:
    return {
        "schema": 1,
        "sha256": hashlib.sha256(data).hexdigest(),
        "problems": verdict.problems,
        "passport": verdict.passport.model_dump(mode="json", exclude={"participants": {"__all__": {"part"}}})
        if verdict.passport
        else None,
        **({"left": verdict.left.model_dump(mode="json")} if verdict.left else {}),
        "parts": {name: part.model_dump(mode="json") for name, part in verdict.parts.items()},
    }


def _print(verdict: Verdict) -> None:
    if verdict.passport is not None:
        about = verdict.passport
        tell(f"run {about.run_id}, {about.status}, contract {about.contract_sha256}, seen by the {about.observer}")
    for name, part in verdict.parts.items():
        rows = f", {part.rows} rows" if part.rows else ""
        tell(f"{name}: signed{rows}; ledger {part.ledger.before.counter} to {part.ledger.after.counter} links")
        for account in part.accounts:
            cost = "no guarantee (non-private)" if account.epsilon is None else f"ε {account.epsilon:.4g}"
            left = ", ".join(f"{times} {kind}" for kind, times in account.committed.items()) or "nothing"
            tell(
                f"  {account.account}: {cost}, δ {account.delta:g}, unit {account.unit}, {account.relation}, this run; "
                f"left: {left}; abandoned: {account.abandoned}"
            )
        if part.agreement is not None:
            last = f"until {part.agreement.until}" if part.agreement.until else "until withdrawn"
            purpose = f"for: {part.agreement.purpose}" if part.agreement.purpose else "what was signed is not kept"
            last = last if part.agreement.purpose else "before the run"
            tell(f"  agreed {last}, {purpose} (SHA-256 {part.agreement.sha256[:12]})")
        else:
            tell("  no signed agreement: its policy's list alone accepted the contract")
    for name in verdict.certificates:
        tell(f"{Path(name).stem} left this run: {name}; what the passport says of releases stays as it was")
    if verdict.left is not None:
        say_left(verdict.left)
    for problem in verdict.problems:
        say(f"missing or forged: {problem}")
    if not verdict.problems:
        what = "accepted" if verdict.left is None else "accepted as a certificate of leaving, which is no passport"
        tell(f"{what}: signed by {', '.join(('coordinator', *verdict.parts))}")


def _warn(sentence: str) -> None:
    err.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
