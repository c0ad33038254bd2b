"""Metrics from released histograms."""
