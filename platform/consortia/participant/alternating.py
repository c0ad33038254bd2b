"""Chooses which parameters the local steps of a round move: all, or first the private and then the shared.

FedPer (Arivazhagan et al. 2019, *Federated Learning with Personalization Layers*) moves all at once, private parts
included. FedRep (Collins et al. 2021, *Exploiting Shared Representations for Personalized Federated Learning*,
Algorithm 1) moves the head first, with the representation as it came, then the representation with the new head.

Formal guarantee
----------------
Every phase is DP-SGD on the parameters that it moves, clipped jointly, with the noise multiplier that was solved for
*all* local steps of all rounds, and every step is charged. The head of the first phase has so been released to the
second one: that one is an adaptive composition, which the accountant counts. A head fitted without DP in between would
break this (the shared update reads it); `train_round` has no other way to move a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from privacy.dp_sgd import StepReport


def phases(module: nn.Module, shared: Collection[str], steps: int, private_steps: int) -> Iterator[int]:
    """Yield the number of steps of each phase, while only what the phase moves wants gradients.

    Parameters
    ----------
    shared : names of the parameters that are not private.
    steps, private_steps : local steps of a round, and how many of them move private parameters alone.
    """
    if not private_steps:
        yield steps
        return
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    try:
        for private, count in ((True, private_steps), (False, steps - private_steps)):
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(wanted[name] and (name not in shared) == private)
            yield count
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])


def joined(reports: Sequence[StepReport]) -> StepReport:
    """Return one report of phases that followed each other."""
    draws = tuple(units for report in reports for units in report.draws)
    shortened = sum(report.mean_clip_fraction * sum(report.draws) for report in reports)
    return StepReport(
        steps_taken=sum(report.steps_taken for report in reports),
        mean_clip_fraction=shortened / sum(draws) if sum(draws) else 0.0,
        draws=draws,
    )
