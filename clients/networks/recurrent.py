"""`gru` and `lstm` for sequences, written out step by step: torch's own have no per-row gradients under `vmap`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.networks.kind import NetworkKind
from clients.shapes import Sequence, Shape

__all__ = ["GRU", "LSTM", "RecurrentOptions"]


@dataclass(frozen=True, kw_only=True)
class RecurrentOptions:
    """Options of `gru` and `lstm`: `state` is the width of the state."""

    state: int = 16

    def __post_init__(self) -> None:
        if self.state < 1:
            raise ValueError(f"options.state: wanted a whole number >= 1, got {self.state}")


class _Recurrent(nn.Module):
    """(n_rows, channels, length) -> (n_rows, width), from the last state; steps that a mask leaves out keep it."""

    def __init__(self, shape: Sequence, width: int, state: int, gates: int) -> None:
        super().__init__()
        self.mask, self.state = shape.mask, state
        self.inputs = nn.Linear(shape.channels - shape.mask, gates * state)
        self.states = nn.Linear(state, gates * state)
        self.dense = nn.Linear(state, width)

    def forward(self, x: Tensor) -> Tensor:
        there = x[:, -1] if self.mask else None
        given = self.inputs((x[:, :-1] if self.mask else x).transpose(1, 2))
        held = (x.new_zeros(x.shape[0], self.state), x.new_zeros(x.shape[0], self.state))
        for step in range(given.shape[1]):
            after = self.cell(given[:, step], *held)
            if there is None:
                held = after
            else:
                here = there[:, step : step + 1]
                held = (here * after[0] + (1 - here) * held[0], here * after[1] + (1 - here) * held[1])
        return torch.tanh(self.dense(held[0]))

    def cell(self, given: Tensor, state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next state and memory (n_rows, state) from gates of the input (n_rows, gates x state)."""
        raise NotImplementedError


class _Gru(_Recurrent):
    """Cho et al. 2014, with the reset gate after the product, as torch's."""

    def cell(self, given: Tensor, state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        reset, update, new = given.chunk(3, 1)
        own_reset, own_update, own_new = self.states(state).chunk(3, 1)
        update = torch.sigmoid(update + own_update)
        fresh = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
        return (1 - update) * fresh + update * state, memory


class _Lstm(_Recurrent):
    """Hochreiter and Schmidhuber 1997, with a forget gate (Gers et al. 2000)."""

    def cell(self, given: Tensor, state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        enter, forget, fresh, leave = (given + self.states(state)).chunk(4, 1)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(fresh)
        return torch.sigmoid(leave) * torch.tanh(memory), memory


def _gru(shape: Shape, width: int, options: RecurrentOptions) -> nn.Module:
    assert isinstance(shape, Sequence)
    return _Gru(shape, width, options.state, 3)


def _lstm(shape: Shape, width: int, options: RecurrentOptions) -> nn.Module:
    assert isinstance(shape, Sequence)
    return _Lstm(shape, width, options.state, 4)


GRU = NetworkKind(options=RecurrentOptions, build=_gru, shapes=(Sequence,))
LSTM = NetworkKind(options=RecurrentOptions, build=_lstm, shapes=(Sequence,))
