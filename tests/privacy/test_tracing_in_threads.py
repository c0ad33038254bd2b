"""A module is traced while participants in other threads train: neither sees the other."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, fx, nn

from privacy import _composition


class Slow(nn.Module):
    """Its forward waits in the middle of a trace."""

    def __init__(self, reached: threading.Event, go_on: threading.Event) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        self.reached, self.go_on = reached, go_on

    def forward(self, x: Tensor) -> Tensor:
        """Rows (n_rows, 2) -> (n_rows, 2)."""
        self.reached.set()
        assert self.go_on.wait(30)
        found: Tensor = self.layers(x)
        return found


@pytest.mark.parametrize("second", ["calls a module", "traces a module"])
def test_another_thread_calls_modules_during_a_trace(second: str) -> None:
    reached, go_on = threading.Event(), threading.Event()
    first: list[fx.Graph] = []
    tracing = threading.Thread(target=lambda: first.append(_composition.traced(Slow(reached, go_on))))
    tracing.start()
    assert reached.wait(30)
    other, rows = nn.Sequential(nn.Linear(2, 3), nn.Tanh()), torch.ones(4, 2)
    if second == "calls a module":
        wanted = torch.tanh(rows @ other[0].weight.T + other[0].bias)
        torch.testing.assert_close(other(rows), wanted)
        go_on.set()
    else:  # it waits for its turn; what both replace is put back
        waits = threading.Thread(target=lambda: first.append(_composition.traced(Slow(reached, go_on))))
        waits.start()
        go_on.set()
        waits.join(30)
    tracing.join(30)
    called = [[str(node.target) for node in one.nodes if node.op == "call_module"] for one in first]
    assert called == [["layers.0", "layers.1"]] * (1 if second == "calls a module" else 2)
    assert other(rows).shape == (4, 3)
    assert nn.Module.__call__.__name__ == "_wrapped_call_impl"
