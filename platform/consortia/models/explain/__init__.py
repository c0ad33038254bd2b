"""Explains a model: which columns matter, how, and why one row got its prediction."""
