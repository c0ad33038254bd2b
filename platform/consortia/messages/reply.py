"""Checks the header and the loss of a reply at the coordinator."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from consortia.terms.scopes import LOSS
from strategies.base import Strategy, loss_bound

#: A participant with one of these answers is not asked to train again in this run.
FINAL = {"REFUSED", "RECEIVE_ONLY"}


def check_account(header: Mapping[str, str]) -> None:
    """Raise ValueError unless the declared noise, budget, delta and unit are possible values."""
    check_budget(header)
    sigma = _number(header, "noise_multiplier")
    if sigma < 0 or (header["non_private"] == "false" and sigma == 0):
        raise ValueError("noise_multiplier: wanted a finite number > 0 of a private participant")


def check_budget(header: Mapping[str, str], *, pure: bool = False) -> None:
    """Raise ValueError unless the declared budget, delta (0 if the account is `pure`) and unit are possible values."""
    private = header.get("non_private")
    if private not in {"true", "false"}:
        raise ValueError("non_private: wanted 'true' or 'false'")
    delta = _number(header, "delta")
    if not 0 < delta < 1 and not (pure and delta == 0):
        raise ValueError("delta: wanted a number between 0 and 1")
    if private == "true":
        if header.get("epsilon_budget") != "null":
            raise ValueError("epsilon_budget: wanted null of a non-private participant")
    elif _number(header, "epsilon_budget") <= 0:
        raise ValueError("epsilon_budget: wanted a number > 0 of a private participant")
    if not 0 < len(header.get("unit", "")) <= 100:
        raise ValueError("unit: wanted 'record' or the name of a column")


def _number(header: Mapping[str, str], key: str) -> float:
    try:
        value = float(header[key])
    except (KeyError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{key}: wanted a finite number, got {str(header.get(key))[:40]!r}")
    return value


def check_loss(strategy: Strategy, loss: Tensor | None) -> None:
    """Raise ValueError unless a training loss came if and only if the strategy asks for one, within its public
    bound."""
    if not strategy.fit.loss:
        if loss is not None:
            raise ValueError(f"{LOSS}: nobody asked for a loss")
        return
    bound = loss_bound(strategy)
    if loss is None or loss.numel() != 1 or not loss.is_floating_point() or not 0 <= float(loss) <= bound:
        raise ValueError(f"{LOSS}: wanted one number from 0 to {bound:g}")
