"""The package in v0.1/wheel has a test of its own, which `test_v0_1.py` runs where the package is installed."""

collect_ignore = ["v0.1"]
