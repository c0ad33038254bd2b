"""Turbofan engines: how many cycles are left, 125 at most. Rows and sites are those of `clients.turbofans`."""

from clients.turbofans import LIFE as CLIENT

__all__ = ["CLIENT"]
