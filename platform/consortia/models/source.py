"""Finds the models of a run: at the participant what it kept, at the coordinator what was released."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

from clients import registry as industries
from clients.tables import known_from
from consortia.common.errors import InputError
from consortia.common.run_folders import check_finished, run_folder
from consortia.common.strict import read_record
from consortia.coordinator import coalitions
from consortia.models.choice import check_choice
from consortia.participant.own_model import EDITED, FEDERATED, About, OwnModel, from_bytes, to_bytes
from consortia.terms.scenario import scenario_from_json
from consortia.terms.scopes import State, build_module, check_like, load_state, shared_names, travelling
from consortia.trust.passport import known_passport
from consortia.trust.passport.leave import check_whole, departures, withdrawn
from privacy.events import RELATION

__all__ = [
    "Found",
    "check_leaves",
    "label_owner_folder",
    "of_coordinator",
    "of_participant",
]

EDITED_MANIFEST = "edited.json"


@dataclass(frozen=True)
class Found:
    """A model, its safetensors file, what is promised about it, and why it was withdrawn ("" where it was not)."""

    model: OwnModel
    about: About
    data: bytes
    guarantee: dict[str, Any]
    passport: dict[str, str] = field(default_factory=dict)
    withdrawn: str = ""


def of_participant(run: str, participant: str, choice: str) -> Found:
    """Return a model that lies in the participant's own folder; its hash must be the one in the receipt.

    Parameters
    ----------
    run : str
        The folder of a simulated run, or the id of a run that this participant took part in (`$CONSORTIA_HOME`).
    choice : {"", "kept", "federated", "joined", "released", "edited"}
        What the participant keeps (its receipt says which), the federated model, its best own model stacked with that
        one, the model of released sums alone, or the one it edited. "" is the one that may leave.

    Raises
    ------
    InputError
        There is no such run, participant or model, or the file was altered.
    """
    if choice:
        check_choice(choice)
    known_from(Path(run))
    folder = run_folder(run, participant)
    receipt = read_record(folder / "receipt.json")
    if "models" not in receipt:
        raise InputError(
            f"{folder}: wanted a run whose receipt names models, got a {receipt.get('role', 'run without them')}; of "
            "a vertical run `consortia predict` takes the label owner's own model, `consortia run --resume RUN "
            "--batches N` scores with the partners; --engine vectorized and older runs kept no model"
        )
    known = dict(receipt["models"])
    if (folder / "models" / EDITED_MANIFEST).is_file():
        known["edited"] = read_record(folder / "models" / EDITED_MANIFEST)["sha256"]
    choice = choice or ("released" if "released" in known else FEDERATED)
    if choice not in known:
        raise InputError(f"--model: wanted one of {', '.join(known)} in this run, got {choice!r}")
    file = folder / "models" / f"{choice}.safetensors"
    if not file.is_file():
        raise InputError(f"{file}: wanted the model that the receipt names, got nothing there")
    data = file.read_bytes()
    if (got := hashlib.sha256(data).hexdigest()) != known[choice]:
        raise InputError(f"{file}: wanted sha256 {known[choice]}, got {got}; the file was altered")
    model, about = from_bytes(data, str(file))
    said = {sentence for place in (Path(run), folder) if (sentence := withdrawn(place, about.industry))}
    return Found(model, about, data, _own_guarantee(about, receipt), known_passport(Path(run)), "; ".join(sorted(said)))


def label_owner_folder(run: str, participant: str) -> Path | None:
    """Return the participant's folder of a vertical run that it owns the label of; None for any other run."""
    folder = run_folder(run, participant)
    receipt = read_record(folder / "receipt.json")
    return folder if receipt.get("role") == "label owner" else None


def check_leaves(found: Found) -> None:
    """Refuse to hand on a model that saw own rows without DP (invariant 17), or one that was withdrawn.

    Raises
    ------
    InputError
    """
    if found.about.kind != FEDERATED:
        released = "released" if found.about.contract.sums is not None else FEDERATED
        saw = "saw the participant's own rows without noise"
        if found.about.kind == EDITED:
            saw = "was changed by somebody who may know the participant's rows"
        raise InputError(
            f"--model: wanted a released model, got one of kind {found.about.kind!r}, which {saw} and never leaves; "
            f"`consortia predict` uses it at home, `--model {released}` exports what anybody may have"
        )
    if found.withdrawn:
        raise InputError(
            f"--model: wanted a model that is in use, got a withdrawn one: {found.withdrawn}; the coordinator has the "
            f"new one (`consortia export RUN --industry {found.about.industry}`)"
        )


def of_coordinator(run: str, industry: str, without: Sequence[str] = ()) -> Found:
    """Return an industry's federated model from the coordinator's run folder: released values only.

    Parameters
    ----------
    without : sequence of str
        Participants whose sums do not count (the learner `sums` with local noise).

    Raises
    ------
    InputError
        There is no such run or industry, somebody's leaving was interrupted, or a part of the model is private: then
        only participants have whole models.
    """
    folder = Path(run)
    check_whole(folder)
    check_finished(folder, "scenario.json", "result.json")
    known_from(folder)
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    contract = scenario.contract if industry not in scenario.contract.industries else scenario.contract.of(industry)
    result = read_record(folder / "result.json")
    if contract.vertical is not None or industry not in contract.industries:
        there = "none (vertical)" if contract.vertical is not None else ", ".join(contract.industries)
        raise InputError(f"--industry: wanted one of {there}; got {industry!r}")
    network = build_module(contract, industry)
    names = network.state_dict().keys()
    if private := sorted(names - set(shared_names(names, contract))):
        raise InputError(f"--industry {industry}: {private[0]} is private, so only a participant has the whole model")
    wanted = travelling(network, contract)
    state: State = {}
    for name in ("consortium", industry):
        file = folder / "model" / f"{name}.safetensors"
        state |= safetensors.torch.load(file.read_bytes()) if file.is_file() else {}
    state = {name: tensor for name, tensor in state.items() if name in wanted}
    try:
        check_like(wanted, state)
    except ValueError as error:
        raise InputError(f"{folder / 'model'}: {error}") from None
    load_state(network, coalitions.of_run(folder, scenario, industry, without=without) if without else state)
    model = OwnModel(industries.get(industry).schema.target, network)
    gone = {one.stated.participant for one in departures(folder) if one.stated.industry == industry}
    detail = f"without {', '.join(sorted({*without, *gone}))}" if without or gone else ""
    about = About("", result["run_id"], industry, FEDERATED, detail, contract)
    members = {
        name: participant for name, participant in result["participants"].items() if participant["industry"] == industry
    }
    if "central" in result:
        guarantee = _central(result["central"])
    else:
        guarantee = {"participants": {name: _account(participant["epsilon"]) for name, participant in members.items()}}
    return Found(model, about, to_bytes(model, about), guarantee, known_passport(folder))


def _account(epsilon: dict[str, Any]) -> dict[str, Any]:
    """Return an epsilon with all that it needs to mean anything."""
    return {
        "epsilon": epsilon["run"],
        "delta": epsilon["delta"],
        "unit": epsilon["unit"],
        "relation": epsilon.get("relation", RELATION),
        "horizon": "this run",
        "non_private": epsilon["non_private"],
    }


def _central(account: dict[str, Any]) -> dict[str, Any]:
    """Return what holds towards whoever gets a model whose noise a trusted coordinator added."""
    epsilon = account["epsilon"]["models_only"]
    return {
        "epsilon": epsilon,
        **{key: account[key] for key in ("delta", "unit", "relation", "horizon")},
        "non_private": epsilon is None,
        "towards": "those who see models only; the coordinator is trusted",
    }


def _own_guarantee(about: About, receipt: dict[str, Any]) -> dict[str, Any]:
    """Return what a participant may say about a model to somebody who gets it."""
    if about.kind == EDITED:
        reason = "edited by hand by somebody who may know the participant's rows: for use at home"
        return {"epsilon": None, "non_private": True, "reason": reason}
    if about.kind != FEDERATED:
        reason = "fitted to the participant's own rows without DP: for use at home; whoever gets it may learn of them"
        return {"epsilon": None, "non_private": True, "reason": reason}
    if "private" in about.contract.scopes.named:
        reason = "it holds the participant's private parts, which are no release: for use at home"
        return {"epsilon": None, "non_private": True, "reason": reason}
    return _central(receipt["central"]) if "central" in receipt else _account(receipt["epsilon"])
