"""Differential privacy: events, accounting, the durable ledger, DP-SGD and the release gate.

This package knows nothing of Flower, industries or strategies: each of its guarantees can be read and
tested here alone. Import from its modules (``privacy.ledger``, ``privacy.dp_sgd``, ...).
"""
