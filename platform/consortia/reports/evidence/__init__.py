"""`consortia evidence`: writes what a board, a data protection officer or a regulator asks for after a run."""

from typing import Final

__all__ = ["PACK"]

#: The folder of a run's pack, below the run's, unless another one is named.
PACK: Final = "evidence"
