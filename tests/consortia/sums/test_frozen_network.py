"""A frozen network below the learner `sums`: the neighbour game, rows on which it fails, its file, what is refused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds_of_models as kinds
import numpy as np
import pytest
import safetensors.torch
import torch
from block_games import play
from packages import Packages

from clients import networks, registry
from consortia.audit import statistics_games
from consortia.audit.settings import Audit
from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.learners.sums.encoder import Encoder
from consortia.models.explain.run import explain_run
from consortia.models.onnx_file import TOLERANCE, largest_difference, to_onnx
from consortia.participant.own_model import from_bytes
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.pretrained import network_of
from consortia.terms.recipe import recipe
from consortia.terms.scenario import Scenario, load_scenario
from consortia.terms.scopes import build_module, initial_groups

pytestmark = pytest.mark.usefixtures("quiet_participants")
CNN = {"kind": "cnn", "hidden": [5], "options": {"channels": [3, 4]}}
PLANTED = "4711.4711"
#: Of scenes with one message each.
SEEDS = (2, 3)
#: It fails at the row `BAD`, in the way that `HOW` says; `SCALE` makes outputs as extreme as floats go.
FAILING = """
from dataclasses import dataclass
import torch
from torch import nn
from clients.networks import NetworkKind
from clients.shapes import Image

BAD, HOW, SCALE = [], "raises", 1.0

@dataclass(frozen=True)
class Options:
    pass

class Failing(nn.Module):
    def __init__(self, shape, width, options):
        super().__init__()
        self.last = nn.Linear(shape.height * shape.width, width)

    def forward(self, x):
        out = self.last(torch.flatten(x, 1)) * SCALE
        for row in x:
            if row.flatten().tolist() == BAD:
                if HOW == "raises":
                    raise ValueError(f"4711.4711 {row.tolist()}")
                if HOW == "exits":
                    raise SystemExit("4711.4711")
                return out * float("nan") if HOW == "no number" else out[:, :1]
        return out

NETWORK = NetworkKind(options=Options, build=Failing, shapes=(Image,))
"""


def _data(folder: Path, model: dict[str, Any] = CNN, **sums: Any) -> dict[str, Any]:
    """Return the contract of digits with a network of random numbers below sums."""
    terms = IndustryTerms.model_validate({"model": model, **kinds.STEPS}, strict=False)
    generator = torch.Generator().manual_seed(3)
    network = network_of(terms, "digits", 0).state_dict()
    file = folder / "encoder.safetensors"
    safetensors.torch.save_file({k: torch.randn(t.shape, generator=generator) for k, t in network.items()}, file)
    init = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    data = {"schema": 1, "wire": 1, "rounds": 2, "learner": "sums", "releases": ["sums"], "sums": sums}
    return {**data, "industries": {"digits": {"model": model, "init": init, **kinds.STEPS}}}


def _contract(data: dict[str, Any]) -> Contract:
    return contract_from_json(json.dumps(data))


def _scenario(data: dict[str, Any]) -> Scenario:
    return load_scenario("digits").model_copy(update={"contract": _contract(data)})


def test_no_unit_moves_a_block_by_more_than_its_event_was_charged(tmp_path: Path) -> None:
    games = play(Audit(_scenario(_data(tmp_path)), tmp_path / "audit", quick=True), SEEDS)
    assert {game.path for game in games} == {"sums, message 1", "sums, message 2"}
    assert not [game for game in games if game.lost]
    assert max(game.ratio for game in games) > 0.5


def test_outputs_that_depend_on_other_rows_lose_the_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Encoder.outputs

    def less_the_mean(self: Encoder, features: torch.Tensor) -> torch.Tensor:
        found = real(self, features)
        return found - 5 * found.mean(dim=0)

    monkeypatch.setattr(Encoder, "outputs", less_the_mean)
    audit = Audit(_scenario(_data(tmp_path)), tmp_path / "audit", quick=True)
    assert [game for game in play(audit, range(2)) if game.lost]


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network's module, and a function from rows that are left out to what a participant noised and answered."""
    packages = Packages(tmp_path / "packages", monkeypatch)
    packages.install("own", f"[{networks.GROUP}]\nfailing = failing_network:NETWORK\n", failing_network=FAILING)
    scenario = _scenario(_data(tmp_path, {"kind": "torch:failing", "hidden": [4]}))
    audit = Audit(scenario, tmp_path / "audit", quick=True)
    participant = scenario.roster[0]
    pool = audit.pool(participant)
    rows = [int(row) for row in pool.of("train")[:12]]
    contract = statistics_games.stated(scenario.contract, "digits")
    start = statistics_games.shared_start(contract, "digits")
    bench = audit.bench(participant, unit="record", epsilon=8.0, delta=1e-7)

    def told(run: str, message: int, left: int | None = None) -> statistics_games.Told:
        frame = pool.frame.iloc[[row for row in rows if row != left]]
        return statistics_games.ask(bench, contract, run, message, start, pool.write(frame))

    module = sys.modules["failing_network"]
    features = pool.table.inputs["features"][rows[3]]
    return module, told, rows[3], features.tolist()


@pytest.mark.parametrize(
    ("how", "message"), [("raises", 1), ("raises", 2), ("exits", 1), ("no number", 1), ("another shape", 2)]
)
def test_a_row_on_which_the_network_fails_adds_nothing_and_moves_no_other_bit(
    failing: Any, how: str, message: int, caplog: pytest.LogCaptureFixture
) -> None:
    module, told, bad, row = failing
    module.HOW = how
    without = told("without", message, left=bad)
    whole = told("whole", message)
    module.BAD = row
    failed = told("failed", message)
    assert [one.status for one in (without, whole, failed)] == ["OK"] * 3
    assert failed.multipliers == whole.multipliers
    for less, more, fails in zip(without.notes, whole.notes, failed.notes, strict=True):
        assert np.array_equal(less.exact, fails.exact)
        assert not np.array_equal(more.exact, fails.exact)
    assert PLANTED not in caplog.text


def test_a_failure_that_takes_other_rows_along_is_caught(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_up(self: Encoder, features: torch.Tensor) -> torch.Tensor:
        return torch.full((len(features), self.width), torch.nan, dtype=torch.float64)

    monkeypatch.setattr(Encoder, "_one_by_one", gives_up)
    with pytest.raises(AssertionError):
        test_a_row_on_which_the_network_fails_adds_nothing_and_moves_no_other_bit(failing, "raises", 2, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e38, float("inf")])
def test_extreme_outputs_move_no_block_further_than_its_bound(failing: Any, scale: float) -> None:
    module, told, left, _ = failing
    module.SCALE = scale
    for message in (1, 2):
        whole, less = told(f"whole-{message}", message), told(f"less-{message}", message, left=left)
        for one, other, multiplier in zip(whole.notes, less.notes, whole.multipliers, strict=True):
            assert np.linalg.norm(one.noised - other.noised) <= one.deviation / multiplier * (1 + 1e-9)
            assert np.isfinite(one.exact).all()


def test_only_what_is_released_is_in_a_message(tmp_path: Path) -> None:
    contract = _contract(_data(tmp_path))
    sent = initial_groups(contract, ["digits"])["digits"]
    assert set(sent) == {"encoder.centre", "encoder.radius", "head.weights"}
    assert sent["encoder.centre"].shape == (5,)  # what the contract says, whatever the images
    rule = recipe(contract, "digits")
    assert rule.lengths(2) == (6 * 7 // 2, 6 * 9)
    module = build_module(contract, "digits")
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_participant_without_the_file_refuses_and_pays_nothing(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = make_site("north", "digits")
    data = _data(tmp_path)
    site.scenario = _scenario(data)
    site.policy(lambda policy: policy["allow"].update(contracts="any", releases=["sums"]))
    away = {**data, "seed": 5}  # another contract: the first one's network is known to this process
    away["industries"]["digits"]["init"]["file"] = str(tmp_path / "nowhere")
    for kind in ("ready", "train"):
        reply = site.ask(1, kind=kind, contract=_contract(away).canonical())
        assert reply.header["code"] == "NO_PRETRAINED_FILE", reply.header
    with site.ledger() as ledger:
        assert not ledger.entries()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init": None}, r"no model, init, clip.*model and init together are a frozen network below the sums"),
        ({"model": {"kind": "linear", "hidden": []}}, "no model, init, clip"),
        ({"freeze": ["encoder.*"]}, "no model, init, clip"),
        ({"lora": {"rank": 2}}, "no model, init, clip"),
        ({"learning_rate": 0.5}, "no model, init, clip"),
    ],
)
def test_what_does_not_go_below_sums_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    data = _data(tmp_path)
    data["industries"]["digits"].update(change)
    with pytest.raises(InputError, match=words):
        _contract(data)


def test_a_top_up_and_another_learner_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no sums.grows with a network in industries.digits: a top-up is of columns"):
        _contract(_data(tmp_path, grows=True))
    data = {**_data(tmp_path), "learner": "additive", "additive": {}, "releases": ["additive"]}
    del data["sums"]
    with pytest.raises(InputError, match=r"no model, init, clip.*: nothing takes steps"):
        _contract(data)


def test_a_kind_with_a_head_of_its_own_and_a_file_that_does_not_fit_are_named(tmp_path: Path) -> None:
    data = _data(tmp_path)
    data["industries"]["digits"]["model"] = {**CNN, "hidden": [6]}
    with pytest.raises(InputError, match=r"init.file: .*wanted shape"):
        recipe(_contract(data), "digits")
    data["industries"]["digits"]["model"] = {"kind": "gru", "hidden": [5]}
    with pytest.raises(InputError, match=r"contract.industries.digits.*kind 'gru': wanted a client whose rows are"):
        recipe(_contract(data), "digits")


@pytest.mark.end_to_end
@pytest.mark.parametrize("secure", [False, True])
def test_a_run_ends_with_receipts_files_and_an_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    monkeypatch.setattr(registry, "_held", {"tiny_cnn": kinds.client_of("cnn")})

    def change(contract: dict[str, Any]) -> None:
        kinds.below_sums(contract)
        if secure:
            contract.update(trust="aggregate", secure=kinds.SECURE)

    options = Options(scenario=kinds.write(tmp_path, "cnn", change), out=tmp_path / "runs", seed=1)
    outcome = execute(prepare(options), options)
    assert outcome.result["status"] == "completed"
    home = next(iter(outcome.job.homes.values())).folder / "runs" / outcome.job.run_id
    receipt = json.loads((home / "receipt.json").read_text(encoding="utf-8"))
    assert {"local", "control", "federated", "joined"} <= set(receipt["metrics"]["accuracy"])
    sample = kinds.client_of("cnn").synthesise(np.random.default_rng(0), 20, "one")
    for file in sorted((home / "models").glob("*.safetensors")):
        model, about = from_bytes(file.read_bytes(), file.name)
        if file.stem == "released":
            assert largest_difference(to_onnx(model, about), model, about, sample) <= TOLERANCE
    (explained,) = explain_run(outcome.job.folder)
    assert explained.effects
