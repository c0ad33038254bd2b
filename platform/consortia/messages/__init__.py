"""What crosses the wire, and what each side checks of it."""
