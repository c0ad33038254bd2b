"""Whole runs of a scenario: started, looked at, and broken off where a test says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from consortia.common.errors import RunFailedError
from consortia.coordinator import rounds
from consortia.engines.options import Options
from consortia.engines.runner import Outcome, execute, prepare


def run(**options: Any) -> Outcome:
    """Run with these options."""
    chosen = Options(**options)
    return execute(prepare(chosen), chosen)


def model(folder: Path, industry: str = "bank") -> dict[str, torch.Tensor]:
    """Return the last model of a run's folder."""
    return safetensors.torch.load((folder / "model" / f"{industry}.safetensors").read_bytes())


def dies(patch: pytest.MonkeyPatch, after: int) -> None:
    """Let the coordinator die once it has saved its state `after` times."""
    genuine, saved = rounds.save, 0

    def save(*args: Any, **kwargs: Any) -> None:
        nonlocal saved
        genuine(*args, **kwargs)
        saved += 1
        if saved == after:
            raise RunFailedError("the coordinator died here")

    patch.setattr(rounds, "save", save)
