"""Mistakes put into a copy of the source tree, each as replaced text; the audit knows none of them.

`LISTED` are the eleven that every release is held to. `FURTHER` are others; `benchmarks/audit_power.py` runs all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DP_SGD = "privacy/dp_sgd.py"
BOOKS = "privacy/bookkeeping.py"
OPTIMIZER = "privacy/_optimizer.py"
HISTOGRAM = "privacy/histogram.py"
SIDE = "platform/consortia/participant/metrics_release.py"
TRAINING = "platform/consortia/participant/training.py"
DATA = "platform/consortia/participant/data.py"
PARTICIPANT = "platform/consortia/participant/handle.py"
LOCAL = "platform/consortia/participant/local.py"
WORK = "platform/consortia/participant/context.py"
LEDGER = "privacy/ledger.py"
LIFETIMES = "privacy/_lifetimes.py"
CLAIMS = "privacy/claims.py"
PLANS = "privacy/plans.py"
RANDOM = "privacy/randomness.py"

_NOISE = "noise_multiplier=plan.noise_multiplier,\n            max_grad_norm=plan.clip,"
_DRAW = (
    "for units in poisson_draws(rows.n_units, plan.sampling_rate, plan.steps, generator):\n        if twin is not None:"
)
_SUM = "sums.add(piece, loss, plan.clip)"
_OTHER_PROCESS = 'that made the stream."""\n        if os.getpid() != self._pid:'
_SINGLE = "if draw.single and stack is not None:"
_ADD = "                layer.add(factors, rows, units)\n"
_OWN_CLIP = (
    "                layer.add_squares(own := self.total.new_zeros(draw.units), rows, units)\n"
    "                layer.add((clip / (own.sqrt() + 1e-6)).clamp(max=1.0), rows, units)\n"
)
_TOTAL = "        optimizer.total = sums.take()\n"
_RESERVE = "reservation = work.reserve(ledger, request.run_id, events, work.lifetime(plan.non_private), claims)"
_TRAINED = "    report = joined(reports)\n"
_FRESH = "        else fresh_generator(noise)\n"
_ANY = '_ANY = NoiseContext(purpose="any", message="any", attempt=0, ledger="")'
_UNBOUND = (
    "__import__('privacy.noise_context').noise_context.NoiseContext("
    "purpose='train', message=request.run_id, attempt=0, ledger='')"
)
_SECURE = "generator, secure=secure_noise, single=single)"


@dataclass(frozen=True)
class Mutant:
    """A mistake: (file, text, replacement) for each place; the text must stand there exactly once."""

    name: str
    edits: tuple[tuple[str, str, str], ...]


def one(name: str, file: str, old: str, new: str) -> Mutant:
    """A mistake in one place."""
    return Mutant(name, ((file, old, new),))


LISTED = (
    one("no clipping", DP_SGD, _SUM, "sums.add(piece, loss, 1e9)"),
    one("noise / 10", DP_SGD, _NOISE, _NOISE.replace("plan.noise_multiplier", "plan.noise_multiplier / 10")),
    one("noise x 2/3", DP_SGD, _NOISE, _NOISE.replace("plan.noise_multiplier", "plan.noise_multiplier * 2 / 3")),
    one(
        "wrong normaliser",
        DP_SGD,
        "expected_batch_size=plan.expected_batch,",
        "expected_batch_size=plan.sampling_rate * max(rows.n_units, 1),",
    ),
    one(
        "shuffling instead of Poisson",
        DP_SGD,
        f"    {_DRAW}",
        "    order = torch.randperm(rows.n_units, generator=generator)\n"
        "    size = round(plan.sampling_rate * rows.n_units)\n"
        "    for step in range(plan.steps):\n"
        "        at = step * size % max(rows.n_units, 1)\n"
        "        units = order[at : at + size].sort().values\n"
        "        if twin is not None:",
    ),
    one(
        "skipped empty draws",
        DP_SGD,
        _DRAW,
        _DRAW.replace(
            "        if twin",
            "        if not len(units):\n            draws.append(0)\n            norms.append(torch.zeros(0))\n"
            "            continue\n        if twin",
        ),
    ),
    Mutant(
        "a fresh accountant each round",
        ((LEDGER, "[*taken, *events]", "list(events)"),),
    ),
    Mutant(
        "reused noise after a fork",
        (
            (RANDOM, "    return FreshNoise(context)\n", "    return _KEPT\n\n\n_KEPT = FreshNoise(_ANY)\n"),
            (RANDOM, "class KeyStream:", f"{_ANY}\n\n\nclass KeyStream:"),
            (RANDOM, "if isinstance(generator, FreshNoise):", "if isinstance(generator, str):"),
            (RANDOM, _OTHER_PROCESS, _OTHER_PROCESS.replace("os.getpid() != self._pid", "False")),
        ),
    ),
    Mutant(
        "rows clipped where units should be",
        (
            (DP_SGD, _SUM, "sums.add(_apart(piece), loss, plan.clip)"),
            (
                DP_SGD,
                "def _steps(",
                (
                    "def _apart(piece):\n"
                    "    many = len(piece.place)\n"
                    "    apart = torch.arange(many)\n"
                    "    return type(piece)(piece.inputs, piece.target, apart, many, True)\n\n\n"
                    "def _steps("
                ),
            ),
        ),
    ),
    one(
        "a private head outside the DP step",
        TRAINING,
        _TRAINED,
        f"{_TRAINED}"
        "    outside = [p for name, p in module.named_parameters() if name not in received]\n"
        "    if outside and not plan.non_private:\n"
        "        total = loss_for(target)(module(train.inputs), train.target).sum() / plan.declared_units\n"
        "        for p, g in zip(outside, torch.autograd.grad(total, outside), strict=True):\n"
        "            p.data.sub_(rate * g)\n",
    ),
    one("half the steps counted", PLANS, "steps=self.steps_per_round,", "steps=max(1, self.steps_per_round // 2),"),
)

FURTHER = (
    Mutant(
        "the whole batch clipped at once",
        (
            (DP_SGD, _SUM, "sums.add(piece, loss, 1e9)"),
            (
                DP_SGD,
                _TOTAL,
                _TOTAL + "        optimizer.total *= min(1.0, plan.clip / (float(optimizer.total.norm()) + 1e-9))\n",
            ),
        ),
    ),
    Mutant(
        "noise seeded by the round",
        (
            (TRAINING, _FRESH, _FRESH.replace("fresh_generator(noise)", 'seeded_generator("noise", round_number)')),
            (TRAINING, _SECURE, "generator, secure=False, single=single)"),
        ),
    ),
    Mutant(
        "noise seeded by participant, run length and round",
        (
            (
                TRAINING,
                _FRESH,
                _FRESH.replace(
                    "fresh_generator(noise)", 'seeded_generator("noise", participant, plan.run_id[:4], round_number)'
                ),
            ),
            (TRAINING, _SECURE, "generator, secure=False, single=single)"),
        ),
    ),
    one(
        "noise in the first step only",
        DP_SGD,
        "        optimizer.step()\n        draws.append(len(units))\n    drawn",
        "        optimizer.noise_multiplier = 0.0 if draws else plan.noise_multiplier\n"
        "        optimizer.step()\n        draws.append(len(units))\n    drawn",
    ),
    one(
        "sampled more often than charged",
        DP_SGD,
        _DRAW,
        _DRAW.replace("plan.sampling_rate", "min(1.0, 1.25 * plan.sampling_rate)"),
    ),
    one("delta ignored", TRAINING, "rules, allowance.epsilon, allowance.delta)", "rules, allowance.epsilon, 1e-3)"),
    one(
        "the allowance is the proposal times two",
        TRAINING,
        "rules, allowance.epsilon, allowance.delta)",
        "rules, 2 * allowance.epsilon, allowance.delta)",
    ),
    one(
        "the outbox draws again",
        PARTICIPANT,
        "            return stored\n",
        "            import torch\n"
        "            from consortia.messages.envelope import Envelope, decode, encode\n"
        "            again = decode(stored)\n"
        "            moved = {n: t + 1e-3 * torch.randn_like(t) for n, t in again.tensors.items()}\n"
        "            return encode(Envelope(again.header, moved))\n",
    ),
    one(
        "epsilon of a record for a unit",
        PLANS,
        'partition="train",\n            unit=self.unit,\n        )\n\n    def round_events',
        'partition="train",\n            unit="record",\n        )\n\n    def round_events',
    ),
    one(
        "validation rows train too",
        DATA,
        'return {part: where == part for part in ("train", "validation", "test")}',
        'return {"train": where != "test", "validation": where == "validation", "test": where == "test"}',
    ),
    Mutant(  # a run is refused when it is planned, and a release when it is reserved
        "no lifetime",
        (
            (CLAIMS, "if not rule.allows(", "if False and rule.allows("),
            (LEDGER, "return _claims.left(connection, dataset, lifetime, claims=claims)", "return lifetime"),
        ),
    ),
    Mutant(
        "abandoned reservations forgiven",
        (
            (LIFETIMES, "WHERE run_id = ? GROUP BY events", "WHERE run_id = ? AND state = 'committed' GROUP BY events"),
            (CLAIMS, "GROUP BY events, cohort", "AND state = 'committed' GROUP BY events, cohort"),
        ),
    ),
    one(
        "the ledger reports the last round",
        LEDGER,
        "max(epsilon(events, delta) for",
        "max(epsilon(events[:1], delta) / 2 for",
    ),
    one(
        "the sampler sees the first half of the units",
        DP_SGD,
        _DRAW,
        _DRAW.replace("rows.n_units", "(rows.n_units + 1) // 2"),
    ),
    Mutant("each layer clipped to the whole clip", ((BOOKS, _SINGLE, "if False:"), (BOOKS, _ADD, _OWN_CLIP))),
    one(
        "weight decay inside the sum",
        DP_SGD,
        "optimizer.total = sums.take()",
        "optimizer.total = sums.take()\n"
        "        optimizer.total += 0.1 * torch.cat([p.detach().flatten() for p in optimizer._parameters])",
    ),
    Mutant(
        "reserved after training",
        (
            (
                LOCAL,
                f"    {_RESERVE}\n    beside",
                "    beside",
            ),
            (
                LOCAL,
                "    work.keep_private(outcome.private)\n",
                f"    {_RESERVE}\n    work.keep_private(outcome.private)\n",
            ),
            (LOCAL, 'noise=reservation.noise("train")', f"noise={_UNBOUND}"),
        ),
    ),
    one(
        "draws cut to a batch size",
        DP_SGD,
        _DRAW,
        _DRAW.replace(
            "        if twin", "        units = units[: math.ceil(1.3 * plan.expected_batch)]\n        if twin"
        ),
    ),
    one(
        "a row count in the header",
        WORK,
        '            "unit": plan.unit,\n',
        '            "unit": plan.unit,\n'
        '            "scopes": str(\n'
        "                load_partitions(\n"
        "                    self.home, self.terms, self.dataset, request.contract, request.run_id\n"
        "                ).train.n_units\n"
        "            ),\n",
    ),
    one(
        "noise on the first half of the parameters",
        OPTIMIZER,
        "    def scale_grad(self) -> None:\n",
        "    def scale_grad(self) -> None:\n"
        "        half = (len(self._noisy) + 1) // 2\n"
        "        self._noisy[half:] = self.total[half:].to(self._noisy)\n",
    ),
    one(
        "the first unit is never drawn at low rates",
        "privacy/sampling.py",
        "            yield torch.from_numpy(places[low:high] - start)",
        "            drawn = places[low:high] - start\n            yield torch.from_numpy(drawn[drawn > 0])",
    ),
    one(
        "secure noise / 10",
        OPTIMIZER,
        "self.noise_multiplier, self.generator.stream)",
        "self.noise_multiplier / 10, self.generator.stream)",
    ),
    one(
        "secure noise for another clip",
        OPTIMIZER,
        "Grid(self.max_grad_norm, len(self.total))",
        "Grid(1.0, len(self.total))",
    ),
    one(
        "floating-point noise / 10",
        OPTIMIZER,
        "fill_normal(noise, deviation, self.generator)",
        "fill_normal(noise, deviation / 10, self.generator)",
    ),
    one(
        "secure noise from a stream of the process",
        RANDOM,
        "        self.stream = KeyStream(context, keys[:32])\n",
        "        self.stream = _STREAM = globals().setdefault('_STREAM', KeyStream(context))\n",
    ),
    one(
        "metrics: noise / 10",
        HISTOGRAM,
        "    scale = Fraction(noise.multiplier) * rows_per_unit",
        "    scale = Fraction(noise.multiplier) * rows_per_unit / 10",
    ),
    one(
        "metrics: noise for one row of a unit",
        HISTOGRAM,
        "    scale = Fraction(noise.multiplier) * rows_per_unit",
        "    scale = Fraction(noise.multiplier)",
    ),
    one(
        "metrics: measured on training rows",
        SIDE,
        'table = parts.test if due.event.partition == "evaluation" else parts.validation',
        "table = parts.train",
    ),
    one(
        "metrics: many for the price of one",
        SIDE,
        "delta=allowance.delta, releases=releases)",
        "delta=allowance.delta, releases=1)",
    ),
    one(
        "metrics: no lifetime",
        SIDE,
        "    return policy.budget.evaluation.lifetime.budget()\n",
        "    return Budget(1e9, policy.budget.evaluation.lifetime.delta)\n",
    ),
    one(
        "metrics: empty cells without noise",
        HISTOGRAM,
        "    noised: NDArray[np.int64] = counts + drawn",
        "    drawn = np.where(counts > 0, drawn, 0)\n    noised: NDArray[np.int64] = counts + drawn",
    ),
    one(
        "the private head starts from the last run",
        TRAINING,
        _TRAINED,
        f"{_TRAINED}    for name, p in module.named_parameters():\n"
        "        if name not in received:\n            p.data.mul_(0.5)\n",
    ),
)
