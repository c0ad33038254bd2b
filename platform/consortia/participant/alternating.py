"""Chooses which parameters the local steps of a round train: all of them, or first the private and then the shared
ones.

FedPer (Arivazhagan et al. 2019, *Federated Learning with Personalization Layers*) trains all parameters together,
private parts included. FedRep (Collins et al. 2021, *Exploiting Shared Representations for Personalized Federated
Learning*, Algorithm 1) first trains the head with the received representation, and then the representation with the new
head.

Formal guarantee
----------------
Every phase is DP-SGD on its parameters, clipped jointly. The noise multiplier was solved for *all* local steps of all
rounds, and every step is charged. So the second phase may use the head of the first phase: this is an adaptive
composition, which the accountant counts. A head that is fitted without DP in between would break the guarantee, because
the shared update depends on it. `train_round` has no other way to change a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from privacy.dp_sgd import StepReport


def phases(module: nn.Module, shared: Collection[str], steps: int, private_steps: int) -> Iterator[int]:
    """Yield the number of steps of each phase. During a phase only its parameters require gradients.

    Parameters
    ----------
    shared : names of the parameters that are not private.
    steps, private_steps : local steps of a round, and how many of them train only private parameters.
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
    """Merge the reports of consecutive phases into one."""
    draws = tuple(units for report in reports for units in report.draws)
    shortened = sum(report.mean_clip_fraction * sum(report.draws) for report in reports)
    return StepReport(
        steps_taken=sum(report.steps_taken for report in reports),
        mean_clip_fraction=shortened / sum(draws) if sum(draws) else 0.0,
        draws=draws,
    )
