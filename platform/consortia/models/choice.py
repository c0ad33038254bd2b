"""Names the models of a run that can be asked for. It loads nothing heavy."""

from __future__ import annotations

from consortia.common.errors import InputError

__all__ = ["CHOICES", "check_choice"]

#: "joined" is the best own model stacked with the federated one; "released" is the model of released sums alone (the
#: learner `sums`), which the federated one combines with own rows; "edited" is one whose shapes its participant edited
#: (`consortia.models.edited`).
CHOICES = ("kept", "federated", "joined", "released", "edited")


def check_choice(choice: str) -> None:
    """Refuse what is not one of `CHOICES`."""
    if choice not in CHOICES:
        raise InputError(f"--model: wanted one of {', '.join(CHOICES)}, got {choice!r}")
