"""Conformance suites that ship with the package.

Each `check_…` returns the names of its checks (tuple of str) when all of them passed. All checks run in any case: if
one fails, the suite raises its own `…CheckError`, which lists every failed check by name, with what it saw.
"""

from __future__ import annotations

from consortia.testing._client_model_checks import SlowNetworkWarning
from consortia.testing._clients import ClientCheckError, check_client
from consortia.testing._learners import LearnerCheckError, check_learner
from consortia.testing._mechanisms import MechanismCheckError, check_mechanism
from consortia.testing._metrics import MetricCheckError, check_metric
from consortia.testing._sources import SourceCheckError, check_source
from consortia.testing._strategies import StrategyCheckError, check_strategy
from consortia.testing._trackers import TrackerCheckError, check_tracker

__all__ = [
    "ClientCheckError",
    "LearnerCheckError",
    "MechanismCheckError",
    "MetricCheckError",
    "SlowNetworkWarning",
    "SourceCheckError",
    "StrategyCheckError",
    "TrackerCheckError",
    "check_client",
    "check_learner",
    "check_mechanism",
    "check_metric",
    "check_source",
    "check_strategy",
    "check_tracker",
]
