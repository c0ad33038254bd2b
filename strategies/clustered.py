"""Clustered federated learning: participants whose updates disagree for good get models of their own.

Sattler, Mueller & Samek, "Clustered Federated Learning: Model-Agnostic Distributed Multi-Task Optimization under
Privacy Constraints", IEEE TNNLS 2021, Algorithms 1 and 3. Where groups of participants want different models, FedAvg
ends where their updates cancel; there updates of different groups point against each other, and the cosine of the
angle between them tells the groups apart (Theorem 1). The coordinator splits a group in two and goes on with each.

It reads nothing but released updates, so it is post-processing and costs no budget. (IFCA, Ghosh et al. 2020, lets each
participant choose its model by training loss: that choice is a release of its own in every round, hence not built.)

Deviations from the paper, for updates with noise: similarities are taken of updates summed over rounds (decayed), in
which noise cancels and a lasting pull adds up; a cut must be clearer than random directions would make it
(their cosines have standard deviation 1/sqrt(d)); both parts must agree within themselves; none is smaller than
`least`. The paper's first criterion (the mean update is short, the single ones are long) is not asked for: with
absolute lengths it depends on clip and learning rate, and updates that oppose each other imply it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, weighted_mean
from strategies.base import Fit, Simple, Update, number, whole
from strategies.vectors import centred

if TYPE_CHECKING:
    from torch import Tensor

#: Cosine beyond which directions count as opposed however few coordinates there are.
_OPPOSED = 0.5


@dataclass(frozen=True, kw_only=True)
class Clustered(Simple):
    """FedAvg within clusters, which split where their members' updates oppose each other.

    Parameters
    ----------
    least : int
        Members of the smallest cluster, >= 1. In one of two each derives the other's update, in one of one the model
        is its only member's.
    after : int
        The first round that may split, >= 1.
    decay : float
        What a round's updates count in the next one's sum, in [0, 1); 0 looks at the last round alone.
    separation : float
        How many standard deviations of random directions' cosines a cut must be clearer than, >= 0.
    """

    least: int = 2
    after: int = 3
    decay: float = 0.8
    separation: float = 1.5

    def __post_init__(self) -> None:
        whole("least", self.least, least=1)
        whole("after", self.after, least=1)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: wanted 0 <= decay < 1, got {self.decay!r}")
        number("separation", self.separation)

    @property
    def fit(self) -> Fit:
        """See `Strategy.fit`."""
        return Fit()

    def model(self, current: State, memory: State, participant: str) -> dict[str, Tensor]:
        """See `strategies.base.Clusters.model`."""
        number = _cluster(memory, participant)
        return {name: memory.get(f"cluster/{number}/{name}", tensor).clone() for name, tensor in current.items()}

    def clusters(self, memory: State, names: Iterable[str]) -> dict[str, int]:
        """See `strategies.base.Clusters.clusters`."""
        return {name: _cluster(memory, name) for name in names}

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`.

        The memory is round; member/<participant>, the cluster's number; pull/<participant>, the decayed sum of changes
        (n_coordinates,); and, once there are several, cluster/<number>/<parameter>. The group's parameters are then
        the mean of the members' models, which nobody gets. A participant that is not yet known belongs to the first
        cluster.
        """
        import torch

        if not updates:
            raise ValueError("updates: wanted at least one, got none")
        updates = sorted(updates, key=lambda update: update.participant)
        number = int(memory.get("round", torch.tensor(0))) + 1
        before = {update.participant: _cluster(memory, update.participant) for update in updates}
        pulls = {key.removeprefix("pull/"): tensor for key, tensor in memory.items() if key.startswith("pull/")}
        for update in updates:
            change = centred(self.model(current, memory, update.participant), [update.state])[0]
            old = pulls.get(update.participant)
            pulls[update.participant] = change if old is None else self.decay * old + change
        member = {name: _cluster(memory, name) for name in pulls}
        if number >= self.after:
            member, pulls = self._split(member, pulls)
        models = {
            k: weighted_mean([u.state for u in mine], [u.weight for u in mine])
            for k in sorted(set(member.values()))
            if (mine := [u for u in updates if member[u.participant] == k])
        }
        for name, k in member.items():  # nobody of this cluster answered, so its model stays as it was
            models.setdefault(k, self.model(current, memory, name))
        kept = {"round": torch.tensor(number)} | {f"pull/{name}": tensor.clone() for name, tensor in pulls.items()}
        kept |= {f"member/{name}": torch.tensor(k) for name, k in member.items()}
        alone = len(models) == 1 and not any(before.values())
        if not alone:
            kept |= {f"cluster/{k}/{name}": t.clone() for k, model in models.items() for name, t in model.items()}
            return weighted_mean([models[member[u.participant]] for u in updates], [u.weight for u in updates]), kept
        return models[0], kept

    def _split(
        self, member: Mapping[str, int], pulls: Mapping[str, Tensor]
    ) -> tuple[dict[str, int], dict[str, Tensor]]:
        """Cut every cluster that falls apart in two; the new parts start their sums anew."""
        import torch

        out, left = dict(member), dict(pulls)
        for k in sorted(set(member.values())):
            names = sorted(name for name, own in member.items() if own == k)
            away = cut(torch.stack([pulls[name] for name in names]), self.least, self.separation)
            if away:
                fresh = max(out.values()) + 1
                out |= {names[i]: fresh for i in away}
                left |= {name: torch.zeros_like(pulls[name]) for name in names}
        return out, left


def _cluster(memory: State, participant: str) -> int:
    """Return the number of a participant's cluster: 0 for whoever never answered."""
    import torch

    return int(memory.get(f"member/{participant}", torch.tensor(0)))


def cosines(vectors: Tensor) -> Tensor:
    """Return the cosines (n, n) between rows (n, d); a row of zeros has no direction and gets 0 with all others."""
    import torch

    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    unit = torch.where(norms > 0, vectors / norms.clamp(min=torch.finfo(vectors.dtype).tiny), 0.0)
    return (unit @ unit.T).clamp(-1.0, 1.0)


def cut(vectors: Tensor, least: int, separation: float) -> list[int]:
    """Return the rows that go to another cluster, or none where the rows (n, d) belong together.

    The cut is the one with the smallest maximal similarity across (the paper's equation 18) among those of the maximum
    spanning tree: without one of its edges the tree falls in two parts, and no pair across is more similar than that
    edge. It counts when that similarity is below -t and the mean one within either part above t, with
    t = min(separation / sqrt(d), 1/2). The part with row 0 stays.
    """
    n, d = vectors.shape
    if n < max(2, 2 * least) or not d:
        return []
    similar = cosines(vectors)
    limit = min(separation / math.sqrt(d), _OPPOSED)
    edges = _spanning_tree(similar)
    for i, j in sorted(edges, key=lambda edge: (float(similar[edge]), edge)):
        if not float(similar[i, j]) < -limit:
            break
        stay = _reached(0, [edge for edge in edges if edge != (i, j)])
        away = [row for row in range(n) if row not in stay]
        parts = (sorted(stay), away)
        if min(map(len, parts)) >= least and all(_within(similar, part) > limit for part in parts):
            return away
    return []


def _within(similar: Tensor, part: Sequence[int]) -> float:
    """Return the mean similarity of different rows of a part; 1 for a single one."""
    count = len(part)
    if count == 1:
        return 1.0
    block = similar[part][:, part]
    return float((block.sum() - block.diagonal().sum()) / (count * (count - 1)))


def _spanning_tree(similar: Tensor) -> list[tuple[int, int]]:
    """Return the edges of a maximum spanning tree (Prim), each as (smaller, larger) row."""
    inside, edges = {0}, []
    outside = set(range(1, len(similar)))
    while outside:
        _, i, j = max((float(similar[i, j]), -i, -j) for i in inside for j in outside)
        edges.append((min(-i, -j), max(-i, -j)))
        inside.add(-j)
        outside.remove(-j)
    return edges


def _reached(start: int, edges: Sequence[tuple[int, int]]) -> set[int]:
    found, grown = {start}, True
    while grown:
        new = {b for a, b in (*edges, *((b, a) for a, b in edges)) if a in found} - found
        found, grown = found | new, bool(new)
    return found
