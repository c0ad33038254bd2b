"""Says which control runs a scenario can have, before anything runs. It loads nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients import registry
from consortia.common.errors import InputError

if TYPE_CHECKING:
    from consortia.engines.options import Options
    from consortia.terms.scenario import Scenario

__all__ = ["check_controls"]


def check_controls(scenario: Scenario, options: Options) -> None:
    """Refuse `--placebo` or `--uncompressed` where the scenario or the other options leave nothing to compare.

    Raises
    ------
    InputError
        Naming the option or the key of the contract.
    """
    if options.placebo:
        _check_simulation("--placebo", options)
        _check_placebo(scenario)
    if options.uncompressed:
        _check_simulation("--uncompressed", options)
        if scenario.contract.compression is None:
            raise InputError(
                "--uncompressed: wanted a contract whose updates are compressed ([contract.compression]), got none"
            )


def _check_simulation(option: str, options: Options) -> None:
    """Refuse to repeat what is no simulation on scratch ledgers, or fewer than two times."""
    if options.engine != "embedded" or options.ledger is not None or options.resume is not None:
        raise InputError(
            f"{option}: wanted a simulation (--engine embedded, no --ledger, no --resume), since it repeats the run on "
            "synthetic or public rows; nobody's budget is spent on a control"
        )
    if options.draws < 2:
        raise InputError(f"--draws: wanted at least 2, got {options.draws}; one run cannot show its own noise")


def _check_placebo(scenario: Scenario) -> None:
    if scenario.contract.mode != "horizontal" or "consortium" not in scenario.contract.scopes.named:
        raise InputError(
            "--placebo: wanted a part shared with the whole consortium (contract.scopes, trunk = 'consortium' say), "
            "got none; without one the labels of other industries reach nobody"
        )
    if unlabelled := [one for one in scenario.contract.industries if registry.get(one).schema.target.kind == "anomaly"]:
        raise InputError(f"--placebo: wanted industries that learn labels, got {unlabelled[0]}, which learns none")
    if len({participant.industry for participant in scenario.roster}) < 2:
        raise InputError("--placebo: wanted participants of at least two industries, got one")
