"""SCAFFOLD, option II, both halves.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, Algorithm 1 with
option II of line 12. With K local steps of size eta_l and replies y_i of the participants S that answered:

    y_i  <- y_i - eta_l (g_i(y_i) - c_i + c)
    c_i+ <- c_i - c + (x - y_i) / (K eta_l)
    x    <- x + eta_g mean_S (y_i - x),   c <- c + sum_S p_i (c_i+ - c_i)

p_i is the participant's share of the whole roster (1/N in the paper, whose participants weigh the same), so that c
stays the weighted mean of all c_i also in rounds in which few answer.

Everything on the right of c_i+ is known to the coordinator: x, y_i, c, and K and eta_l from the contract. So it keeps
every c_i in its memory, which is part of each checkpoint, and sends c - c_i along with the model. Participants keep
nothing, one message a round is enough, a lost reply cannot leave two different ideas of c_i, and under DP the control
variates are functions of what was released already: c - c_i is added after clipping and noise and costs no budget.
(Option I would need another gradient at x: another release.) With momentum b, K is ||a||_1 of `effective_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strategies.arithmetic import State, mean_change, weighted_mean
from strategies.base import Fit, Simple, Update

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_SERVER = "c"
_MEMBER = "c_i"


def member_key(participant: str, name: str) -> str:
    """Return where the memory holds c_i of a parameter; no participant's name has a slash."""
    return f"{_MEMBER}/{participant}/{name}"


@dataclass(frozen=True, kw_only=True)
class Scaffold(Simple):
    """FedAvg of participants whose steps are corrected for their drift.

    Parameters
    ----------
    server_learning_rate : float
        eta_g; 1 takes the mean exactly.
    """

    server_learning_rate: float = 1.0

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`; each reply changes a c_i of its own, so a sum would not do."""
        plain = self.server_learning_rate == 1.0
        return Fit(consensus=plain, server_learning_rate=True, plain_steps=True)

    def control(self, current: State, memory: State, participant: str) -> dict[str, Tensor]:
        """See `strategies.base.Controlled.control`: c - c_i, zero before the first reply."""
        import torch

        out = {}
        for name, tensor in current.items():
            if tensor.is_floating_point():
                zero = torch.zeros(tensor.shape, dtype=torch.float64)
                mine = memory.get(member_key(participant, name), zero)
                out[name] = (memory.get(f"{_SERVER}/{name}", zero) - mine).to(tensor.dtype)
        return out

    def correct(self, optimizer: torch.optim.Optimizer, corrections: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """See `strategies.base.Controlled.correct`: every step's gradient is moved by c - c_i."""
        import torch

        held = [(parameter, tensor.detach().clone()) for parameter, tensor in corrections]

        def add(*_: Any) -> None:
            with torch.no_grad():
                for parameter, tensor in held:
                    if parameter.grad is not None:
                        parameter.grad.add_(tensor)

        optimizer.register_step_pre_hook(add)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; the memory is c/<parameter> and c_i/<participant>/<parameter>."""
        import torch

        if any(not (0 < u.steps < float("inf") and 0 < u.learning_rate < float("inf")) for u in updates):
            raise ValueError("steps and learning_rate: wanted finite numbers > 0")
        states, weights = [u.state for u in updates], [u.weight for u in updates]
        kept = {name: tensor.clone() for name, tensor in memory.items()}
        new = weighted_mean(states, weights)
        change = mean_change(current, states, weights) if self.server_learning_rate != 1.0 else {}
        for name, tensor in current.items():
            if not tensor.is_floating_point():
                continue
            if change:
                new[name] = (tensor.double() + self.server_learning_rate * change[name]).to(tensor.dtype)
            zero = torch.zeros(tensor.shape, dtype=torch.float64)
            before = memory.get(f"{_SERVER}/{name}", zero)
            after = before.clone()
            for u in sorted(updates, key=lambda u: u.participant):
                moved = (tensor.double() - u.state[name].double()) / (u.steps * u.learning_rate)
                drift = moved - before  # c_i+ - c_i
                after += u.share_of_all * drift
                key = member_key(u.participant, name)
                kept[key] = memory.get(key, zero) + drift
            kept[f"{_SERVER}/{name}"] = after
        return new, kept
