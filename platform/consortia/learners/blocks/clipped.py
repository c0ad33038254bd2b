"""The blocks of a learner that a package brings: the platform clips what each unit adds, and sums.

Formal guarantee
----------------
Let `adds` be a function of one unit's rows, the message and the model. Then adding or removing one unit moves block i
by at most its stated sensitivity s_i in L2, **whatever `adds` returns**: a wrong s_i costs accuracy, never epsilon.

* `adds` sees the rows of one unit at a time. What it returns for a block is shortened to s_i, and rounded towards 0 to
  a public grid of powers of two, which only shortens it.
* What is no such block adds 0: another shape, a number that is not finite, an exception. So that is not seen from
  outside either, and depends on this unit alone. The log at home says how many units it was.
* On the grid, of 2^-24 of s_i or a little less, float64 sums of 2^20 units are exact, in whatever order.
* Blocks, their lengths and sensitivities are read once, when the recipe is made, from options and schema: no row is
  there yet, and nothing that happens later changes them. The noise and its event go by these numbers.

What it cannot know: whether `adds` remembers other units, or reads something else than it is given. `check_learner`
plays neighbour games and asks in another order and company. It finds what such games show. It does not find
code that hides: whoever installs a package trusts it with the rows, as with a client.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.models import FederatedModule
from clients.schema import Target
from consortia.common.errors import RunFailedError
from consortia.learners.blocks.recipe import Opened
from consortia.learners.blocks.rows import MOST_ROWS, SHORT, Rows
from consortia.learners.blocks.shares import OWN_KIND, Shares
from consortia.learners.own import Block, OwnRecipe, Unit
from privacy.errors import PlanError

__all__ = ["ClippedRecipe", "clipped"]

Array = NDArray[np.float64]
log = logging.getLogger("consortia.participant")
_PARTS: Final = ("encoder.", "trunk.", "head.")
#: Bits of the public grid below a block's sensitivity.
_GRID: Final = 24
_MOST_NUMBERS: Final = 2**24
_LEAST, _LARGEST = 1e-9, 1e9


@dataclass(frozen=True)
class ClippedRecipe:
    """A package's recipe as the platform plays it. See `consortia.learners.blocks.recipe.LearnedRecipe`.

    Attributes
    ----------
    learner : its name in contracts.
    own : the package's recipe.
    shares : of the budget.
    plan : the blocks of each message.
    """

    learner: str
    own: OwnRecipe
    shares: Shares
    plan: tuple[tuple[Block, ...], ...]

    def names(self, message: int) -> tuple[str, ...]:
        """See `BlockRecipe`."""
        return tuple(f"{OWN_KIND}.{block.name}" for block in self.plan[message - 1])

    def lengths(self, message: int) -> tuple[int, ...]:
        """See `BlockRecipe`."""
        return tuple(block.length for block in self.plan[message - 1])

    def sensitivities(self, message: int) -> tuple[float, ...]:
        """See `BlockRecipe`; `exact` holds them."""
        return tuple(block.sensitivity for block in self.plan[message - 1])

    def scatter(self, message: int) -> tuple[float, ...]:
        """See `LearnedRecipe`: as if each unit added as much as it may, spread evenly."""
        return tuple(block.sensitivity**2 / block.length for block in self.plan[message - 1])

    def exact(self, message: int, rows: Rows, model: Mapping[str, Tensor]) -> list[Array]:
        """Return the sums of what each unit adds, shortened to the stated sensitivities."""
        if len(rows.unit_index) > MOST_ROWS:
            raise PlanError(f"rows: wanted at most {MOST_ROWS} training rows, for which sums are exact")
        blocks = self.plan[message - 1]
        total = [np.zeros(block.length) for block in blocks]
        features, target = rows.features.numpy(), rows.target.numpy()
        nothing: Counter[str] = Counter()
        for places in _by_unit(rows.unit_index.numpy()):
            unit = Unit(features[places].astype(np.float64), target[places].astype(np.float64))
            try:
                found = [np.array(one, dtype=np.float64) for one in self.own.adds(message, unit, _arrays(model))]
            except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code that met rows: neither its text nor its failure may show
                nothing[type(error).__name__] += 1
                continue
            if [one.shape for one in found] != [(block.length,) for block in blocks]:
                nothing["another shape"] += 1
            elif not all(np.isfinite(one).all() for one in found):
                nothing["not finite"] += 1
            else:
                for place, (block, one) in enumerate(zip(blocks, found, strict=True)):
                    total[place] += shortened(one, block.sensitivity)
        if nothing:
            told = ", ".join(f"{count} {why}" for why, count in nothing.items())
            log.warning("learner %s, message %d: units that added nothing: %s", self.learner, message, told)
        return total

    def check_model(self, model: Mapping[str, Tensor]) -> None:
        """See `BlockRecipe`."""
        self.own.check_model(_arrays(model))

    def advanced(self, message: int, model: Mapping[str, Tensor], opened: Opened) -> dict[str, Tensor]:
        """See `LearnedRecipe`; numbers become those of the model's own dtype.

        Raises
        ------
        RunFailedError
            Where the package's code fails, or returns what is no array, or names what the model does not have.
        """
        try:
            found = self.own.advanced(message, _arrays(model), opened)
            return {name: torch.as_tensor(np.array(value)).to(model[name].dtype) for name, value in found.items()}
        except Exception as error:  # it saw released numbers only, so its text may be told
            raise RunFailedError(
                f"learner {self.learner}, message {message}: wanted the next model by name, got "
                f"{type(error).__name__}: {error}; repair the package that brings it"
            ) from error

    def build(self, target: Target) -> FederatedModule:
        """See `LearnedRecipe`.

        Raises
        ------
        ValueError
            For what is no model of this target, or one that is not put together from public constants.
        """
        module = self.own.build()
        if not isinstance(module, FederatedModule) or module.target != target:
            raise ValueError(f"a FederatedModule of the schema's target from build, got {type(module).__name__}")
        strange = [name for name in module.state_dict() if not name.startswith(_PARTS)]
        if strange or not module.state_dict():
            raise ValueError(f"names below {', '.join(_PARTS)} in build, got {', '.join(strange) or 'none'}")
        return module.eval()


def shortened(vector: Array, longest: float) -> Array:
    """Return `vector` with a norm of at most `longest`, on the public grid of that norm."""
    largest = float(np.abs(vector).max(initial=0.0))
    if not largest:
        return np.zeros_like(vector)
    unit = vector / largest  # no square overflows
    norm = float(np.sqrt(np.square(unit).sum()))
    factor = min(largest, longest / norm) * SHORT
    steps = 2.0 ** (_GRID - math.floor(math.log2(longest)))
    return np.asarray(np.trunc(unit * factor * steps) / steps)


def clipped(learner: str, own: Any, shares: Shares) -> ClippedRecipe:
    """Return a package's recipe as the platform plays it.

    Raises
    ------
    ValueError
        Where it says no whole recipe: a part is missing, or a block has no name, length or sensitivity that can be.
    """
    if lacking := [part for part in ("blocks", "adds", "check_model", "advanced", "build") if not hasattr(own, part)]:
        raise ValueError(f"a recipe (consortia.learners.own.OwnRecipe), got {type(own).__name__} without {lacking[0]}")
    plan = []
    for message, part in enumerate(shares.parts, 1):
        blocks = tuple(own.blocks(message))
        if len(blocks) != len(part):
            raise ValueError(f"as many blocks as shares in message {message}: {len(part)}, got {len(blocks)}")
        for block in blocks:
            _check(message, block)
        if len({block.name for block in blocks}) < len(blocks):
            raise ValueError(f"blocks of different names in message {message}, got one name twice")
        plan.append(blocks)
    return ClippedRecipe(learner, own, shares, tuple(plan))


def _check(message: int, block: Any) -> None:
    where = f"message {message}"
    if not isinstance(block, Block):
        raise ValueError(f"consortia.learners.own.Block in {where}, got {type(block).__name__}")
    if not isinstance(block.name, str) or not re.fullmatch("[a-z][a-z0-9_]{0,39}", block.name):
        raise ValueError(f"a block's name of small letters, digits and '_' in {where}, got {block.name!r}")
    where = f"block {block.name!r} of {where}"
    if type(block.length) is not int or not 1 <= block.length <= _MOST_NUMBERS:
        raise ValueError(f"1 to {_MOST_NUMBERS} numbers in {where}, got {block.length!r}")
    if type(block.sensitivity) not in {int, float} or not _LEAST <= block.sensitivity <= _LARGEST:
        raise ValueError(f"a sensitivity from {_LEAST:g} to {_LARGEST:g} of {where}, got {block.sensitivity!r}")


def _by_unit(unit_index: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    """Return the places of each unit's rows, in their order."""
    order = np.argsort(unit_index, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(unit_index[order])) + 1) if len(order) else ()


def _arrays(model: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().clone().numpy() for name, tensor in model.items()}
