"""What both sides know of a trust mode."""
