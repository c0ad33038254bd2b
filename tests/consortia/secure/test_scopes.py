"""Several scopes are several sums: a trunk of six, an encoder of each three, heads that never leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from secure_town import Town, kind_of

from consortia.messages.envelope import decode
from consortia.participant import secure_sum as member_module
from consortia.terms.settle import layout, sizes
from consortia.trust.secure_sum.protocol import SumRequest, unpack
from privacy.secure_sum import fixed_point

SCOPES = {"encoder": "industry", "trunk": "consortium", "head": "private"}
TERMS = {
    "model": {"kind": "mlp", "hidden": [8, 8]},
    "local_steps": 1,
    "sampling_rate": 1.0,
    "clip": 1.0,
    "learning_rate": 0.5,
}
RATE = 0.8


@pytest.mark.end_to_end
@pytest.mark.parametrize("mode", ["one", "two"])
def test_every_scope_moves_by_the_sum_of_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The second step against the clipped sums, shared noise silenced; in mode two one bank drops out of it.

    The first moves heads only, which start at zero.
    """
    monkeypatch.setattr(fixed_point, "rounded_gaussian", lambda count, std, context: np.zeros(count, np.int64))
    seen: dict[str, Any] = {}
    genuine = member_module._sums

    def keep(work: Any, plan: Any, parts: Any, module: Any, noise: Any) -> Any:
        made = genuine(work, plan, parts, module, noise)
        return seen.setdefault(work.home.participant, made) if work.request.round == 2 else made

    monkeypatch.setattr(member_module, "_sums", keep)
    each, drops = (3, {}) if mode == "one" else (4, {"mode": "two", "drops": 1})
    town = Town(
        tmp_path, rounds=3, participants=each, factories=each, scopes=SCOPES,
        strategy={"name": "fedsgd", "server_learning_rate": RATE},
        industries={"bank": TERMS, "factory": TERMS}, secure={"min_cohort": 3, "spare": 1, **drops},
    )  # fmt: skip
    lost = "used-car" if mode == "two" else ""
    town.hook = lambda name, data, answer: None if kind_of(data)[:2] == ("train", 2) and name == lost else answer(data)
    assert town.run()["status"] == "completed"

    messages = {name: [decode(d) for d in town.sent[name] if kind_of(d)[0] == "train"] for name in town.homes}
    participants = {participant.name: participant for participant in town.scenario.roster if participant.name != lost}
    for group, name in (("*", "low"), ("bank", "new-car"), ("factory", "low")):
        members = [n for n, participant in participants.items() if group in {"*", participant.industry}]
        expected = sum(round(participants[n].units * 0.6) for n in members)  # q = 1
        moved = -RATE * np.sum([seen[n][group] for n in members], axis=0) / expected
        parts = layout(town.scenario.contract, participants[name].industry)[group]
        before, after = (
            np.concatenate([m.tensors[p].double().numpy().ravel() for p, _ in parts]) for m in messages[name][1:]
        )
        assert len(moved) == sizes(town.scenario.contract, participants[name].industry)[group] > 0
        assert np.allclose(after - before, moved, atol=1e-5)
        assert np.abs(moved).max() > 1e-4

    for name, participant in participants.items():
        message = messages[name][1]
        assert not any(parameter.startswith("head.") for parameter in message.tensors)  # heads stay at home
        cohorts = SumRequest.from_json(message.header["secure"]).cohorts
        assert {label for label, names in cohorts.items() if name in names} == {"*", participant.industry}
        assert [entry.state for entry in town.entries(name)] == ["committed"] * 3  # two sums, one charge a round
        (found, *_) = [unpack(reply) for reply in town.replies[name] if unpack(reply)]
        dimension = sum(sizes(town.scenario.contract, participant.industry).values())
        boxes = 8 * (12 + 8 * 33 + 16) if mode == "two" else 0
        assert found is not None
        assert len(found[1]) == 4 * dimension + 40 + boxes
