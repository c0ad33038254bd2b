"""The parts of a trust mode that both sides share."""
