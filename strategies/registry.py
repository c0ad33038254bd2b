"""Finds strategies by name: the built-in ones below, and those of installed packages.

A package names its frozen dataclass in the group `consortia.strategies`:

    [project.entry-points."consortia.strategies"]
    part-way = "partner_package.part_way:PartWay"
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from consortia_plugins import Seam, frozen_dataclass, near
from consortia_plugins.options import check_needed, fields_of, read

if TYPE_CHECKING:
    from strategies.base import Strategy

__all__ = ["GROUP", "NAMES", "SERVER", "get", "make", "names"]

GROUP: Final = "consortia.strategies"
_BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fedavg": "strategies.fedavg:FedAvg",
        "fedsgd": "strategies.fedsgd:FedSGD",
        "fedprox": "strategies.fedprox:FedProx",
        "fednova": "strategies.fednova:FedNova",
        "scaffold": "strategies.scaffold:Scaffold",
        "qfedavg": "strategies.qfedavg:QFedAvg",
        "cyclic": "strategies.cyclic:Cyclic",
        "clustered": "strategies.clustered:Clustered",
        "fedasync": "strategies.fedasync:FedAsync",
        "fedbuff": "strategies.fedbuff:FedBuff",
        "semi-sync": "strategies.fedbuff:SemiSync",
        "fedadagrad": "strategies.fedopt:FedAdagrad",
        "fedadam": "strategies.fedopt:FedAdam",
        "fedyogi": "strategies.fedopt:FedYogi",
        "server-optimizer": "strategies.server_optimizer:ServerOptimizer",
        "median": "strategies.median:Median",
        "trimmed-mean": "strategies.trimmed_mean:TrimmedMean",
        "geometric-median": "strategies.geometric_median:GeometricMedian",
        "krum": "strategies.krum:Krum",
        "multi-krum": "strategies.krum:MultiKrum",
        "bulyan": "strategies.bulyan:Bulyan",
        "norm-bound": "strategies.norm_bound:NormBound",
        # `consortia new strategy` adds its line above this one.
    }
)
#: The built-in ones.
NAMES: Final = tuple(_BUILT_IN)
#: Keys of a contract's strategy that are fields of some algorithms.
SERVER: Final = ("server_learning_rate", "server_momentum")


class UnknownStrategyError(ValueError):
    """No strategy of that name is built in or installed."""


class StrategyLoadError(ValueError):
    """An installed package names a strategy that cannot be loaded, or that is none."""


def names() -> tuple[str, ...]:
    """Return every known strategy, built in or installed; nothing is imported for it."""
    return _strategies.names()


def get(name: str) -> type[Any]:
    """Return the class of a strategy.

    Raises
    ------
    UnknownStrategyError
        There is none of that name; the message lists those there are.
    StrategyLoadError
        An installed one is broken; the message names its package.
    """
    return _strategies.get(name)


def _check(name: str, found: Any) -> type[Any]:
    del name
    parts = ("fit", "minimum_participants", "aggregate")
    return frozen_dataclass(found, "a strategy (strategies.base.Strategy)", parts)


_strategies = Seam(
    GROUP, "strategy", _check, built_in=lambda: _BUILT_IN, unknown=UnknownStrategyError, broken=StrategyLoadError
)


def make(
    name: str,
    *,
    server_learning_rate: float = 1.0,
    server_momentum: float = 0.0,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Strategy:
    """Return the strategy of a contract.

    Parameters
    ----------
    options : mapping
        The fields of the algorithm's own frozen config.

    Raises
    ------
    ValueError
        When nobody knows the name, the package that brings it is broken, or the algorithm does not take an option or
        needs another value.
    """
    kind = get(name)
    fields = fields_of(kind)
    given: dict[str, Any] = {}
    for key, value, unused in zip(SERVER, (server_learning_rate, server_momentum), (1.0, 0.0), strict=True):
        if key in fields:
            given[key] = value
        elif value != unused:
            raise ValueError(f"{key}: wanted none, since {name} does not use it, got {value!r}")
    own = [field for field in fields if field not in (*SERVER, "arguments")]
    rest = []
    for key, value in options.items():
        if key in own:
            given[key] = read(kind, key, value)
        elif "arguments" in fields:
            rest.append((key, value))
        else:
            raise ValueError(f"options: wanted {', '.join(own) or 'none'} for {name}, got {key!r}{near(key, own)}")
    check_needed(kind, given, name)
    if rest:
        given["arguments"] = tuple(sorted(rest))
    try:
        strategy: Strategy = kind(**given)
    except TypeError as error:  # of the strategy's own checks
        raise ValueError(f"options: wanted values that {name} takes, got {dict(options)!r} ({error})") from None
    return strategy
