"""What a learner promises by itself: options, blocks, what a unit adds, the model before and after sums."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from clients import registry
from consortia.learners.blocks.recipe import Opened
from consortia.learners.own import Block, Model, Unit
from consortia.terms import learners
from consortia.terms.scopes import State, check_like, state_of
from consortia.testing._learner_case import Case
from consortia.testing._suite import leaves_the_process_as_it_is, require

Array = NDArray[np.float64]
#: Half of the units may be shortened to a part like this, and the longest may be as much shorter than what is stated.
_FAR: Final = 20.0


def its_options_survive_a_contract(case: Case) -> None:
    """Every side reads the same options from the contract that it hashes."""
    written = learners.written(case.learner)
    back = learners.own_terms(case.name, written).learner
    require(back == case.learner, f"a contract has {written!r}, of which {back!r} is read")


def refuses_with_a_sentence(case: Case) -> None:
    """A target or columns that it cannot learn are a ValueError that says what was wanted and got."""
    for name in ("bank", "linear", "smart_home"):
        try:
            case.learner.recipe(registry.get(name).schema)
        except ValueError as error:
            require("wanted" in str(error) and "got" in str(error), f"of industry {name} it says {str(error)[:80]!r}")


def blocks_follow_from_options_and_schema(case: Case) -> None:
    """Coordinator and participants make the same plan, each by itself and at any time."""
    for own in (case.rule.own, case.learner.recipe(case.schema)):
        for message in case.messages:
            found = tuple(own.blocks(message))
            require(found == case.rule.plan[message - 1], f"message {message}: another plan when it is asked again")


def a_unit_adds_what_its_blocks_say(case: Case) -> None:
    """For rows of the industry and for the corners of what a schema allows: as many finite numbers as it says."""
    for message, model in _asked(case):
        for unit in (*case.units, *_corners(case)):
            for block, found in zip(case.rule.plan[message - 1], _added(case, message, unit, model), strict=True):
                where = f"message {message}, block {block.name!r}"
                require(found.shape == (block.length,), f"{where}: wanted ({block.length},), got {found.shape}")
                require(bool(np.isfinite(found).all()), f"{where}: it is not finite")


def sensitivities_fit_the_rows(case: Case) -> None:
    """The platform shortens to them: one that is far too small loses what rows say, a far too large one drowns it."""
    for message in case.messages:
        model = _numpy(case.model())
        for place, block in enumerate(case.rule.plan[message - 1]):
            norms = [float(np.linalg.norm(_added(case, message, unit, model)[place])) for unit in case.units]
            parts = np.array(norms) / block.sensitivity
            where = f"message {message}, block {block.name!r}: of 1 as stated, units add"
            require(float(np.median(parts)) <= _FAR, f"{where} {np.median(parts):.3g} on the median; state more")
            require(not parts.any() or parts.max() >= 1 / _FAR, f"{where} {parts.max():.3g} at most; state less")


def a_unit_adds_the_same_in_any_company(case: Case) -> None:
    """It goes by this unit, the message and the model alone: asked in another order, it says the same to the bit."""
    for message, model in _asked(case):
        first = [_added(case, message, unit, model) for unit in case.units]
        again = [_added(case, message, unit, model) for unit in reversed(case.units)][::-1]
        for one, other in zip(first, again, strict=True):
            same = all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
            require(same, f"message {message}: what a unit adds depends on which units were asked before")


def leaves_its_inputs_and_the_process_alone(case: Case) -> None:
    """Rows and model stay as they were, and so do the process's random numbers, folder and environment."""
    for message, model in _asked(case):
        unit, kept = copy.deepcopy(case.units[-1]), copy.deepcopy(model)
        with leaves_the_process_as_it_is():
            _added(case, message, unit, model)
        same = np.array_equal(unit.features, case.units[-1].features) and _equal(model, kept)
        require(same, f"message {message}: it changed the rows or the model that it was given")


def starts_the_same_everywhere(case: Case) -> None:
    """Every side builds the model by itself: public constants, and an output for every row."""
    with leaves_the_process_as_it_is():
        one, other = (case.rule.build(case.schema.target) for _ in range(2))
    check_like(state_of(one), state_of(other))
    require(all(torch.equal(a, state_of(other)[name]) for name, a in state_of(one).items()), "two builds differ")
    features = torch.from_numpy(np.concatenate([unit.features for unit in case.units])).float()
    output = one({"features": features})
    wanted = (len(features), case.schema.target.outputs)
    require(tuple(output.shape) == wanted, f"of {len(features)} rows: wanted {wanted}, got {tuple(output.shape)}")
    require(bool(torch.isfinite(output).all()), "its outputs are not finite")


def advances_any_sums_to_a_model(case: Case) -> None:
    """Noise can make any sum: none at all, negative counts, far too large ones. Participants take what follows."""
    random = np.random.default_rng(1)
    for size in (0.0, 1.0, 1e3):
        model: State = case.model()
        for message in case.messages:
            blocks = case.rule.plan[message - 1]
            opened = Opened(
                tuple(size * block.sensitivity * random.normal(size=block.length) for block in blocks),
                tuple(size * block.sensitivity for block in blocks),
                100.0,
            )
            found, again = (case.rule.advanced(message, model, copy.deepcopy(opened)) for _ in range(2))
            same = found.keys() == again.keys() and all(torch.equal(found[name], again[name]) for name in found)
            require(same, f"message {message}: the same sums make two models")
            after = {**model, **found}
            check_like(model, after)
            case.rule.check_model(after)
            model = after


def _asked(case: Case) -> Iterator[tuple[int, Model]]:
    """Yield each message with the model as a run starts, and with one that a coordinator may send."""
    random = np.random.default_rng(2)
    start = _numpy(case.model())
    other = {
        name: random.normal(0, 0.5, value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in start.items()
    }
    for message in case.messages:
        yield message, start
        try:
            case.rule.own.check_model(other)
        except ValueError:
            continue
        yield message, other


def _corners(case: Case) -> list[Unit]:
    """Return units at the bounds that a schema scales to, with each target that there is."""
    shape, targets = case.units[0].features.shape[1:], np.unique(np.concatenate([u.target for u in case.units]))
    return [
        Unit(np.full((2, *shape), value), np.full(2, float(target)))
        for value in (-1.0, 0.0, 1.0)
        for target in (targets[0], targets[-1])
    ]


def _added(case: Case, message: int, unit: Unit, model: Model) -> list[Array]:
    found = [np.asarray(block, dtype=np.float64) for block in case.rule.own.adds(message, unit, model)]
    blocks: tuple[Block, ...] = case.rule.plan[message - 1]
    require(len(found) == len(blocks), f"message {message}: wanted {len(blocks)} blocks, got {len(found)}")
    return found


def _numpy(state: State) -> dict[str, NDArray[np.generic]]:
    return {name: tensor.numpy().copy() for name, tensor in state.items()}


def _equal(one: Model, other: Model) -> bool:
    return all(np.array_equal(value, other[name]) for name, value in one.items())
