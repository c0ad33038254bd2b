"""Scores that depend on their own row alone, to the bit, for histograms that leave.

Formal guarantees
-----------------
* A row's score is a function of that row and the model. Which rows stand beside it, how many, and where it stands
  change no bit of it, so one unit less moves no other unit to another cell of a histogram, whatever the model is.
* Passes have one fixed number of rows; padding fills the last. Where made-up rows show that a place in the pass
  matters all the same, each row is passed alone. A module that is not known to treat each row by itself
  (`privacy._composition`) is called with one row at a time (`privacy._one_row`).
"""

from collections.abc import Callable, Mapping
from itertools import starmap
from typing import Final

import torch
from torch import Tensor, nn

from privacy._composition import Composition, known
from privacy._layer import steady_layer
from privacy._one_row import OneRow, made_up_rows, same_bits
from privacy._rows import filled, one_thread

__all__ = ["outputs"]

_PASS: Final = 256


def outputs(
    module: nn.Module, inputs: Mapping[str, Tensor], finish: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Return ``finish(module(inputs))`` in evaluation mode, each row by itself.

    Parameters
    ----------
    module : takes the dict of named tensors, each (n_rows, ...), and returns outputs (n_rows, ...).
    inputs : named tensors, each (n_rows, ...); one row at least.
    finish : what is made of a row's outputs, (n, ...) -> (n, ...), row by row.

    Returns
    -------
    Tensor, (n_rows, ...)
    """
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), one_thread():
            steps = known(module)
            if isinstance(steps, str):
                return OneRow(_Finished(module, finish)).outputs(inputs)
            size = _PASS if _steady(steps, inputs, finish) else 1
            return torch.cat([_passed(steps, piece, finish, size) for piece in _pieces(inputs, size)])
    finally:
        module.train(training)


class _Finished(nn.Module):
    def __init__(self, module: nn.Module, finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self._finish = module, finish

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self._finish(self.module(inputs))


def _pieces(inputs: Mapping[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    rows = len(next(iter(inputs.values())))
    return [{name: t[start : start + size] for name, t in inputs.items()} for start in range(0, rows, size)]


def _passed(steps: nn.Module, piece: Mapping[str, Tensor], finish: Callable[[Tensor], Tensor], size: int) -> Tensor:
    rows = len(next(iter(piece.values())))
    return finish(steps({name: filled(tensor, size) for name, tensor in piece.items()}))[:rows]


def _steady(steps: Composition, inputs: Mapping[str, Tensor], finish: Callable[[Tensor], Tensor]) -> bool:
    """Whether a row gets the same bits at every place of a pass, from all steps and from each layer by itself."""
    made = made_up_rows(_PASS, inputs)
    return same_bits(lambda rows: [finish(steps(rows))], made) and all(starmap(steady_layer, steps.inputs(made)))
