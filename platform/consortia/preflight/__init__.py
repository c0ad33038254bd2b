"""Checks a participant before it joins: the way to the coordinator, and its own home."""
