"""Strategies by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from strategies.base import Strategy
from strategies.bulyan import Bulyan
from strategies.clustered import Clustered
from strategies.cyclic import Cyclic
from strategies.fedasync import FedAsync
from strategies.fedavg import FedAvg
from strategies.fedbuff import FedBuff, SemiSync
from strategies.fednova import FedNova
from strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from strategies.fedprox import FedProx
from strategies.fedsgd import FedSGD
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum, MultiKrum
from strategies.median import Median
from strategies.norm_bound import NormBound
from strategies.options import fields_of, near, needs_value, read
from strategies.qfedavg import QFedAvg
from strategies.scaffold import Scaffold
from strategies.server_optimizer import ServerOptimizer
from strategies.trimmed_mean import TrimmedMean

_CLASSES: Mapping[str, type[Any]] = MappingProxyType(
    {
        "fedavg": FedAvg,
        "fedsgd": FedSGD,
        "fedprox": FedProx,
        "fednova": FedNova,
        "scaffold": Scaffold,
        "qfedavg": QFedAvg,
        "cyclic": Cyclic,
        "clustered": Clustered,
        "fedasync": FedAsync,
        "fedbuff": FedBuff,
        "semi-sync": SemiSync,
        "fedadagrad": FedAdagrad,
        "fedadam": FedAdam,
        "fedyogi": FedYogi,
        "server-optimizer": ServerOptimizer,
        "median": Median,
        "trimmed-mean": TrimmedMean,
        "geometric-median": GeometricMedian,
        "krum": Krum,
        "multi-krum": MultiKrum,
        "bulyan": Bulyan,
        "norm-bound": NormBound,
    }
)
NAMES = tuple(_CLASSES)
_SERVER = ("server_learning_rate", "server_momentum")


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
        When nobody knows the name, or the algorithm does not take an option or needs another value.
    """
    if name not in _CLASSES:
        raise ValueError(f"strategy: wanted one of {', '.join(_CLASSES)}, got {name!r}{near(name, _CLASSES)}")
    kind = _CLASSES[name]
    fields = fields_of(kind)
    given: dict[str, Any] = {}
    for key, value, unused in zip(_SERVER, (server_learning_rate, server_momentum), (1.0, 0.0), strict=True):
        if key in fields:
            given[key] = value
        elif value != unused:
            raise ValueError(f"{key}: wanted none, since {name} does not use it, got {value!r}")
    own = [field for field in fields if field not in (*_SERVER, "arguments")]
    rest = []
    for key, value in options.items():
        if key in own:
            given[key] = read(kind, key, value)
        elif "arguments" in fields:
            rest.append((key, value))
        else:
            raise ValueError(f"options: wanted {', '.join(own) or 'none'} for {name}, got {key!r}{near(key, own)}")
    for key, field in fields.items():
        if key not in given and needs_value(field):
            raise ValueError(f"options.{key}: wanted a value for {name}, got none")
    if rest:
        given["arguments"] = tuple(sorted(rest))
    try:
        strategy: Strategy = kind(**given)
    except TypeError as error:  # of the strategy's own checks
        raise ValueError(f"options: wanted values that {name} takes, got {dict(options)!r} ({error})") from None
    return strategy
