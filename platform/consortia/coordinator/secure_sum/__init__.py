"""The coordinator's half of secure sums."""
