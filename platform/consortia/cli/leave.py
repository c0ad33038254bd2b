"""`consortia leave`: a participant leaves a finished run; and a home takes the certificate of it into its ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortia.cli.options import PkiKey, home_of
from consortia.common.console import begin, tell
from consortia.common.errors import InputError

if TYPE_CHECKING:
    from consortia.trust.passport.leave import LeaveCertificate

_PKI_KEY = Path("pki") / "superlink.key"


def leave(
    run: Annotated[str, typer.Argument(help="Folder of a finished run; with --certificate its id is enough.")],
    participant: Annotated[str, typer.Option(help="Who leaves; with --certificate, whose home it is.")],
    key: PkiKey = None,
    certificate: Annotated[
        Path | None, typer.Option(help="At a participant's home: enter this certificate into its ledger.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="With --certificate: public keys, as `consortia verify` takes them.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="With --certificate: folder of the participants; $CONSORTIA_HOME or ~/.consortia."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the certificate says as JSON.")] = False,
) -> None:
    """Take a participant out of a finished run: a new model and a signed certificate. It is free.

    Of a run of noisy sums it is the model without it; of a run of steps that kept its updates, a replay.

    Interrupted, the same command again completes it.
    """
    if certificate is not None:
        if key is not None or keys is None:
            got = "--key" if key is not None else "no --keys"
            raise InputError(f"--certificate: wanted --keys with it and no --key, got {got}")
        said = _at_home(run, participant, certificate, keys, home)
    else:
        if keys is not None or home is not None:
            raise InputError("--keys and --home: wanted none without --certificate, got one")
        begin(f"taking {participant} out of {run}", as_json=as_json)
        said = _at_coordinator(Path(run), participant, key)
    if as_json:
        typer.echo(json.dumps(said.model_dump(mode="json"), indent=1))
    else:
        say_left(said)


def _at_coordinator(run: Path, participant: str, key: Path | None) -> LeaveCertificate:
    from consortia.coordinator.leaving import leave as take_out
    from consortia.trust.passport.keys import private_key
    from consortia.trust.passport.leave import FOLDER

    used = key or _PKI_KEY
    if key is None and not used.is_file():
        raise InputError(f"--key: wanted the coordinator's private key, got none, and no {used} here; it signs")
    made = take_out(run, participant, private_key(used))
    file = run / FOLDER / f"{participant}.json"
    tell(f"{file}: SHA-256 {made.sha256}")
    return made.stated


def _at_home(run: str, participant: str, certificate: Path, keys: Path, home: Path | None) -> LeaveCertificate:
    from consortia.participant.leaving import enter
    from consortia.trust.passport.keys import COORDINATOR, public_keys

    if not certificate.is_file():
        raise InputError(f"{certificate}: wanted a certificate, got nothing there; check the path")
    place = home_of(participant, home)
    with place.open_for_owner() as ledger:
        return enter(place, ledger, Path(run).name, certificate.read_bytes(), public_keys(keys)[COORDINATOR])


def say_left(said: LeaveCertificate) -> None:
    """Print what a certificate says, a sentence a line."""
    tell(f"{said.participant} left run {said.run_id} ({said.made}), contract {said.contract_sha256}")
    tell(f"the model of {said.industry} is now of {', '.join(said.remaining)} alone: {said.model.file}")
    change = said.change
    tell(
        f"its weights changed by {change.distance:.4g} (L2), the largest by {change.largest:.4g}; their norm was "
        f"{change.norm_before:.4g} and is {change.norm_after:.4g}"
    )
    for name, kinds in said.withdrawn_metrics.items():
        tell(f"withdrawn, since measured on the old model: {', '.join(kinds)} of {name}")
    if said.withdrawn_passport is not None:
        tell(f"withdrawn: the passport with SHA-256 {said.withdrawn_passport}")
    for one in said.erased:
        tell(f"deleted in {one.file}: {', '.join(one.tensors)} (SHA-256 was {one.before}, is {one.after})")
    for draft in said.removed:
        tell(f"deleted: {draft.file} (SHA-256 was {draft.before})")
    shaped = [name for name, did in said.shaped.model_dump().items() if did]
    free = [name for name, did in said.shaped.model_dump().items() if not did]
    tell(f"stays though {said.participant} shaped it: {', '.join(shaped) or 'nothing'}; not shaped: {', '.join(free)}")
    if said.replay is not None:
        for sentence in said.replay.says:
            tell(f"replay: {sentence}")
    for sentence in said.stays:
        tell(f"stays in the records: {sentence}")
    for sentence in said.not_undone:
        tell(f"cannot be undone: {sentence}")
