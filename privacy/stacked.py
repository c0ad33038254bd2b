"""DP-SGD of many participants at once, for simulation: one batched product a layer.

Each participant keeps its own parameters, rows, Poisson draws, clipped sum, noise and normaliser; what is shared is the
call into the matrix library. The step is that of `privacy.dp_sgd`, participant by participant: with the same generators
the results are equal to float tolerance. It knows dense layers with tanh between them and units of one row.

Formal guarantees
-----------------
Those of `privacy.dp_sgd` for every participant by itself, in float32: a unit moves its participant's sum by at most
clip and that sum's rounding (a gradient that is not finite by 0), and no other participant's at all. What a row adds
goes by that row alone, to the bit, since all products have one public number of rows. The noise has standard deviation
sigma x clip in every coordinate, whatever the draw; the normaliser is public. Noise is floating point: one operator
holds all rows.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from consortia_plugins.arguments import named_arguments
from privacy._gaussian import fill_normal
from privacy._rows import MULTIPLE, Loss, MakeOptimizer, one_thread
from privacy.dp_sgd import DpSgdPlan, PlainPlan
from privacy.errors import PlanError
from privacy.observation import observed, tell
from privacy.randomness import check_usable
from privacy.sampling import poisson_sample

__all__ = [
    "Dense",
    "OneGenerator",
    "Randomness",
    "SeededDraws",
    "StackedRows",
    "outputs",
    "train_stacked",
]


#: What the square of a float32 gradient loses by underflow.
_TINY: Final = 2.0**-102
#: Without noise the first block of a step is as long as so many per cent of its draws need.
_USUAL: Final = 85


@dataclass(frozen=True)
class StackedRows:
    """Rows of several participants, each a unit, padded with zeros to the longest.

    Attributes
    ----------
    features : float32 (n_participants, most_rows, n_features).
    target : (n_participants, most_rows).
    counts : int64 (n_participants,), rows that are no padding.
    """

    features: Tensor
    target: Tensor
    counts: Tensor

    @classmethod
    def of(cls, tables: Iterable[tuple[Tensor, Tensor]]) -> "StackedRows":
        """Stack pairs of features (n_rows, n_features) and target (n_rows,)."""
        pairs = list(tables)
        counts = torch.tensor([len(target) for _, target in pairs])
        pad = nn.utils.rnn.pad_sequence
        return cls(
            pad([features for features, _ in pairs], batch_first=True),
            pad([target for _, target in pairs], batch_first=True),
            counts,
        )

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, chosen: slice | Tensor) -> "StackedRows":
        """Return the rows of some participants."""
        return StackedRows(self.features[chosen], self.target[chosen], self.counts[chosen])

    def places(self) -> Tensor:
        """Return bool (n_participants, most_rows): where a row is."""
        return torch.arange(self.target.shape[1]) < self.counts.unsqueeze(1)


@dataclass(frozen=True)
class Dense:
    """One layer of every participant: tanh(inputs @ weight.T + bias), or without tanh.

    Attributes
    ----------
    weight : (n_participants, outputs, inputs).
    bias : (n_participants, 1, outputs).
    """

    weight: Tensor
    bias: Tensor
    tanh: bool


class Randomness(Protocol):
    """Where draws and noise come from."""

    def draw(self, rows: StackedRows, rate: float) -> Tensor:
        """Return the drawn rows as ascending places in (n_participants x most_rows): each with probability `rate`."""

    def noise(self, tensors: Sequence[Tensor], deviation: Tensor) -> None:
        """Fill the tensors (n_participants, ...) with Gaussian noise, `deviation` (n_participants,) for each."""


class OneGenerator:
    """One generator for all participants: `fresh_generator()`, made in this process for this round."""

    def __init__(self, generator: torch.Generator) -> None:
        check_usable(generator)
        self._generator = generator

    def draw(self, rows: StackedRows, rate: float) -> Tensor:
        """See Randomness; independent draws of all places, of which paddings are dropped."""
        drawn = poisson_sample(rows.target.numel(), rate, self._generator)
        return drawn[rows.places().view(-1)[drawn]]

    def noise(self, tensors: Sequence[Tensor], deviation: Tensor) -> None:
        """See Randomness."""
        equal = bool((deviation == deviation[0]).all())
        for tensor in tensors:
            fill_normal(tensor, float(deviation[0]) if equal else 1, self._generator)
            if not equal:
                tensor.mul_(deviation.view(-1, *[1] * (tensor.dim() - 1)))


@named_arguments(PlanError)
class SeededDraws:
    """A seeded generator for each participant of a run without noise: all draws of a round at once, the same ones.

    `poisson_sample` takes a float64 for each unit of each step in turn, so that one call gives the numbers of all.
    """

    def __init__(self, generators: Sequence[torch.Generator], steps: int) -> None:
        self._generators, self._steps = list(generators), steps
        self._ahead: list[Tensor] = []

    def draw(self, rows: StackedRows, rate: float) -> Tensor:
        """See Randomness."""
        if not self._ahead:
            numbers = torch.ones(self._steps, *rows.target.shape, dtype=torch.float64)
            for place, (count, one) in enumerate(zip(rows.counts.tolist(), self._generators, strict=True)):
                uniform = torch.rand(self._steps, count, generator=one, dtype=torch.float64)
                numbers[:, place, :count] = uniform
            self._ahead = [(step < rate).view(-1).nonzero().squeeze(1) for step in numbers]
        return self._ahead.pop(0)

    def noise(self, tensors: Sequence[Tensor], deviation: Tensor) -> None:
        """Refuse: whoever wants noise wants another source."""
        raise PlanError("randomness: wanted one that makes noise, got draws alone")


@dataclass(frozen=True)
class _Block:
    """Drawn rows of some participants, padded with zeros.

    Attributes
    ----------
    who : int64 (m,), participants by number; None stands for all of them.
    features : float32 (m, k, n_features).
    target : (m x k,).
    present : bool (m, k, 1), where a row is.
    """

    who: Tensor | None
    features: Tensor
    target: Tensor
    present: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """Return what a stack (n_participants, ...) holds for the participants of this block."""
        return tensor if self.who is None else tensor.index_select(0, self.who)


def _blocks(rows: StackedRows, drawn: Tensor, together: int | None) -> list[_Block]:
    """Return the drawn rows: a block of all participants, then blocks of those who drew more rows.

    Blocks have `together` rows of each participant. Without it the first block is as long as most draws, and the second
    one has the rest: one block would be as long as the longest draw.
    """
    n, most = rows.target.shape
    sizes = torch.bincount(torch.div(drawn, most, rounding_mode="floor"), minlength=n)
    first = sizes.cumsum(0) - sizes
    longest = max(1, int(sizes.max()))
    usual = together or max(1, int(sizes.kthvalue(-(-n * _USUAL // 100)).values))
    features, target = rows.features.flatten(0, 1), rows.target.flatten()
    if not len(drawn):  # nothing is present then
        drawn, features, target = drawn.new_zeros(1), features.new_zeros(1, features.shape[1]), target.new_zeros(1)
    found: list[_Block] = []
    for start in range(0, longest, usual) if together else (0, usual)[: 1 + (longest > usual)]:
        who = (sizes > start).nonzero().squeeze(1) if start else None
        # One product alone has another kernel: somebody with no row left is taken, too.
        if who is not None and len(who) < 2 <= n:
            who = torch.cat([who, (who + 1) % n])
        place = torch.arange(start, start + usual if together or not start else longest)
        begin, count = (first, sizes) if who is None else (first[who], sizes[who])
        missing = place >= count.unsqueeze(1)
        chosen = drawn[(begin.unsqueeze(1) + place).view(-1).clamp_(max=len(drawn) - 1)]
        padded = missing.unsqueeze(2)
        found.append(
            _Block(
                who,
                features.index_select(0, chosen).view(*padded.shape[:2], -1).masked_fill_(padded, 0),
                target.index_select(0, chosen).masked_fill_(missing.view(-1), 0),
                ~padded,
            )
        )
    return found


@named_arguments(PlanError)
def outputs(layers: Sequence[Dense], features: Tensor) -> list[Tensor]:
    """Return what every layer gives for features (n_participants, n_rows, n_features), these first."""
    values = [features]
    for layer in layers:
        if layer.tanh:  # tanh(x) = 2 sigmoid(2x) - 1: quicker than torch's and NumPy's tanh where there is no AVX-512
            value = torch.baddbmm(layer.bias, values[-1], layer.weight.mT, beta=2, alpha=2)
            value.sigmoid_().mul_(2).sub_(1)
        else:
            value = torch.baddbmm(layer.bias, values[-1], layer.weight.mT)
        values.append(value)
    return values


def _deltas(layers: Sequence[Dense], values: list[Tensor], draw: _Block, loss: Loss, weight: Tensor) -> list[Tensor]:
    """Return the gradients (n, k, outputs) of the summed loss by every layer's output before its tanh.

    A row's loss counts `weight` (n, k, 1) times.
    """
    last = values[-1].detach().flatten(0, 1).requires_grad_()
    total = loss(last, draw.target)
    if total.shape != draw.target.shape:
        raise PlanError(f"loss: wanted one value a row, shape {tuple(draw.target.shape)}, got {tuple(total.shape)}")
    (delta,) = torch.autograd.grad((total * weight.view(-1)).sum(), last)
    # A padding's loss counts nothing, and 0 x infinity must not either.
    delta = delta.view_as(values[-1]).masked_fill_(~draw.present, 0)
    found: list[Tensor] = []
    for place in reversed(range(len(layers))):
        if layers[place].tanh:
            delta = torch.ops.aten.tanh_backward(delta, values[place + 1])
        found.insert(0, delta)
        if place:
            delta = torch.bmm(delta, layers[place].weight)
    return found


def _clip(deltas: list[Tensor], inputs: list[Tensor], clip: float) -> tuple[list[Tensor], list[Tensor]]:
    """Scale each row's part of every layer, so that its gradient over all layers jointly has norm `clip` at most.

    A row's gradient by (weight, bias) is delta times (inputs, 1), so its squared norm is |delta|^2 (|inputs|^2 + 1).
    """
    squares = [
        (torch.linalg.vecdot(delta, delta) + _TINY * delta.shape[2]) * (torch.linalg.vecdot(value, value) + 1)
        for delta, value in zip(deltas, inputs, strict=True)
    ]
    norms = torch.stack(squares).sum(0).sqrt_()
    if not math.isfinite(float(norms.sum())):
        broken = ~norms.isfinite()
        norms = norms.masked_fill(broken, 0)
        deltas = [delta.masked_fill(broken.unsqueeze(2), 0) for delta in deltas]
        inputs = [value.masked_fill(broken.unsqueeze(2), 0) for value in inputs]
    factors = (norms + 1e-6).reciprocal_().mul_(clip).clamp_(max=1.0).unsqueeze(2)
    return [delta.mul_(factors) for delta in deltas], inputs


def _batches(
    rows: StackedRows, plan: PlainPlan, randomness: Randomness, together: int | None
) -> Iterator[list[_Block]]:
    whole = None
    for _ in range(plan.steps):
        if plan.sampling_rate < 1 or isinstance(plan, DpSgdPlan):  # at rate 1 a seeded generator moves on all the same
            yield _blocks(rows, randomness.draw(rows, plan.sampling_rate), together)
            continue
        whole = whole or _blocks(rows, rows.places().view(-1).nonzero().squeeze(1), together)
        yield whole


@named_arguments(PlanError)
def train_stacked(
    layers: Sequence[Dense],
    rows: StackedRows,
    loss: Loss,
    make_optimizer: MakeOptimizer,
    plans: Sequence[PlainPlan],
    randomness: Randomness,
) -> None:
    """Train the layers in place.

    Parameters
    ----------
    layers : of n_participants each; the optimizer sees weight and bias of each layer in turn.
    loss : (outputs (n_rows, k), target (n_rows,)) -> losses (n_rows,), as in `privacy.dp_sgd`.
    make_optimizer : one that treats every coordinate by itself, such as SGD.
    plans : one a participant, `DpSgdPlan` or `PlainPlan`; all of one kind, rate, steps and clip. Noise multipliers and
        declared units may differ.

    Raises
    ------
    PlanError
        Before the first step, when plans differ in what must be equal.
    """
    plan, deviation = _common(plans, len(rows))
    normaliser = torch.tensor([one.expected_batch for one in plans])
    tensors = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    parameters = [nn.Parameter(tensor) for tensor in tensors]
    optimizer = make_optimizer(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # Kernels round a row by the shape of the product: with noise all products have one public number of rows.
    private = isinstance(plan, DpSgdPlan)
    together = MULTIPLE if private else None
    with torch.no_grad(), one_thread():
        for blocks in _batches(rows, plan, randomness, together):
            if isinstance(plan, DpSgdPlan):
                randomness.noise(gradients, deviation / normaliser)
            before = [gradient.clone() for gradient in gradients] if observed() else None
            for block in blocks:
                _add(gradients, layers, block, loss, plan, normaliser.view(-1, 1, 1))
            if before is not None and isinstance(plan, DpSgdPlan):
                _tell(gradients, before, deviation, normaliser)
            optimizer.step()


def _tell(after: Sequence[Tensor], before: Sequence[Tensor], deviation: Tensor, normaliser: Tensor) -> None:
    """Note each participant's clipped sum: what its gradient holds beside the noise that was there before."""
    sums = torch.cat([(a.double() - b.double()).flatten(1) for a, b in zip(after, before, strict=True)], dim=1)
    for total, one, scale in zip(sums, deviation.tolist(), normaliser.tolist(), strict=True):
        tell("stacked", total * scale, deviation=one)


def _add(
    gradients: Sequence[Tensor],
    layers: Sequence[Dense],
    block: _Block,
    loss: Loss,
    plan: PlainPlan,
    normaliser: Tensor,
) -> None:
    """Put the rows' mean gradients into those of their participants: on top of the noise, clipped, or in their place.

    Whoever is divided by the normaliser (n, 1, 1) is small: the deltas here, the noise's deviation there.
    """
    private = isinstance(plan, DpSgdPlan)
    layers = [Dense(block.of(layer.weight), block.of(layer.bias), layer.tanh) for layer in layers]
    normaliser = block.of(normaliser)
    values = outputs(layers, block.features)
    with torch.enable_grad():
        deltas = _deltas(layers, values, block, loss, block.present if private else block.present / normaliser)
    inputs = values[:-1]
    if isinstance(plan, DpSgdPlan):
        deltas, inputs = _clip(deltas, inputs, plan.clip)
        deltas = [delta.div_(normaliser) for delta in deltas]
    for place, (delta, value) in enumerate(zip(deltas, inputs, strict=True)):
        weight, bias = gradients[2 * place], gradients[2 * place + 1]
        if block.who is not None:
            weight.index_add_(0, block.who, torch.bmm(delta.mT, value))
            bias.index_add_(0, block.who, delta.sum(1, keepdim=True))
            continue
        weight.baddbmm_(delta.mT, value, beta=int(private))
        (bias if private else bias.zero_()).add_(delta.sum(1, keepdim=True))


def _common(plans: Sequence[PlainPlan], participants: int) -> tuple[PlainPlan, Tensor]:
    """Return what the plans have in common and the standard deviation of each one's noise."""
    if len(plans) != participants:
        raise PlanError(f"plans: wanted one for each of {participants} participants, got {len(plans)}")

    def law(plan: PlainPlan) -> tuple[Any, ...]:
        return type(plan), plan.sampling_rate, plan.steps, getattr(plan, "clip", None)

    if len({law(plan) for plan in plans}) != 1:
        raise PlanError("plans: wanted one kind, sampling rate, number of steps and clip for all participants")
    sigmas = [plan.noise_multiplier * plan.clip if isinstance(plan, DpSgdPlan) else 0.0 for plan in plans]
    return plans[0], torch.tensor(sigmas, dtype=torch.float32)
