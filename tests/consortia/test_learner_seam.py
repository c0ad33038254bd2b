"""A learner that a package brings: its contract, the platform's clip, its errors, and what crosses of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_learners import centres
from packages import Packages

from clients import registry
from consortia.audit import block_sums
from consortia.audit.scenes import Deck
from consortia.audit.settings import Audit
from consortia.common.errors import InputError, RunFailedError
from consortia.coordinator.blocks import after_parts
from consortia.learners.blocks import clipped as clipping
from consortia.learners.blocks.clipped import clipped, shortened
from consortia.learners.blocks.parts import Part
from consortia.learners.blocks.recipe import Opened
from consortia.learners.blocks.rows import Rows
from consortia.learners.blocks.shares import Shares
from consortia.learners.own import Block
from consortia.terms import learners
from consortia.terms.contract import contract_from_json
from consortia.terms.recipe import blocks_of
from consortia.terms.scenario import find_scenario, load_scenario, scenario_from_toml
from consortia.terms.scopes import build_module

HEAD = 'schema = 1\nname = "few"\ntitle = "Few"\n[contract]\nschema = 1\nwire = 1\nlearner = "lent"\n'
PARTICIPANT = '[[roster]]\nname = "a"\nindustry = "{0}"\ndataset = "d"\nsite = "{1}"\nunits = 200\nepsilon = 1.0\n'
SHARES = Shares("blocks", ((1.0,),))


@pytest.fixture(autouse=True)
def _a_package_brings_it() -> Iterator[None]:
    with learners.lent("lent", centres().Centres):
        yield


def _contract(more: str = "", industry: str = "bank", site: str = "other") -> Any:
    text = HEAD + more + f"[contract.industries.{industry}]\n" + PARTICIPANT.format(industry, site)
    return scenario_from_toml(text).contract


def test_a_contract_has_every_option_so_that_its_hash_has_them() -> None:
    short, whole = _contract(), _contract("[contract.options]\nlongest = 2.0\n")
    assert (short.rounds, short.releases, short.options) == (2, ("blocks",), {"longest": 2.0})
    assert short.sha256() == whole.sha256() != _contract("[contract.options]\nlongest = 3\n").sha256()
    assert contract_from_json(short.canonical()) == short
    assert short.noisy_sums.shares == Shares("blocks", ((0.2, 0.6), (0.2,)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "[contract.options]\nlongst = 2.0\n",
            "wanted longest for learner lent, got 'longst' (did you mean 'longest'?)",
        ),
        ('[contract.options]\nlongest = "far"\n', "options.longest: wanted a number, got 'far'"),
        ("[contract.options]\nlongest = 0.0\n", "longest: wanted > 0 and <= 100, got 0.0"),
        ("rounds = 3\n", "rounds = 2, its messages"),
        ('releases = ["sums"]\n', "no 'sums' in releases with learner = \"lent\""),
        ('releases = ["update"]\n', "releases ['blocks']"),
        ('[contract.strategy]\nname = "fedsgd"\n', "no [contract.strategy]: sums are added"),
        ("[contract.sums]\n", '[contract.sums] exactly where learner = "sums"'),
        ("[contract.industries.bank]\nlocal_steps = 2\n#", "nothing takes steps"),
    ],
)
def test_what_does_not_fit_is_one_sentence(more: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        _contract(more)
    assert said in str(caught.value)


def test_an_unknown_learner_says_which_there_are() -> None:
    text = HEAD.replace('"lent"', '"centers"') + "[contract.industries.bank]\n" + PARTICIPANT.format("bank", "other")
    with pytest.raises(InputError) as caught:
        scenario_from_toml(text)
    assert "contract.learner: wanted a learner that is built in or installed (gradient, sums, additive" in str(
        caught.value
    )
    with pytest.raises(InputError, match=r"no \[contract.options\] with learner = \"sums\""):
        scenario_from_toml(
            text.replace('"centers"', '"sums"').replace("[contract.ind", "[contract.options]\na = 1\n[contract.ind")
        )


@pytest.mark.parametrize("name", ["banks-network", "banks", "factories"])
def test_contracts_of_built_in_learners_say_nothing_new(name: str) -> None:
    assert "options" not in json.loads(load_scenario(name).contract.canonical())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "raise OSError('moved')",
            "learner 'own' of partner cannot be loaded from 'own_package:VALUE': OSError: moved",
        ),
        ("VALUE = 3", "wanted a frozen dataclass, got int"),
        ("import dataclasses\n@dataclasses.dataclass\nclass VALUE:\n  shares = 1\n", "got one that can be changed"),
        (
            "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass VALUE:\n  shares = ((1.0,),)\n",
            "got VALUE without recipe",
        ),
    ],
)
def test_a_broken_package_is_named(code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = Packages(tmp_path / "site", monkeypatch)
    packages.install("partner", "[consortia.learners]\nown = own_package:VALUE\n", own_package=code)
    text = find_scenario("banks").read_text(encoding="utf-8").replace('"sums"', '"own"')
    with pytest.raises(InputError) as caught:
        scenario_from_toml(text.replace("[contract.sums]", "[contract.options]"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (((0.5, 0.4),), "sum to 1, got a sum of 0.9"),
        (((1.5,), (-0.5,)), "wanted numbers > 0"),
        (((1.0,), ()), "a block or more"),
        ((), "1 to 1000 messages"),
        (1.0, "by message and block"),
        (((math.nan,),), "wanted numbers > 0"),
    ],
)
def test_a_budget_that_is_not_all_of_it_is_refused(shares: Any, said: str) -> None:
    kind = dataclasses.make_dataclass(
        "Odd", [("x", float, 1.0)], frozen=True, namespace={"shares": shares, "recipe": lambda self, schema: None}
    )
    with learners.lent(f"odd-{id(kind)}", kind), pytest.raises(ValueError, match="shares") as caught:
        learners.own_terms(f"odd-{id(kind)}", {})
    assert said in str(caught.value)


def test_an_industry_that_it_cannot_learn_is_refused_by_name() -> None:
    contract = _contract(industry="linear", site="a")
    with pytest.raises(InputError, match="learner 'lent', industry linear: target: wanted two classes, got regression"):
        blocks_of(contract, "linear")


class _Own:
    """A recipe of one block whose units add whatever a test says."""

    def __init__(self, adds: Any, block: Any = None, advanced: Any = None) -> None:
        self._adds, self._advanced = adds, advanced
        self._block = Block("b", 3, 0.7) if block is None else block

    def blocks(self, message: int) -> Any:
        return (self._block,)

    def adds(self, message: int, unit: Any, model: Any) -> Any:
        return [self._adds(unit)]

    def check_model(self, model: Any) -> None: ...

    def advanced(self, message: int, model: Any, opened: Any) -> Any:
        return self._advanced(model, opened)

    def build(self) -> Any:
        return centres().CentresRecipe(registry.get("bank").schema, 2.0).build()


def _rows(count: int, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    index = np.r_[np.arange(5), random.integers(5, size=count - 5)]
    features = torch.from_numpy(random.normal(size=(count, 2)).astype(np.float32))
    return Rows(features, torch.from_numpy(random.integers(2, size=count)), torch.from_numpy(index))


def _whatever(unit: Any) -> Any:
    """Return what a careless package may return, by what the unit's rows hold."""
    first = float(unit.features[0, 0])
    if first < -1:
        raise RuntimeError(f"a row has {first}")
    if first < -0.5:
        return np.full(3, math.nan)
    if first < 0:
        return np.ones(4)
    return unit.features.sum() * 10.0 ** (300 * (first > 1)) * np.ones(3)


def _furthest(adds: Any) -> float:
    """Return how far one unit of some tables moves the block, of 1 as stated."""
    rule, furthest = clipped("own", _Own(adds), SHARES), 0.0
    for seed in range(6):
        rows = _rows(30, seed)
        (whole,) = rule.exact(1, rows, {})
        for unit in range(5):
            kept = rows.unit_index != unit
            index = rows.unit_index[kept]
            (less,) = rule.exact(1, Rows(rows.features[kept], rows.target[kept], index - (index > unit).long()), {})
            furthest = max(furthest, float(np.linalg.norm(whole - less)) / 0.7)
    return furthest


@pytest.mark.parametrize("adds", [_whatever, lambda unit: np.full(3, 1e308), lambda unit: unit.features[:1, 0] * 1e3])
def test_no_unit_moves_a_block_by_more_than_is_stated_whatever_the_package_returns(adds: Any) -> None:
    assert _furthest(adds) <= 1.0


def test_the_bound_is_reached_and_without_the_clip_it_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _furthest(lambda unit: np.full(3, 5.0)) > 0.99
    monkeypatch.setattr(clipping, "shortened", lambda vector, longest: vector)
    assert _furthest(lambda unit: np.full(3, 5.0)) > 10


def test_sums_are_exact_in_any_order() -> None:
    rule, rows = clipped("own", _Own(lambda unit: unit.features.sum() * np.arange(1.0, 4.0)), SHARES), _rows(40)
    order = torch.cat([torch.nonzero(rows.unit_index == unit).flatten() for unit in (4, 2, 0, 3, 1)])
    (one,) = rule.exact(1, rows, {})
    (two,) = rule.exact(1, Rows(rows.features[order], rows.target[order], rows.unit_index[order]), {})
    assert np.array_equal(one, two)


@pytest.mark.parametrize("longest", [1e-9, 0.3, 1.0, 7.0, 1e9])
def test_a_vector_is_shortened_to_its_norm_and_on_the_grid(longest: float) -> None:
    random = np.random.default_rng(3)
    for size in (1e-6, 1.0, 1e6, 1e290):
        found = shortened(random.normal(size=50) * longest * size, longest)
        step = 2.0 ** (math.floor(math.log2(longest)) - 24)
        assert np.linalg.norm(found) <= longest
        assert np.array_equal(np.rint(found / step) * step, found)
        assert size < 1 or np.linalg.norm(found) > 0.999 * longest


def test_what_foreign_code_says_of_rows_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "consortia.participant"):
        clipped("own", _Own(_whatever), SHARES).exact(1, _rows(30), {})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("learner own, message 1: units that added nothing: ")
    assert "a row has" not in line


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (Block("B", 3, 1.0), "small letters"),
        (Block("b", 0, 1.0), "1 to 16777216 numbers"),
        (Block("b", 3, 0.0), "a sensitivity from"),
        (Block("b", 3, math.nan), "a sensitivity from"),
        (Block("b", 3, math.inf), "a sensitivity from"),
        (("b", 3, 1.0), "Block in message 1, got tuple"),
    ],
)
def test_a_block_that_cannot_be_is_refused(block: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clipped("own", _Own(None, block), SHARES)


def test_what_a_recipe_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="without blocks"):
        clipped("own", object(), SHARES)
    with pytest.raises(ValueError, match="as many blocks as shares in message 1: 2, got 1"):
        clipped("own", _Own(None), Shares("blocks", ((0.5, 0.5),)))


@pytest.mark.parametrize(
    ("advanced", "said"),
    [
        (lambda model, opened: {"head.odds": np.full(1, math.nan)}, "head.odds: wanted finite"),
        (lambda model, opened: {"head.odds": np.zeros(2)}, "head.odds: wanted shape"),
        (lambda model, opened: {"head.other": np.zeros(2)}, "learner own, message 1: wanted the next model by name"),
        (lambda model, opened: 1 / 0, "got ZeroDivisionError"),
        (lambda model, opened: [1], "got AttributeError"),
    ],
)
def test_a_next_model_that_is_none_ends_the_run_with_a_sentence(advanced: Any, said: str) -> None:
    rule = clipped("own", _Own(None, None, advanced), SHARES)
    current = dict(rule.build(registry.get("bank").schema.target).state_dict())
    with pytest.raises(RunFailedError) as caught:
        after_parts(rule, current, 1, [Part((np.zeros(3),), 1.0, 100.0)])
    assert said in str(caught.value)


def test_the_least_noisy_counts_most_and_the_noise_that_is_left_is_told() -> None:
    told: list[Opened] = []
    rule = clipped("own", _Own(None, None, lambda model, opened: told.append(opened) or {}), SHARES)
    parts = [Part((np.ones(3),), z, 100.0) for z in (1.0, 1.0, 50.0)]
    after_parts(rule, {}, 1, parts)
    (opened,) = told
    assert 2.0 < opened.blocks[0][0] < 2.1
    assert opened.units == pytest.approx(100 * opened.blocks[0][0])
    # As if it had one of two of these participants' noise, and a small part of the third one's.
    assert 1.3 * 0.7 < opened.noise[0] < 2.5 * 0.7


def test_a_model_is_the_same_for_everybody_and_nothing_of_it_is_shared_by_mistake() -> None:
    contract = _contract()
    one, other = build_module(contract, "bank"), build_module(contract, "bank")
    one.head.centres += 1
    assert not other.head.centres.any()


@pytest.mark.end_to_end  # it solves the noise of a sum
def test_the_audit_plays_its_blocks_inside_a_secure_sum(tmp_path: Path) -> None:
    head = HEAD + 'trust = "aggregate"\n[contract.secure]\ncolluders = 1\nmin_cohort = 3\n[contract.industries.bank]\n'
    banks = [("a", "other"), ("b", "new-car"), ("c", "used-car"), ("d", "furniture")]
    roster = [PARTICIPANT.format("bank", site).replace('"a"', f'"{name}"', 1) for name, site in banks]
    audit = Audit(scenario_from_toml(head + "".join(roster)), tmp_path, quick=True, random=np.random.default_rng(0))
    members = block_sums.members(audit)
    decks = {one.name: Deck(audit.pool(one)) for one in members}
    games = block_sums.play(audit, members, decks, 1)
    assert games
    assert not [game.recipe for game in games if game.lost]
