"""Checks a strategy. Each check raises AssertionError with what it saw."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from consortia.coordinator.checkpoint import Checkpoint, load_latest, save
from consortia.terms.scopes import LARGEST
from consortia.testing._suite import require
from strategies.base import Asynchronous, Controlled, Strategy, Update

State = dict[str, Tensor]
ROUNDS = 4
_BOUND = 5.0


def _start() -> State:
    """Every kind of tensor that a module can hold: dtypes, a scalar, an empty one, buffers that are no numbers."""
    generator = torch.Generator().manual_seed(0)
    return {
        "head.weight": torch.randn(2, 3, generator=generator),
        "encoder.weight": torch.randn(4, 1, generator=generator, dtype=torch.float64),
        "trunk.half": torch.randn(3, generator=generator).to(torch.float16),
        "trunk.scalar": torch.tensor(0.5),
        "trunk.empty": torch.zeros(0, 3),
        "trunk.count": torch.tensor(2**60 + 1),
        "trunk.flags": torch.tensor([True, False]),
    }


def _count(strategy: Strategy) -> int:
    return max(strategy.minimum_participants, 1) + 2


def _updates(states: Sequence[State], weights: Sequence[float] | None = None) -> list[Update]:
    n = len(states)
    shares = weights or [1 / max(1, n)] * n
    return [
        Update(f"p{i:02d}", state, share, bound=_BOUND, steps=3.0, loss=0.5)
        for i, (state, share) in enumerate(zip(states, shares, strict=True))
    ]


def _zero(strategy: Strategy, start: State) -> State:
    """What a participant sends that found nothing to change."""
    if not strategy.fit.gradient:
        return {name: tensor.clone() for name, tensor in start.items()}
    return {n: torch.zeros_like(t) if t.is_floating_point() else t.clone() for n, t in start.items()}


def _near(strategy: Strategy, start: State, count: int, seed: int = 1) -> list[State]:
    """Honest replies: what came, or zero gradients, and a little on top."""
    generator = torch.Generator().manual_seed(seed)
    zero = _zero(strategy, start)
    return [
        {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor.clone()
            for name, tensor in sorted(zero.items())  # a checkpoint has an order of its own
        }
        for _ in range(count)
    ]


def _nothing() -> State:
    return {}


def _close(left: State, right: State, rtol: float = 1e-5, atol: float = 1e-6) -> bool:
    return set(left) == set(right) and all(
        torch.allclose(tensor.double(), right[name].double(), rtol=_loose(tensor, rtol), atol=_loose(tensor, atol))
        if tensor.is_floating_point()
        else torch.equal(tensor, right[name])
        for name, tensor in left.items()
    )


def _loose(tensor: Tensor, tolerance: float) -> float:
    return max(tolerance, 2e-3) if tensor.dtype == torch.float16 else tolerance


def _identical(left: State, right: State) -> bool:
    return set(left) == set(right) and all(
        tensor.dtype == right[name].dtype and torch.equal(tensor, right[name]) for name, tensor in left.items()
    )


def _copy(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def keeps_names_shapes_and_dtypes(strategy: Strategy) -> None:
    """Also of integer and boolean buffers on which all agree, which keep their value."""
    start = _start()
    new, _ = strategy.aggregate(start, _updates(_near(strategy, start, _count(strategy))), {})
    require(set(new) == set(start), f"wanted parameters {sorted(start)}, got {sorted(new)}")
    for name, tensor in start.items():
        require(new[name].dtype == tensor.dtype, f"{name}: wanted {tensor.dtype}, got {new[name].dtype}")
        require(new[name].shape == tensor.shape, f"{name}: wanted {tuple(tensor.shape)}, got {tuple(new[name].shape)}")
    for name in ("trunk.flags", "trunk.count"):
        require(
            torch.equal(new[name], start[name]),
            f"{name}: wanted {start[name]}, which all replies have, got {new[name]}; keep integers and booleans exact, "
            "as strategies.arithmetic.weighted_mean does",
        )


def unmoved_replies_move_nothing(strategy: Strategy) -> None:
    """Participants that send back what they got (or zero gradients) leave the model where it is, for ever."""
    current: State = _start()
    memory: State = {}
    for number in range(1, ROUNDS + 1):
        states = [_zero(strategy, current) for _ in range(_count(strategy))]
        new, memory = strategy.aggregate(current, _updates(states), memory)
        changed = [name for name in current if not _close({name: new[name]}, {name: current[name]})]
        require(not changed, f"round {number}: all replies equal the sent model, but aggregate changed {changed}")
        current = new


def equal_updates_are_a_fixed_point(strategy: Strategy) -> None:
    """Where `fit.consensus` says so, equal updates give that very update."""
    start = _start()
    (reply,) = _near(strategy, start, 1)
    if strategy.fit.bound == "uses":
        reply = _zero(strategy, start)
    states = [_copy(reply) for _ in range(_count(strategy))]
    if strategy.fit.consensus:
        new, _ = strategy.aggregate(start, _updates(states), {})
        require(_close(new, reply), "all sent the same update, and the result is another")


def order_of_replies_does_not_matter(strategy: Strategy) -> None:
    """In no round, memory included."""
    start = _start()
    one: tuple[State, State] = (start, {})
    other: tuple[State, State] = (start, {})
    for number in range(1, ROUNDS + 1):
        updates = _updates(_near(strategy, start, _count(strategy), seed=number))
        one = strategy.aggregate(*_with(one, updates))
        other = strategy.aggregate(*_with(other, updates[2:] + updates[1::-1]))
        require(_close(one[0], other[0]), f"round {number}: replies in another order gave another model")
        require(_close(one[1], other[1]), f"round {number}: replies in another order gave another memory")


def _with(place: tuple[State, State], updates: list[Update]) -> tuple[State, list[Update], State]:
    return place[0], updates, place[1]


def weights_do_what_the_fit_says(strategy: Strategy) -> None:
    """One vote each where `fit.weights` is "equal"; elsewhere a heavier participant counts more."""
    start, n = _start(), _count(strategy)
    uneven = [1.0 + 9 * i / n for i in range(n)]
    uneven = [weight / sum(uneven) for weight in uneven]
    plain, weighted = start, start
    memories = [_nothing(), _nothing()]
    for number in range(1, ROUNDS + 1):  # the first step of Adam and the like has one length for all
        states = _near(strategy, plain, n, seed=number)
        plain, memories[0] = strategy.aggregate(plain, _updates(states), memories[0])
        weighted, memories[1] = strategy.aggregate(weighted, _updates(states, uneven), memories[1])
    if strategy.fit.weights == "equal":
        require(_close(plain, weighted), 'fit.weights is "equal", and other weights gave another model')
    else:
        require(not _close(plain, weighted, 1e-7, 1e-7), "other weights gave the same model")


def changes_none_of_its_inputs(strategy: Strategy) -> None:
    """Neither model, nor updates, nor memory; what it returns shares no storage with them."""
    start = _start()
    updates = _updates(_near(strategy, start, _count(strategy)))
    _, memory = strategy.aggregate(start, updates, {})
    before = [_copy(start), _copy(memory), *(_copy(dict(u.state)) for u in updates)]
    new, kept = strategy.aggregate(start, updates, memory)
    for result in (new, kept):
        for tensor in result.values():
            tensor.zero_()
    after = [start, memory, *(dict(u.state) for u in updates)]
    require(
        all(_identical(old, now) for old, now in zip(before, after, strict=True)),
        "aggregate changed its inputs, or returned a tensor that is one of them",
    )


def has_no_state_outside_its_memory(strategy: Strategy) -> None:
    """Asked the same again it answers the same to the bit: no draw, no hidden counter, nothing of torch's state."""
    start = _start()
    updates = _updates(_near(strategy, start, _count(strategy)))
    _, memory = strategy.aggregate(start, updates, {})
    random = torch.get_rng_state()
    first = strategy.aggregate(start, updates, memory)
    second = strategy.aggregate(start, updates, memory)
    require(_identical(first[0], second[0]), "the same call gave another model")
    require(_identical(first[1], second[1]), "the same call gave another memory")
    require(torch.equal(random, torch.get_rng_state()), "aggregate draws from torch's global generator")


def memory_survives_a_checkpoint(strategy: Strategy) -> None:
    """A run that stops and resumes after every round is identical to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        straight = _play(strategy, lambda place, _: place)
        resumed = _play(strategy, lambda place, number: _through_a_file(place, number, Path(folder)))
    require(_identical(straight[0], resumed[0]), "a resumed run has another model")
    require(_identical(straight[1], resumed[1]), "a resumed run has another memory")


def _play(
    strategy: Strategy, between: Callable[[tuple[State, State], int], tuple[State, State]]
) -> tuple[State, State]:
    place: tuple[State, State] = (_start(), {})
    for number in range(1, ROUNDS + 1):
        replies = _near(strategy, place[0], _count(strategy), seed=number)
        place = between(strategy.aggregate(*_with(place, _updates(replies))), number)
    return place


def _through_a_file(place: tuple[State, State], number: int, folder: Path) -> tuple[State, State]:
    save(folder, Checkpoint(number, {"g": place[0]}, {"g": place[1]}, {}, []))
    loaded = load_latest(folder)
    require(loaded is not None, "no checkpoint was written")
    assert loaded is not None
    return loaded.groups["g"], loaded.memory.get("g", {})


def control_fits_the_model(strategy: Strategy) -> None:
    """What is sent beside the model has its floating parameters' names, shapes and dtypes, and starts at zero."""
    if not isinstance(strategy, Controlled):
        return
    start = _start()
    wanted = {name: tensor for name, tensor in start.items() if tensor.is_floating_point()}
    _, memory = strategy.aggregate(start, _updates(_near(strategy, start, _count(strategy))), {})
    for held in ({}, memory):
        before = _copy(held)
        sent = strategy.control(start, held, "p00")
        require(_identical(before, held), "control changed the memory")
        require(set(sent) == set(wanted), f"wanted control of {sorted(wanted)}, got {sorted(sent)}")
        for name, tensor in wanted.items():
            same = sent[name].shape == tensor.shape and sent[name].dtype == tensor.dtype
            require(same, f"{name}: wanted {tensor.dtype} {tuple(tensor.shape)}, got {sent[name].dtype}")
            require(bool(held) or not bool(sent[name].any()), f"{name}: wanted zero before the first reply")


def stays_finite(strategy: Strategy) -> None:
    """For the largest numbers that may arrive, for tiny ones, and for updates that do not change at all."""
    n = _count(strategy)
    for size in (0.0, 1e-30, 1e-6, 1.0, 0.9 * LARGEST):
        start: State = {"head.weight": torch.zeros(3), "trunk.wide": torch.zeros(2, dtype=torch.float64)}
        current, memory = start, _nothing()
        for number in range(1, ROUNDS + 1):
            signs = [1 if (i + number) % 2 else -1 for i in range(n)]
            states = [{name: torch.full_like(t, size * sign) for name, t in start.items()} for sign in signs]
            current, memory = strategy.aggregate(current, _updates(states), memory)
            for what, state in (("model", current), ("memory", memory)):
                for name, tensor in state.items():
                    require(
                        not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()),
                        f"round {number} of updates of size {size:g}: {what} {name} is not finite",
                    )


def takes_as_few_as_it_says_and_refuses_fewer(strategy: Strategy) -> None:
    """`minimum_participants` replies are enough, one of them for most; fewer raise ValueError."""
    start, least = _start(), strategy.minimum_participants
    require(least >= 1, f"minimum_participants: wanted at least 1, got {least}")
    require(
        not strategy.fit.per_attacker or least >= 3,
        "a robust strategy takes a group of two, which has no majority; set fit.per_attacker to 2 or more",
    )
    strategy.aggregate(start, _updates(_near(strategy, start, least)), {})
    try:
        strategy.aggregate(start, _updates(_near(strategy, start, least - 1)), {})
    except ValueError:
        return
    raise AssertionError(f"minimum_participants is {least}, and {least - 1} were taken")


def staleness_counts_less_and_less(strategy: Strategy) -> None:
    """Without rounds: s starts at one, never grows and stays above zero, and an older reply moves the model no more."""
    if not isinstance(strategy, Asynchronous):
        return
    weights = [strategy.staleness_weight(behind) for behind in range(strategy.max_staleness + 1)]
    require(weights[0] == 1.0, f"a fresh reply: wanted the weight 1, got {weights[0]!r}")
    falls = all(0 < later <= earlier for earlier, later in itertools.pairwise(weights))
    require(falls, "the weight of a reply grows with its staleness, or reaches zero")
    start: State = {"head.weight": torch.zeros(4)}
    moves = []
    for behind in range(min(strategy.max_staleness, 9) + 1):
        update = Update("p00", {"head.weight": torch.ones(4)}, 1.0, start=start, staleness=behind)
        new, _ = strategy.aggregate(start, [update], {})
        moves.append(float(new["head.weight"].norm()))
    for behind, move in enumerate(moves):
        require(abs(move - moves[0] * weights[behind]) < 1e-5, f"{behind} steps late, the weight was not applied")


def withstands_the_attackers_it_names(strategy: Strategy) -> None:
    """A robust strategy, with as many attackers as it counts on, stays near the honest updates."""
    attackers = int(getattr(strategy, "attackers", 0)) if strategy.fit.per_attacker else 0
    if not attackers:
        return
    n = strategy.minimum_participants
    start: State = {"head.weight": torch.zeros(50)}
    honest = _near(strategy, start, n - attackers)
    for size in (-1e5, 1.0, 1e5):
        evil = [{"head.weight": torch.full((50,), size)} for _ in range(attackers)]
        for states in (honest + evil, evil + honest):
            new, _ = strategy.aggregate(start, _updates(states), {})
            far = float(new["head.weight"].norm())
            require(far <= 2 * _BOUND, f"{attackers} of {n} sent {size:g} and moved the model by {far:.3g}")
