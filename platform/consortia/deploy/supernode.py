"""`python -m consortia.deploy.supernode`: Flower's own SuperNode with `flower-supernode`'s options, at our pace."""

from __future__ import annotations

import sys

from flwr.supernode.cli import flower_supernode

from consortia.messages import flower_pace, flower_patience


def main() -> None:
    """Start the SuperNode."""
    sys.argv[0] = "flower-supernode"  # Flower reads its own name
    flower_pace.speed_up(supernode=True)
    flower_patience.be_patient()
    flower_supernode()


if __name__ == "__main__":
    main()
