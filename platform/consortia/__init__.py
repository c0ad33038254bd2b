"""The platform: scenarios, the coordinator, the participants, two engines and the command line."""

from __future__ import annotations

__version__ = "0.1.0"
