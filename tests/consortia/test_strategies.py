"""Strategies as a scenario names them: options, what fits a roster, real training, whole runs, resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from noise_contexts import TEST

from consortia.common.errors import InputError
from consortia.coordinator.aggregation import aggregate, controls, honest_bound
from consortia.coordinator.checkpoint import Checkpoint, load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import data, training
from consortia.participant.handle import handle
from consortia.planning.compatibility import cautions, fits_with
from consortia.planning.plan import make_plans
from consortia.terms.policy import load_policy
from consortia.terms.scenario import Scenario, find_scenario, load_scenario, scenario_from_json
from consortia.terms.scopes import CONTROL, check_like, for_participant, initial_groups
from privacy.randomness import seeded_generator
from strategies.registry import NAMES

#: Every strategy with options that fit seven banks.
CHOICES: dict[str, dict[str, Any]] = {
    **{key: {} for key in ("fedavg", "fednova", "scaffold", "cyclic", "semi-sync", "median", "geometric-median")},
    **{key: {} for key in ("krum", "bulyan", "norm-bound")},
    "fedsgd": {"server_learning_rate": 0.5},
    "fedprox": {"options": {"mu": 1.0}},
    "qfedavg": {"options": {"q": 2.0}},
    "clustered": {"options": {"after": 1, "least": 1, "separation": 0.0}},
    "fedasync": {"options": {"alpha": 0.5, "mu": 0.1}},
    "fedbuff": {"options": {"buffer_size": 2, "exponent": 1.0}},
    "fedadagrad": {"server_learning_rate": 0.1},
    "fedadam": {"server_learning_rate": 0.1, "options": {"beta_1": 0.5}},
    "fedyogi": {"server_learning_rate": 0.1, "options": {"tau": 0.01}},
    "server-optimizer": {"server_learning_rate": 0.1, "options": {"optimizer": "adam", "betas": [0.9, 0.99]}},
    "trimmed-mean": {"options": {"attackers": 2}},
    "multi-krum": {"options": {"attackers": 1, "select": 2}},
}
#: Participants of a scenario's own that sit twice at the table, so that Bulyan has the seven it wants.
TWINS = {"new-car-2": "new-car", "used-car-2": "used-car"}


def _scenario(
    name: str = "fedavg",
    *,
    scenario: str = "banks-network",
    rounds: int = 2,
    terms: dict[str, Any] | None = None,
    least: bool = False,
    most: int | None = None,
    **keys: Any,
) -> Scenario:
    data = load_scenario(scenario).with_overrides(rounds=rounds).model_dump(mode="python", by_alias=True)
    data["contract"]["strategy"] |= {"name": name, "weighting": "equal", **keys}
    data["contract"]["releases"] = ["update", "metrics"] if name == "qfedavg" else ["update"]
    data["contract"]["max_participations"] = most
    for rules in data["contract"]["industries"].values():
        rules.update({"local_steps": 1} if name == "fedsgd" else {}, **(terms or {}))
    if least:  # as few as the strategy takes, at least two
        participants = {participant["name"]: participant for participant in data["roster"]}
        data["roster"] = [*data["roster"], *({**participants[old], "name": new} for new, old in TWINS.items())]
        wanted = scenario_from_json(json.dumps(data)).contract.strategy.strategy().minimum_participants
        data["roster"] = data["roster"][: max(2, wanted)]
    return scenario_from_json(json.dumps(data))


def _file(tmp_path: Path, scenario: Scenario) -> str:
    import tomli_w

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    path = tmp_path / f"{scenario.name}.toml"
    path.write_text(tomli_w.dumps(plain(scenario.model_dump(mode="python", by_alias=True))), encoding="utf-8")
    policies = find_scenario(scenario.name).parent / "policies" / scenario.name
    target = tmp_path / "policies" / scenario.name
    target.mkdir(parents=True, exist_ok=True)
    for policy in policies.glob("*.toml"):
        text = policy.read_text(encoding="utf-8")
        if "metrics" in scenario.contract.releases:
            text = text.replace('["update"]', '["update", "metrics"]').replace(
                "exact_metrics = false", "exact_metrics = true"
            )
        (target / policy.name).write_text(text, encoding="utf-8")
        for new in (new for new, old in TWINS.items() if old == policy.stem):
            twin = text.replace(f'participant = "{policy.stem}"', f'participant = "{new}"')
            (target / f"{new}.toml").write_text(twin, encoding="utf-8")
    return str(path)


def test_every_strategy_is_tried_here() -> None:
    assert set(CHOICES) == set(NAMES), "CHOICES: add a line for a new strategy, {} for defaults"


#: One of a kind: a mean, a rule among single updates, control variates, no rounds, several models.
_QUICK = {"fedavg", "krum", "scaffold", "fedbuff", "clustered"}


def _few_quick(names: Iterable[str]) -> list[Any]:
    """Return every name, those beside `_QUICK` for the end-to-end tests."""
    return [name if name in _QUICK else pytest.param(name, marks=pytest.mark.end_to_end) for name in names]


@pytest.fixture
def no_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured at home after the last round has no part in the model, and takes most of a short run."""
    monkeypatch.setattr(Coordinator, "_evaluate", lambda *_: None)


@pytest.mark.usefixtures("no_receipts")
@pytest.mark.parametrize(
    ("name", "epsilon"),
    [*((name, "inf" if name == "qfedavg" else "3") for name in NAMES), ("norm-bound", "inf"), ("fedprox", "inf")],
)
def test_a_scenario_can_name_it(name: str, epsilon: str, tmp_path: Path) -> None:
    keys = dict(CHOICES.get(name, {}))
    if name == "norm-bound" and epsilon == "inf":
        keys["options"] = {"norm": 1.0}
    scenario = _scenario(name, least=True, **keys).with_overrides(epsilon=[epsilon])
    assert scenario_from_json(scenario.to_json()).contract.sha256() == scenario.contract.sha256()
    make_plans(scenario)
    options = Options(scenario=_file(tmp_path, scenario), out=tmp_path / "runs", epsilon=(epsilon,))
    outcome = execute(prepare(options), options)
    assert outcome.result["status"] == "completed"
    assert [line["too_few_replies"] for line in outcome.result["history"]] == [[], []]
    model = safetensors.torch.load((outcome.job.folder / "model" / "bank.safetensors").read_bytes())
    start = initial_groups(scenario.contract, ["bank"])["bank"]
    assert all(torch.isfinite(tensor).all() for tensor in model.values())
    assert any(not torch.equal(model[n], start[n]) for n in start)


@pytest.mark.usefixtures("no_receipts")
@pytest.mark.parametrize("name", _few_quick(NAMES))
def test_a_resumed_run_is_identical_to_the_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {**CHOICES.get(name, {}), **({"options": {"norm": 1.0}} if name == "norm-bound" else {})}
    file = _file(tmp_path, _scenario(name, rounds=3, least=True, terms={"local_steps": 1}, **keys))

    def model(folder: Path) -> dict[str, torch.Tensor]:
        return safetensors.torch.load((folder / "model" / "bank.safetensors").read_bytes())

    options = Options(scenario=file, out=tmp_path / "whole", epsilon=("inf",))
    whole = execute(prepare(options), options).job.folder
    real = Coordinator._keep

    def dies_after_round_1(self: Coordinator, state: Checkpoint) -> None:
        real(self, state)
        if state.round == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Coordinator, "_keep", dies_after_round_1)
    options = Options(scenario=file, out=tmp_path / "broken", epsilon=("inf",))
    job = prepare(options)
    with pytest.raises(KeyboardInterrupt):
        execute(job, options)
    monkeypatch.setattr(Coordinator, "_keep", real)
    again = Options(scenario="", resume=job.folder)
    execute(prepare(again), again)
    left, right = model(whole), model(job.folder)
    assert all(torch.equal(left[n], right[n]) for n in left)
    kept = [load_latest(folder) for folder in (whole, job.folder)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert kept[0].memory.keys() == kept[1].memory.keys()
    for group, named in kept[0].memory.items():
        assert named.keys() == kept[1].memory[group].keys()
        assert all(torch.equal(tensor, kept[1].memory[group][n]) for n, tensor in named.items())
    assert bool(kept[0].memory) == (
        name in {"clustered", "scaffold", "fedadagrad", "fedadam", "fedyogi", "server-optimizer"}
    )


@pytest.mark.parametrize("epsilon", ["inf", "3"])
def test_real_training_moves_by_mu(
    epsilon: str, make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise is seeded here, so that only mu can make a difference."""
    monkeypatch.setattr(training, "fresh_generator", lambda _: seeded_generator("test"))
    site = make_site("new-car", "banks-network")
    policy = load_policy(site.home.policy, simulation=True)
    terms = policy.dataset["credit"]
    allowance = None if epsilon == "inf" else policy.budget.run.budget()

    def move(mu: float | None) -> tuple[float, dict[str, torch.Tensor]]:
        chosen = {} if mu is None else {"name": "fedprox", "options": {"mu": mu}}
        contract = _scenario(**chosen, terms={"local_steps": 8, "learning_rate": 0.01}).contract  # type: ignore[arg-type]
        received = for_participant(initial_groups(contract, ["bank"]), "bank")
        parts = data.load_partitions(site.home, terms, "credit", contract, f"run-{mu}")
        plan = training.make_plan(contract, terms, "credit", "run", allowance)
        module = training.ready_module(contract, "bank", plan, parts.train, received, {})
        keys = {"participant": "new-car", "round_number": 1, "noise": TEST, "secure_noise": False}
        outcome = training.train_round(module, contract, "bank", plan, parts.train, received, **keys)
        return sum(float((outcome.update[n] - t).norm()) for n, t in received.items()), outcome.update

    (_, fedavg), (free, zero), (held, _) = move(None), move(0.0), move(100.0)
    assert all(torch.equal(fedavg[name], tensor) for name, tensor in zero.items())
    # With mu x learning_rate = 1 every step starts at the received model again: only the last one is left.
    assert 0 < held < 0.6 * free


def _asked(scenario: Scenario, site: Any, control: dict[str, torch.Tensor] | None) -> Any:
    message = decode(site.message(contract=scenario.contract.canonical()))
    extra = {CONTROL + name: tensor for name, tensor in (control or {}).items()}
    return decode(handle(encode(Envelope(message.header, {**message.tensors, **extra})), site.home))


@pytest.mark.parametrize("epsilon", ["inf", "3"])
def test_a_control_moves_every_step_after_the_noise(
    epsilon: str, make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """K steps of eta with a control move the model by -K eta control more: clipped and noised it would be less."""
    monkeypatch.setattr(training, "fresh_generator", lambda _: seeded_generator("test"))
    scenario = _scenario("scaffold", terms={"local_steps": 3, "learning_rate": 1e-4})
    site = make_site("new-car", "banks-network", epsilon=[epsilon])
    site.policy(lambda data: data["allow"].update(non_private=True))
    start = initial_groups(scenario.contract, ["bank"])["bank"]
    control = {name: torch.full_like(tensor, 100.0) for name, tensor in start.items()}
    before = _asked(scenario, site, {name: torch.zeros_like(tensor) for name, tensor in start.items()})
    entries = len(site.ledger().entries())
    after = _asked(scenario, site, control)
    assert after.header["status"] == "OK", after.header
    # Another control is another message and so another release, charged again; the same one is free.
    assert len(site.ledger().entries()) == entries + 1
    _asked(scenario, site, control)
    assert len(site.ledger().entries()) == entries + 1
    for name in start:
        moved = after.tensors[name] - before.tensors[name]
        torch.testing.assert_close(moved, torch.full_like(moved, -3 * 1e-4 * 100.0), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "unasked", "name", "shape", "nan", "large"])
def test_a_control_that_does_not_fit_is_refused_and_costs_nothing(kind: str, make_site: Callable[..., Any]) -> None:
    scenario = _scenario("fedavg" if kind == "unasked" else "scaffold")
    site = make_site("new-car", "banks-network")
    control = {n: torch.zeros_like(t) for n, t in initial_groups(scenario.contract, ["bank"])["bank"].items()}
    broken = {
        "none": {},
        "unasked": control,
        "name": {**control, "head.other": torch.zeros(1)},
        "shape": {**control, "head.bias": torch.zeros(7)},
        "nan": {**control, "head.bias": control["head.bias"] * float("nan")},
        "large": {**control, "head.bias": control["head.bias"] + 1e30},
    }
    reply = _asked(scenario, site, broken[kind])
    assert (reply.header["status"], reply.header["code"]) == ("REFUSED", "BAD_MESSAGE")
    assert site.ledger().entries() == []


def test_an_absurd_reply_leaves_controls_that_everybody_accepts() -> None:
    scenario = _scenario("scaffold", terms={"learning_rate": 1e-3})
    start = initial_groups(scenario.contract, ["bank"])
    accepted = {participant.name: dict(start["bank"]) for participant in scenario.roster}
    accepted["other"] = {n: torch.full_like(t, 1e6) for n, t in start["bank"].items()}
    strategy = scenario.contract.strategy.strategy()
    groups, memory, _ = aggregate(scenario, strategy, Checkpoint(0, start, {}, {}, []), accepted)
    sent = controls(scenario, strategy, Checkpoint(1, groups, memory, {}, []))
    assert set(sent) == {participant.name for participant in scenario.roster}
    for named in sent.values():
        check_like(start["bank"], named)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "krumm"}, "norm-bound) (did you mean 'krum'?), got 'krumm'"),
        ({"name": "krum", "options": {"atackers": 1}}, "did you mean 'attackers'?"),
        ({"name": "krum", "options": {"attackers": 0}}, "attackers: wanted a whole number >= 1"),
        ({"name": "krum", "options": {"attackers": 1.5}}, "attackers: wanted a whole number, got 1.5"),
        ({"name": "krum", "server_momentum": 0.5}, "krum does not use it"),
        ({"name": "fedprox"}, "options.mu: wanted a value"),
        ({"name": "fedprox", "options": {"mu": -1.0}}, "mu: wanted a finite number >= 0"),
        ({"name": "fedprox", "options": {"mu": 1e6}}, "mu x learning_rate <= 1"),
        ({"name": "fedavg", "options": {"mu": 1.0}}, "options: wanted none for fedavg"),
        ({"name": "server-optimizer", "options": {"optimizer": "adam", "beta": 1}}, "beta: wanted one of"),
        ({"name": "qfedavg", "options": {"q": -1.0}}, "q: wanted a finite number >= 0"),
        ({"name": "server-optimizer"}, "options.optimizer: wanted a value"),
    ],
)
def test_what_no_algorithm_takes_is_refused_when_the_file_is_read(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        _scenario(**keys)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("scenario", "keys", "words"),
    [
        # Groups of two are refused always.
        ("cross-industry-network", {"name": "median"}, "median in industry bank: wanted at least 3 participants"),
        ("linear", {"name": "geometric-median"}, "wanted at least 3 participants for 1 attacker(s), got 2"),
        ("hospitals-network", {"name": "krum"}, "wanted at least 5 participants for 1 attacker(s), got 4"),
        ("banks-network", {"name": "trimmed-mean", "options": {"attackers": 3}}, "wanted at least 7"),
        ("banks-network", {"name": "multi-krum", "options": {"select": 3}}, "wanted at least 6"),
        ("banks-network", {"name": "qfedavg"}, "wanted non-private participants, since it needs an exact"),
        ("banks-network", {"name": "bulyan"}, "wanted at least 7 participants for 1 attacker(s), got 5"),
        ("banks-network", {"name": "median", "weighting": "declared"}, 'set weighting = "equal"'),
        ("factories-network", {"name": "geometric-median", "weighting": "declared"}, "wanted the 1 heaviest"),
        ("factories-network", {"name": "norm-bound", "weighting": "declared"}, "to weigh less than 0.5 together"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run(scenario: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make_plans(_scenario(scenario=scenario, **keys))
    assert words in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scenario", ["linear", "cross-industry-network"])
def test_a_group_of_two_fits_no_robust_strategy(name: str, scenario: str) -> None:
    keys = {**CHOICES.get(name, {}), "name": name, "scenario": scenario}
    if name == "fedprox":
        keys["options"] = {"mu": 0.1}
    built = _scenario(**keys).with_overrides(epsilon=["inf"])
    if built.contract.strategy.strategy().fit.per_attacker:
        with pytest.raises(InputError, match="wanted at least"):
            make_plans(built)
    else:
        make_plans(built)


def test_check_says_what_fits_with_what_and_what_may_stop_it() -> None:
    krum = _scenario("krum")
    assert fits_with(krum) == {
        "weights": "equal only",
        "differential privacy": "yes",
        "secure sum": "no: it looks at each update",
        "missing replies": "while 5 of a group answer; otherwise it keeps its model",
    }
    assert fits_with(_scenario("fedavg"))["secure sum"] == "yes"
    assert fits_with(_scenario(**{"name": "fedprox", **CHOICES["fedprox"]}))["secure sum"].startswith("no")
    assert fits_with(_scenario("qfedavg").with_overrides(epsilon=["inf"]))["differential privacy"].startswith("no")
    assert fits_with(_scenario("norm-bound"))["differential privacy"].startswith("only")
    (line,) = cautions(krum)
    assert "5 participants, and it needs 5: 1 that send nothing usable stop its training" in line
    assert cautions(_scenario("median")) == []
    assert "set contract.max_participations = 1" in cautions(_scenario("cyclic"))[0]
    assert cautions(_scenario("cyclic", most=1)) == []
    assert cautions(_scenario("cyclic").with_overrides(epsilon=["inf"])) == []


def test_norm_bounding_needs_private_participants_or_a_norm() -> None:
    with pytest.raises(InputError, match=r"non-private participants \(new-car\).*set options.relative or options.norm"):
        make_plans(_scenario("norm-bound").with_overrides(epsilon=["new-car=inf"]))
    make_plans(_scenario("norm-bound", options={"norm": 2.0}).with_overrides(epsilon=["new-car=inf"]))


def test_too_few_replies_keep_the_model_and_say_so() -> None:
    scenario = _scenario("krum")
    start = initial_groups(scenario.contract, ["bank"])
    accepted = {participant.name: {n: t + 1 for n, t in start["bank"].items()} for participant in scenario.roster}
    strategy = scenario.contract.strategy.strategy()
    state = Checkpoint(0, start, {}, {}, [])
    groups, _, kept = aggregate(scenario, strategy, state, accepted)
    assert kept == []
    assert torch.equal(groups["bank"]["head.bias"], start["bank"]["head.bias"] + 1)
    accepted.pop("other")
    groups, _, kept = aggregate(scenario, strategy, state, accepted)
    assert kept == ["bank"]
    assert torch.equal(groups["bank"]["head.bias"], start["bank"]["head.bias"])


def test_an_attacker_cannot_move_the_model_by_more_than_its_bound() -> None:
    scenario = _scenario("norm-bound")
    start = initial_groups(scenario.contract, ["bank"])
    accepted = {participant.name: dict(start["bank"]) for participant in scenario.roster}
    accepted["other"] = {n: t + 1e5 for n, t in start["bank"].items()}
    strategy = scenario.contract.strategy.strategy()
    groups, _, _ = aggregate(scenario, strategy, Checkpoint(0, start, {}, {}, []), accepted)
    flat = torch.cat([(groups["bank"][n] - start["bank"][n]).flatten() for n in start["bank"]])
    bound = honest_bound(scenario.contract, scenario.participant("other"), start["bank"])
    assert float(flat.norm()) == pytest.approx(bound / 5, rel=1e-5)


def test_the_order_of_arrival_changes_no_bit() -> None:
    scenario = _scenario()
    start = initial_groups(scenario.contract, ["bank"])
    generator = torch.Generator().manual_seed(0)
    accepted = {
        participant.name: {n: torch.randn(t.shape, generator=generator) for n, t in start["bank"].items()}
        for participant in scenario.roster
    }
    strategy = scenario.contract.strategy.strategy()
    state = Checkpoint(0, start, {}, {}, [])
    one, _, _ = aggregate(scenario, strategy, state, accepted)
    other, _, _ = aggregate(scenario, strategy, state, dict(reversed(accepted.items())))
    assert all(torch.equal(one["bank"][n], other["bank"][n]) for n in start["bank"])
