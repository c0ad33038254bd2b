"""The learner of the scaffold passes `check_learner`, and a broken one fails the check that is named after it."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from own_learners import centres
from torch import nn

from consortia.learners.blocks import clipped as clipping
from consortia.terms import learners
from consortia.testing import LearnerCheckError, check_learner
from consortia.testing._learner_case import Case
from consortia.testing._learners import _CHECKS

Centres, Recipe = centres().Centres, centres().CentresRecipe


@pytest.mark.end_to_end
def test_the_scaffolds_learner_keeps_every_promise() -> None:
    assert check_learner(Centres()) == tuple(_CHECKS)


@pytest.fixture
def fails(tmp_path: Path, quiet_participants: None) -> Any:
    """Run one check on a learner and return what it saw; empty when it saw nothing."""

    def check(learner: Any, name: str) -> str:
        case = Case(learner, "bank", tmp_path)  # one a test: its homes are never replaced
        with learners.lent(case.name, type(learner)):
            try:
                _CHECKS[name](case)
            except AssertionError as error:
                return str(error)
        return ""

    return check


def _learner(recipe: type[Any], **fields: Any) -> Any:
    """Return an instance of a learner like `Centres` whose recipe is of another class."""
    made = dataclasses.make_dataclass(
        "Other",
        [(key, type(value), value) for key, value in fields.items()],
        frozen=True,
        namespace={"shares": Centres.shares, "recipe": lambda self, schema: recipe(schema, 2.0)},
    )
    return made()


class _OneNumberLess(Recipe):
    def adds(self, message, unit, model):
        counts, *rest = super().adds(message, unit, model)
        return (counts[:-1], *rest) if message == 1 else (counts,)


class _NotFinite(Recipe):
    def adds(self, message, unit, model):
        return [np.log(np.maximum(0.0, block)) for block in super().adds(message, unit, model)]


class _Remembers(Recipe):
    SEEN: ClassVar[list[Any]] = []

    def adds(self, message, unit, model):
        self.SEEN.append(unit)
        return [block * (1 + 0.1 * (len(self.SEEN) % 7)) for block in super().adds(message, unit, model)]


class _Changes(Recipe):
    def adds(self, message, unit, model):
        unit.features[:] = 0.0
        return super().adds(message, unit, model)


class _Draws(Recipe):
    def adds(self, message, unit, model):
        random.random()
        return super().adds(message, unit, model)


class _FarTooSmall(Recipe):
    def blocks(self, message):
        return tuple(dataclasses.replace(block, sensitivity=1e-4) for block in super().blocks(message))


class _FarTooLarge(Recipe):
    def blocks(self, message):
        return tuple(dataclasses.replace(block, sensitivity=1e4) for block in super().blocks(message))


class _Wanders(Recipe):
    def blocks(self, message):
        longer = self.schema.width + int(1e6 * random.random())
        return (*super().blocks(message)[:-1], centres().Block("wander", longer, 1.0))


class _StartsAnywhere(Recipe):
    def build(self):
        module = super().build()
        module.head.centres.normal_()
        return module


class _Twice(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.of = head

    def forward(self, features):
        return self.of(features).expand(-1, 2)


class _OneOutputMore(Recipe):
    def build(self):
        module = super().build()
        module.head = _Twice(module.head)
        return module


class _Divides(Recipe):
    def advanced(self, message, model, opened):
        with np.errstate(all="ignore"):
            return {"head.odds": np.log(opened.blocks[0][:1])}


class _AnotherShape(Recipe):
    def advanced(self, message, model, opened):
        return {"head.centres": np.zeros(3)}


class _DrawsAModel(Recipe):
    def advanced(self, message, model, opened):
        return {"head.odds": np.random.default_rng().normal(size=1)}


@pytest.mark.parametrize(
    ("recipe", "name", "saw"),
    [
        (_OneNumberLess, "a_unit_adds_what_its_blocks_say", "block 'counts': wanted (2,), got (1,)"),
        (_NotFinite, "a_unit_adds_what_its_blocks_say", "not finite"),
        (_Remembers, "a_unit_adds_the_same_in_any_company", "which units were asked before"),
        (_Changes, "leaves_its_inputs_and_the_process_alone", "changed the rows"),
        (_Draws, "leaves_its_inputs_and_the_process_alone", "the random numbers"),
        (_FarTooSmall, "sensitivities_fit_the_rows", "state more"),
        (_FarTooLarge, "sensitivities_fit_the_rows", "state less"),
        (_Wanders, "blocks_follow_from_options_and_schema", "another plan"),
        (_StartsAnywhere, "starts_the_same_everywhere", "random numbers"),
        (_OneOutputMore, "starts_the_same_everywhere", "wanted (56, 1), got (56, 2)"),
        (_DrawsAModel, "advances_any_sums_to_a_model", "two models"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_is_broken_fails_its_own_check(recipe: type[Any], name: str, saw: str, fails: Any) -> None:
    assert saw in fails(_learner(recipe), name)


@pytest.mark.parametrize("recipe", [_Divides, _AnotherShape])
def test_a_model_that_participants_refuse_is_named(recipe: type[Any], fails: Any) -> None:
    with pytest.raises(ValueError, match=r"head\.(odds|centres): wanted"):
        fails(_learner(recipe), "advances_any_sums_to_a_model")


@pytest.mark.end_to_end
def test_code_that_remembers_other_units_loses_the_game_on_the_real_path(fails: Any) -> None:
    """The one mistake that the platform's clip does not cover."""
    assert "a unit moves" in fails(_learner(_Remembers), "no_unit_moves_a_block_further_than_it_says")


@pytest.mark.end_to_end
def test_a_wrong_sensitivity_loses_no_game(fails: Any) -> None:
    """The platform clips to what is stated, so a false statement costs accuracy and not epsilon."""
    assert not fails(_learner(_FarTooSmall), "no_unit_moves_a_block_further_than_it_says")


@pytest.mark.end_to_end
def test_without_the_platforms_clip_a_wrong_sensitivity_loses_the_game(
    fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipping, "shortened", lambda vector, longest: vector)
    assert "a unit moves" in fails(_learner(_FarTooSmall), "no_unit_moves_a_block_further_than_it_says")


def test_an_option_that_a_contract_cannot_hold_is_named(fails: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Holds(Centres):  # type: ignore[misc]
        also: tuple[float, ...] = (math.nan,)

    assert fails(Holds(), "its_options_survive_a_contract")


def test_every_failure_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from consortia.testing import _learners

    chosen = ("a_unit_adds_what_its_blocks_say", "sensitivities_fit_the_rows", "advances_any_sums_to_a_model")
    monkeypatch.setattr(_learners, "_CHECKS", {name: _CHECKS[name] for name in chosen})
    with pytest.raises(LearnerCheckError) as caught:
        check_learner(_learner(_OneNumberLess), industry="bank")
    assert list(caught.value.failures) == ["a_unit_adds_what_its_blocks_say"]
    assert "fails 1 of 3 checks" in str(caught.value)
