"""Bounds what one answer of a participant weighs, from public terms: the proxy refuses what is larger."""

from __future__ import annotations

from typing import Final

from consortia.terms.contract import Contract
from consortia.terms.recipe import blocks_of
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import build_module

#: Beside the numbers of a model: header, metrics, keys and shares of a secure sum, and Flower's own frame.
_BESIDES: Final = 4 * 2**20
#: A number is at most eight bytes (float64, or a word of a secure sum); twice that leaves room for names beside them.
_PER_NUMBER: Final = 16
#: A point of a vertical list with the label beside it, and what a sealed list has besides.
_PER_POINT: Final = 33
_PER_LIST: Final = 2000


def largest_answer(scenario: Scenario) -> int:
    """Return a bound in bytes of any one answer under the scenario's contract.

    It counts all parts of a network, also those that stay private: no answer that the contract allows is refused.
    """
    contract = scenario.contract
    if contract.vertical is not None:
        lists = len(contract.vertical.partners)  # the label owner sends one to each partner
        return _BESIDES + lists * (_PER_POINT * contract.vertical.largest_set + _PER_LIST)
    industries = {participant.industry for participant in scenario.roster}
    return _BESIDES + _PER_NUMBER * max(_numbers(contract.of(industry), industry) for industry in industries)


def _numbers(contract: Contract, industry: str) -> int:
    """Return how many numbers a participant's largest message has."""
    if contract.noisy_sums is not None:
        rule = blocks_of(contract, industry)
        return max(sum(rule.lengths(message + 1)) for message in range(rule.shares.messages))
    return sum(tensor.numel() for tensor in build_module(contract, industry).state_dict().values())
