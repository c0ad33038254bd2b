"""Takes a participant out of a finished run: a new model of what the others released, and a certificate.

Guarantees
----------
* *Post-processing.* The new model is made of noisy messages that the coordinator holds anyway, under the run's centre
  and radius. Nobody is asked, nothing is released, no budget is spent. Nothing of rows is read.
* *The model without the leaver.* It is the one that the same messages of the others give when the leaver never sent
  any: their precision weights are worked out anew. So it is distributed as in a run without the leaver that has the
  same centre and radius. Of a run of steps it is a replay, which is not that (`leaving_steps`); it says so.
* *What the old and the new model together say of the leaver* is a function of its own noisy messages, whose noise is
  its own (`trust = "local"`). Where there is no such noise (secure sums, a non-private leaver) leaving is refused.
* *Gone.* After it no file of the run's folder outside the participants' homes holds a tensor that the leaver sent, nor
  the withdrawn model. This is looked at before the certificate is signed.
* *Whole or not at all.* New files are written beside the old ones, then what will be done (`leaving.json`), then one
  file after the other is replaced. Asked again after an interruption it goes on from there.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from consortia.common import disk, environment
from consortia.common.errors import InputError, RunFailedError
from consortia.common.strict import listed, parse, read_record
from consortia.coordinator import leaving_steps, updates
from consortia.coordinator.checkpoint import Checkpoint, files_of, load, model_bytes, to_bytes
from consortia.coordinator.run_lock import only_coordinator
from consortia.coordinator.sums import released_sums, with_model
from consortia.learners.sums.model import WEIGHTS
from consortia.terms.contract import Contract
from consortia.terms.recipe import recipe
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia.terms.scopes import State
from consortia.trust.passport import FILE as PASSPORT
from consortia.trust.passport import leave as words
from consortia.trust.passport.envelope import signed
from consortia.trust.passport.statement import code, statement

__all__ = ["leave"]

_STAGED: Final = ".left"
_STAYS: Final = (
    "scenario.json and result.json: its name, industry, site, data set's name, declared units, ε and δ",
    "events.jsonl: when it was asked and answered, and how many bytes",
    "coordinator.json and result.json: what it declared, its failures, metrics that it released",
    "checkpoints and heads.json: the head of its ledger, a hash that hides random bytes",
)
_NOT_UNDONE: Final = (
    "models, reports and exports that were made before: whoever has one keeps it",
    "the other participants' models at home, receipts and gains, which used what everybody sent",
    "the ε that the leaver spent: it stays spent in its ledger",
    "copies elsewhere: backups, dumps of a simulation, the message store of Flower's SuperLink, blocks of the disk",
)
_CENTRED: Final = "message 2 of the others, which they made with the centre and the radius"


def leave(folder: Path, name: str, key: ec.EllipticCurvePrivateKey) -> words.Departure:
    """Take a participant out of a run, or complete what was interrupted; return its certificate.

    Parameters
    ----------
    folder : Path
        The coordinator's folder of a finished run.
    key : EllipticCurvePrivateKey
        The coordinator's, which signs.

    Raises
    ------
    InputError
        The run is none that can be left, or not by this participant; the sentence says what to do instead.
    RunFailedError
        Another coordinator is at work there, or the disk is full.
    """
    if not (folder / "scenario.json").is_file() or not (folder / "result.json").is_file():
        raise InputError(
            f"{folder}: wanted the folder of a finished run, got none; it holds scenario.json and result.json"
        )
    with only_coordinator(folder):
        journal = folder / words.JOURNAL
        if journal.is_file():
            planned = _going_on(journal, name)
        else:
            planned = _planned(folder, name)
            disk.write_json(journal, planned.model_dump(mode="json"))
        _replace(folder, planned)
        _certify(folder, planned, key)
        journal.unlink()
    return next(one for one in words.departures(folder) if one.stated.participant == name)


def _going_on(journal: Path, name: str) -> words.LeaveCertificate:
    try:
        planned = parse(words.LeaveCertificate, json.loads(journal.read_text(encoding="utf-8")), str(journal))
    except ValueError:
        raise InputError(f"{journal}: wanted JSON, got something else; put a whole copy back") from None
    if planned.participant != name:
        raise InputError(
            f"--participant: wanted {planned.participant}, whose leaving was interrupted, got {name}; complete that one"
        )
    return planned


def _planned(folder: Path, name: str) -> words.LeaveCertificate:
    """Return what is going to be done, after every check; the new files lie beside the old ones then."""
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    record = read_record(folder / "result.json")
    industry = _check_terms(folder, scenario, record, name)
    places = [folder / name for name in (".", "checkpoints", "model", updates.FOLDER)]
    for mine in (_STAGED, f"{_STAGED}.tmp"):  # of a leaving that never began
        for file in (file for place in places for file in place.glob(f"*{mine}")):
            file.unlink()
    drafts = {file: _sha256(file) for place in places for file in sorted(place.glob("*.tmp"))}
    states = {file: load(file) for file in files_of(folder)}
    passport = folder / PASSPORT
    making = _steps if scenario.contract.keeps_updates else _sums
    return words.LeaveCertificate(
        run_id=record["run_id"],
        contract_sha256=record["contract_sha256"],
        participant=name,
        industry=industry,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        code=code(),
        removed=tuple(words.Removed(file=_named(folder, one), before=sha256) for one, sha256 in drafts.items()),
        withdrawn_passport=_sha256(passport) if passport.is_file() else None,
        withdrawn_metrics=_metrics(record, industry),
        stays=_STAYS,
        **making(folder, scenario, states, industry, name),
    )


def _sums(folder: Path, scenario: Scenario, states: dict[Path, Checkpoint], industry: str, name: str) -> dict[str, Any]:
    """Stage the files of a run of noisy sums; return what the certificate says of them."""
    latest = next(reversed(states.values()), None)
    if latest is None or not _tensors(latest, industry, name):
        raise InputError(f"{folder}: wanted a participant whose sums are in this run, got {name}, which released none")
    remaining = _check_members(scenario, latest, name)
    old = latest.groups[industry]
    model = _check_model(folder, industry, old)
    erased = []
    for file, state in states.items():
        if tensors := _tensors(state, industry, name):
            new = _without(scenario, state, industry, name)
            before, after = _staged(file, to_bytes(new))
            erased.append(words.Erased(file=_named(folder, file), tensors=tensors, before=before, after=after))
            latest = new
    shared = latest.groups[industry]
    heard = f"memory/{industry}/{name}/{recipe(scenario.of(industry).contract, industry).names(1)[0]}"
    first = heard in {tensor for one in erased for tensor in one.tensors}
    return {
        "remaining": remaining,
        "erased": tuple(erased),
        "model": _replaced(folder, model, model_bytes(shared)),
        "change": _change(old[WEIGHTS], shared[WEIGHTS]),
        "shaped": _shaped(scenario, industry, centre=first, radius=first),
        "not_undone": (*_NOT_UNDONE[:2], _CENTRED, *_NOT_UNDONE[2:]),
    }


def _steps(
    folder: Path, scenario: Scenario, states: dict[Path, Checkpoint], industry: str, name: str
) -> dict[str, Any]:
    """Stage the files of a run of steps that kept its updates; return what the certificate says of them."""
    found = leaving_steps.played_again(folder, scenario, states, name)
    model = _check_model(folder, "consortium" if found.group == "*" else found.group, found.old)
    erased = []
    for file in updates.files_of(folder, found.rounds):
        data, tensors = updates.without(file, updates.prefix(scenario, name))
        if tensors:
            before, after = _staged(file, data)
            erased.append(words.Erased(file=_named(folder, file), tensors=tensors, before=before, after=after))
    again = tuple(_replaced(folder, file, data) for file, data in found.files())
    return {
        "remaining": found.remaining,
        "erased": tuple(erased),
        "model": _replaced(folder, model, model_bytes(found.new)),
        "change": _change(leaving_steps.flat(found.old), leaving_steps.flat(found.new)),
        "shaped": _shaped(scenario, industry, updates=found.rounds > 1),
        "not_undone": _NOT_UNDONE,
        "replay": words.Replay(rounds=found.rounds, checkpoints=again, says=leaving_steps.SAYS),
    }


def _check_model(folder: Path, name: str, wanted: State) -> Path:
    """Return the file of the run's model; InputError where it is another one."""
    model = folder / "model" / f"{name}.safetensors"
    if not model.is_file() or not _same(safetensors.torch.load(model.read_bytes()), wanted):
        raise InputError(f"{model}: wanted the model of the last checkpoint, got another; put the run's own back")
    return model


def _shaped(scenario: Scenario, industry: str, **did: bool) -> words.Shaped:
    chosen = scenario.chosen is not None and industry in scenario.chosen.industries
    return words.Shaped(**{"centre": False, "radius": False, **did}, learner=chosen, expectation=False, columns=False)


def _check_terms(folder: Path, scenario: Scenario, record: dict[str, Any], name: str) -> str:
    """Return the leaver's industry; InputError for a run or a participant that cannot be taken out."""
    names = [participant.name for participant in scenario.roster]
    if name not in names:
        raise InputError(f"--participant: wanted one of {listed(names)}, got {name!r}")
    if (folder / words.FOLDER / f"{name}.json").exists():
        raise InputError(f"--participant: wanted a participant of this run, got {name}, which left it already")
    participant = scenario.participant(name)
    again = f"take {name} off the roster (`consortia participant remove`, or its lines in the scenario's file)"
    fresh = f"the others make a fresh release instead, which is charged to them: {again} and start a new run"
    retrain = f"train again instead, which is charged to the others: {again} and start a new run"
    contract = scenario.contract
    if contract.vertical is None and participant.industry in contract.industries:
        contract = contract.of(participant.industry)
    if contract.trust == "aggregate":
        raise InputError(
            f'{folder}: wanted noise of each participant\'s own (trust = "local"), got secure sums, of which the '
            f"coordinator has totals only: a total without {name} beside that with it would show {name}'s sums under "
            f"its own share of the noise, which is less than its ε needs; {fresh}"
        )
    if not contract.keeps_updates and (contract.sums is None or contract.trust != "local"):
        raise InputError(
            f'{folder}: wanted learner = "sums" with trust = "local", or keeps_updates = true, got {_kind(contract)}, '
            f"whose updates the coordinator does not keep, so nothing can be replayed; {retrain}"
        )
    if contract.grows:
        raise InputError(
            f"{folder}: wanted a run that does not grow, got one of several releases: what {name} sent lies in the "
            f"folder of each of them, and taking it out of all is not built; {fresh}, and delete these folders"
        )
    if record["status"] != "completed":
        raise InputError(f"{folder}: wanted a completed run, got one that {record['status']}; go on with --resume")
    if environment.hashes(folder) != record["files"]:
        raise InputError(
            f"{folder}: wanted the files whose hashes result.json names, got others; put the run's own back"
        )
    if participant.non_private:
        exact = "updates" if contract.keeps_updates else "sums"
        raise InputError(
            f"--participant: wanted a participant with noise of its own, got {name}, which is non-private: the model "
            f"without it beside the one with it would show its exact {exact}; {fresh}, and "
            "delete this run's folder"
        )
    return participant.industry


def _kind(contract: Contract) -> str:
    if contract.vertical is not None:
        return "a vertical run"
    trust = "" if contract.trust == "local" else f' with trust = "{contract.trust}"'
    return f'learner = "{contract.learner}"{trust}'


def _check_members(scenario: Scenario, latest: Checkpoint, name: str) -> tuple[str, ...]:
    """Return who remains; InputError for a leaver without noise, or where too few would be left."""
    industry = scenario.participant(name).industry
    multiplier = latest.memory[industry].get(f"{name}/multiplier")
    if multiplier is None or not float(multiplier) > 0:
        raise InputError(f"--participant: wanted a participant with noise of its own, got {name}, which sent none")
    part = scenario.of(industry)
    rest = [one for one in part.roster if one.name != name and _tensors(latest, one.industry, one.name)]
    remaining = tuple(sorted(one.name for one in rest if one.industry == industry))
    if not remaining:
        raise InputError(
            f"--participant: wanted somebody left in {industry}, got {name}, the last one; delete this run's folder"
        )
    if len(rest) < part.quorum:
        raise InputError(
            f"--participant: wanted at least {part.quorum} participants left (contract.round.quorum), got {len(rest)} "
            f"without {name}; delete this run's folder, or train again with others"
        )
    return remaining


def _tensors(state: Checkpoint, industry: str, name: str) -> tuple[str, ...]:
    """Return what a checkpoint holds of a participant, by name."""
    kept = state.memory.get(industry, {})
    return tuple(sorted(f"memory/{industry}/{tensor}" for tensor in kept if tensor.startswith(f"{name}/")))


def _without(scenario: Scenario, state: Checkpoint, industry: str, name: str) -> Checkpoint:
    """Return the checkpoint as the same messages of the others give it, under the same centre and radius."""
    part, gone = scenario.of(industry), set(_tensors(state, industry, name))
    kept = {one: tensor for one, tensor in state.memory[industry].items() if f"memory/{industry}/{one}" not in gone}
    group, released = state.groups[industry], released_sums(part, industry, kept)
    if released is not None:
        group = with_model(recipe(part.contract, industry), group, released)
    return replace(state, groups={**state.groups, industry: group}, memory={**state.memory, industry: kept})


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _change(old: torch.Tensor, new: torch.Tensor) -> words.Change:
    return words.Change(
        norm_before=float(old.norm()),
        norm_after=float(new.norm()),
        distance=float((new - old).norm()),
        largest=float((new - old).abs().max()),
    )


def _metrics(record: dict[str, Any], industry: str) -> dict[str, tuple[str, ...]]:
    """Return which metrics were released of the withdrawn model, by participant."""
    found = {
        name: tuple(
            sorted(
                [
                    *(kind for kind, line in seen["metrics"].items() if line.get("release")),
                    *(("groups",) if seen.get("groups") else ()),
                ]
            )
        )
        for name, seen in record["participants"].items()
        if seen["industry"] == industry
    }
    return {name: kinds for name, kinds in found.items() if kinds}


def _staged(file: Path, data: bytes) -> tuple[str, str]:
    """Write a file's next version beside it; return both hashes."""
    disk.replace(file.with_name(file.name + _STAGED), data)
    return _sha256(file), hashlib.sha256(data).hexdigest()


def _replaced(folder: Path, file: Path, data: bytes) -> words.Replaced:
    before, after = _staged(file, data)
    return words.Replaced(file=_named(folder, file), before=before, after=after)


def _replace(folder: Path, planned: words.LeaveCertificate) -> None:
    """Put the new files in place of the old ones; whatever is in its place already stays."""
    for one in planned.rewritten:
        file = folder / one.file
        staged = file.with_name(file.name + _STAGED)
        if _sha256(file) != one.after:
            if _sha256(file) != one.before or not staged.is_file() or _sha256(staged) != one.after:
                raise InputError(f"{file}: wanted the run's own file or its next version, got another; put it back")
            staged.replace(file)
        staged.unlink(missing_ok=True)
    for draft in planned.removed:
        (folder / draft.file).unlink(missing_ok=True)
    passport = folder / PASSPORT
    if passport.is_file() and _sha256(passport) == planned.withdrawn_passport:
        passport.replace(folder / f"passport-before-{planned.participant}-left.json")
    for file in (*files_of(folder), *sorted((folder / updates.FOLDER).glob("*.safetensors"))):
        with safetensors.safe_open(file, framework="pt") as opened:
            held = [one for one in opened.keys() if planned.participant in one.split("/")[2:]]  # noqa: SIM118
        if held:
            raise RunFailedError(f"{file}: wanted nothing of {planned.participant}, got {listed(held)}; not certified")


def _certify(folder: Path, planned: words.LeaveCertificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Sign and write the certificate, and let the record name it."""
    subjects = {one.file: one.after for one in planned.rewritten}
    file = folder / words.FOLDER / f"{planned.participant}.json"
    file.parent.mkdir(exist_ok=True)
    disk.write_json(file, signed(statement(words.LEAVE_TYPE, subjects, planned), key))
    record = read_record(folder / "result.json")
    record["left"] = {
        one.stated.participant: {
            "industry": one.stated.industry,
            "made": one.stated.made,
            "certificate_sha256": one.sha256,
        }
        for one in words.departures(folder)
    }
    if "fairness" in record:  # of the withdrawn model
        record["fairness"] = [one for one in record["fairness"] if one["industry"] != planned.industry]
    record["files"] = environment.hashes(folder)
    disk.write_json(folder / "result.json", record)


def _named(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
