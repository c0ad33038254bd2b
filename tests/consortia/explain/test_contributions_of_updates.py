"""Who contributed to a run of steps: Shapley values of kept noisy updates, their noise, and who brings nothing."""

from __future__ import annotations

import importlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import APP
from numpy.typing import NDArray
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.coordinator import updates
from consortia.coordinator.checkpoint import Checkpoint, files_of, load, save, to_bytes
from consortia.coordinator.kept_grams import rounds_of_run
from consortia.learners import shapley
from consortia.learners.agreement import Round, agreement
from consortia.models.contributions import contributions_of_run
from consortia.reports.contributions import contribution_sections
from consortia.reports.page.render import page
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import Scenario, load_scenario
from consortia.terms.scopes import State, initial_groups

Array = NDArray[np.float64]
BANK = "bank"


def _generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _rounds(*grams: Array, weights: tuple[float, ...]) -> list[Round]:
    return [Round(np.asarray(gram, dtype=float), np.array(weights)) for gram in grams]


def test_two_participants_by_hand() -> None:
    """v({0}) = w1 g, v({1}) = w0 g, v of both = (w0 + w1) g; so 0 gets w1 g and 1 gets w0 g."""
    gram = np.array([[50.0, 2.0], [2.0, -7.0]])
    found = agreement(_rounds(gram, 3 * gram, weights=(0.25, 0.75)), _generator())
    assert found.values == pytest.approx([0.75 * 8, 0.25 * 8], abs=1e-12)
    assert found.total == pytest.approx(8.0, abs=1e-12)
    # (6 - 2)^2 / 2 * 2 rounds / 1 difference = 16 for g; Student's t of one degree of freedom.
    assert found.rooms == pytest.approx([12.7062 * 4 * 0.75, 12.7062 * 4 * 0.25], rel=1e-4)


def test_three_participants_by_hand() -> None:
    """Equal weights, <0,1> = 3, others 0: v({0}) = v({1}) = 1, v({0,1}) = 2, v({0,2}) = v({1,2}) = 1/2, v of all 1."""
    gram = np.array([[9.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    found = agreement(_rounds(gram, gram, weights=(1 / 3, 1 / 3, 1 / 3)), _generator())
    # 2 is worth 0 first, -1/2 after one of the others, -1 last: (2 * 0 + 2 * -1/2 + 2 * -1) / 6 = -1/2.
    assert found.values == pytest.approx([1.5, 1.5, -1.0], abs=1e-12)
    assert found.total == pytest.approx(2.0, abs=1e-12)
    assert found.rooms == pytest.approx([0, 0, 0], abs=1e-12)


def _brute_force(rounds: list[Round], count: int) -> list[float]:
    """Return Shapley values by the definition, over orders of joining."""

    def worth(members: frozenset[int]) -> float:
        total = 0.0
        for one in rounds:
            for j in range(count):
                others = [i for i in members - {j} if one.weights[i] > 0]
                if others:
                    weight = sum(one.weights[i] for i in others)
                    total += one.weights[j] * sum(one.weights[i] * one.gram[i, j] for i in others) / weight
        return total

    values = [0.0] * count
    for order in itertools.permutations(range(count)):
        for place, i in enumerate(order):
            values[i] += worth(frozenset(order[: place + 1])) - worth(frozenset(order[:place]))
    return [value / math.factorial(count) for value in values]


def _random_rounds(generator: np.random.Generator, count: int, rounds: int) -> list[Round]:
    found = []
    for _ in range(rounds):
        vectors = generator.normal(size=(count, 7)) + generator.normal(size=7)
        weights = generator.random(count)
        found.append(Round(vectors @ vectors.T, weights / weights.sum()))
    return found


def test_values_are_those_of_the_definition_and_sum_to_the_total() -> None:
    rounds = _random_rounds(_generator(1), 5, 3)
    rounds[1].weights[2] = 0.0  # did not answer
    rounds[1].gram[2, :] = rounds[1].gram[:, 2] = 0.0
    found = agreement(rounds, _generator())
    assert found.values == pytest.approx(_brute_force(rounds, 5), abs=1e-9)
    assert math.fsum(found.values) == pytest.approx(found.total, abs=1e-9)
    assert not found.sampled
    alone = agreement([rounds[0], Round(np.zeros((5, 5)), rounds[1].weights)], _generator())
    both = agreement([rounds[0], rounds[1]], _generator())
    assert both.values[2] == pytest.approx(alone.values[2], abs=1e-12)


def test_orders_of_many_are_sampled_and_the_sum_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = _random_rounds(_generator(2), 8, 4)
    exact = agreement(rounds, _generator())
    monkeypatch.setattr(shapley, "MOST_EXACT", 6)
    found = agreement(rounds, _generator())
    assert found.sampled
    assert math.fsum(found.values) == pytest.approx(exact.total, abs=1e-9)
    assert np.abs(found.values - exact.values).max() < 0.1 * np.abs(exact.values).mean()


def test_noise_moves_no_value_on_average_and_intervals_hold() -> None:
    """One's own noise is in no value: the diagonal is not read."""
    generator = _generator(3)
    signal = generator.normal(size=(4, 30)) * 0.3 + generator.normal(size=30)
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    true = agreement([Round(signal @ signal.T, weights)] * 12, _generator())
    values, held = [], []
    for _ in range(60):
        noisy = [signal + 3 * generator.normal(size=signal.shape) for _ in range(12)]
        found = agreement([Round(one @ one.T, weights) for one in noisy], _generator())
        values.append(found.values)
        held.append(np.abs(found.values - true.values) <= found.rooms)
    error = np.std(values, axis=0, ddof=1) / math.sqrt(len(values))
    assert (np.abs(np.mean(values, axis=0) - true.values) < 4 * error).all()
    assert 0.88 <= float(np.mean(held)) <= 0.995


@pytest.mark.parametrize(("rounds", "count"), [(1, 3), (3, 1), (0, 0)])
def test_too_little_is_refused(rounds: int, count: int) -> None:
    with pytest.raises(ValueError, match="wanted 2 rounds and 2 participants"):
        agreement([Round(np.zeros((count, count)), np.ones(count))] * rounds, _generator())


def scenario(rounds: int, **terms: Any) -> Scenario:
    """Return the five banks whose network's updates are kept."""
    loaded = load_scenario("banks-network")
    data = {**json.loads(loaded.contract.canonical()), "rounds": rounds, "keeps_updates": True}
    strategy = {**data["strategy"], **terms.pop("strategy", {})}
    if strategy["name"] == "fedsgd":
        data["industries"][BANK]["local_steps"] = 1
    contract = contract_from_json(json.dumps({**data, "strategy": strategy, **terms}))
    return loaded.model_copy(update={"contract": contract})


def names_of(of: Scenario) -> list[str]:
    return sorted(one.name for one in of.roster)


def _written(folder: Path, of: Scenario, absent: tuple[int, str] = (0, "")) -> dict[tuple[int, str], torch.Tensor]:
    """Write kept updates and a checkpoint by the coordinator's own code; return each change as one vector."""
    folder.mkdir()
    (folder / "scenario.json").write_text(of.to_json(), encoding="utf-8")
    groups: dict[str, State] = initial_groups(of.contract, [BANK])
    gradient = of.contract.strategy.strategy().fit.gradient
    generator, vectors, history = torch.Generator().manual_seed(1), {}, []
    for number in range(1, of.contract.rounds + 1):
        names = [name for name in names_of(of) if (number, name) != absent]
        (model,) = groups.values()
        changes = {
            name: {p: torch.randn(t.shape, generator=generator) * 0.1 for p, t in model.items()} for name in names
        }
        for name, change in changes.items():
            vectors[number, name] = torch.cat([change[p].double().flatten() for p in sorted(change)])
        replies = {
            name: {p: t if gradient else t + model[p] for p, t in change.items()} for name, change in changes.items()
        }
        updates.keep(folder, of, number, dict.fromkeys(names, model), replies, dict.fromkeys(names, 2.0), {})
        history.append({"round": number, "replies": names, "too_few_replies": []})
    save(folder, Checkpoint(of.contract.rounds, groups, {}, {}, history), final=groups)
    return vectors


@pytest.mark.parametrize(("strategy", "scale"), [("fedavg", 0.5 * 2), ("fedadam", 0.5 * 2), ("fedsgd", 1.0)])
def test_a_rounds_gram_matrix_is_that_of_the_kept_updates(strategy: str, scale: float, tmp_path: Path) -> None:
    of = scenario(3, strategy={"name": strategy, "weighting": "declared"})
    names = names_of(of)
    vectors = _written(tmp_path / "run", of, absent=(2, names[1]))
    found, rounds = rounds_of_run(tmp_path / "run", of, BANK)
    assert found == names
    for number, one in enumerate(rounds, start=1):
        for i, j in itertools.product(range(5), repeat=2):
            pair = (vectors.get((number, names[i])), vectors.get((number, names[j])))
            wanted = 0.0 if pair[0] is None or pair[1] is None else float(pair[0] @ pair[1]) / scale
            assert one.gram[i, j] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert one.weights.sum() == pytest.approx(1.0)
    units = np.array([of.participant(name).units for name in names], dtype=float)
    assert rounds[0].weights == pytest.approx(units / units.sum())
    assert rounds[1].weights[1] == 0.0


def test_a_round_that_moved_nothing_counts_nothing(tmp_path: Path) -> None:
    of = scenario(3)
    _written(tmp_path / "run", of)
    whole = rounds_of_run(tmp_path / "run", of, BANK)[1]
    file = files_of(tmp_path / "run")[-1]
    state = load(file)
    state.history[1]["too_few_replies"] = [BANK]
    file.write_bytes(to_bytes(state))
    kept = rounds_of_run(tmp_path / "run", of, BANK)[1]
    assert [one.gram.sum() for one in kept] == [whole[0].gram.sum(), whole[2].gram.sum()]


def test_the_command_and_the_report_say_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _written(folder, scenario(3))
    call = CliRunner().invoke(APP, ["contributions", str(folder), "--json"])
    assert call.exit_code == 0, call.output
    (found,) = json.loads(call.output)
    assert found["released"] == "updates"
    assert math.fsum(line["value"] for line in found["participants"]) == pytest.approx(found["total"], abs=1e-9)
    call = CliRunner().invoke(APP, ["contributions", str(folder)])
    assert call.exit_code == 0, call.output
    assert "no training of a coalition" in " ".join(call.output.split())
    text = page("Who", contribution_sections(folder))
    assert "no training of a coalition" in text
    assert "squared loss" not in text


def test_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    for number, (of, match) in enumerate(
        [
            (scenario(1), "at least 2 rounds"),
            (scenario(2, strategy={"name": "median", "weighting": "equal"}), "got median"),
            (load_scenario("banks-network"), "keeps_updates = true"),
            (load_scenario("secure-banks-network"), 'trust = "aggregate"'),
        ]
    ):
        folder = tmp_path / str(number)
        if of.contract.keeps_updates:
            _written(folder, of)
        else:
            folder.mkdir()
            (folder / "scenario.json").write_text(of.to_json(), encoding="utf-8")
        with pytest.raises(InputError, match=match):
            contributions_of_run(folder)
        assert contribution_sections(folder) == []
    folder = tmp_path / "gone"
    _written(folder, scenario(2))
    with pytest.raises(InputError, match="wanted one of bank"):
        contributions_of_run(folder, ["hospital"])
    next((folder / updates.FOLDER).iterdir()).unlink()
    with pytest.raises(InputError, match="put the run's own back"):
        contributions_of_run(folder)


@pytest.mark.end_to_end
@pytest.mark.parametrize("planted", ["made up", "flipped"])
def test_made_up_rows_and_flipped_labels_are_last_in_a_real_run(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise. The benchmark, whose participants train in this process, has the numbers with noise."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    bench = importlib.import_module("contributions_of_updates")
    found = bench.play(math.inf, planted, seed=1, rounds=5, units=300)
    assert found.participants[-1].participant == bench.NAMES[-1]
    if planted == "flipped":  # made-up rows bring nothing, which need not be harm
        assert found.participants[-1].verdict == "harms"
    assert math.fsum(one.value for one in found.participants) == pytest.approx(found.total, abs=1e-9)
