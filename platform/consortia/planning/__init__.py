"""Checks before anything runs: whether the terms fit, and what they would cost."""
