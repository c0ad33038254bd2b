"""CPU seconds of a DP-SGD step of the networks of `imaging` (cnn) and `turbofans` (gru), beside plain torch and Opacus.

    python benchmarks/network_step.py [--quick] [--json FILE]

As `dp_step.py`, whose variants these are: one process, one thread, interleaved, rows made up. The networks are those of
the committed scenarios, in their shapes. Opacus meets the same modules.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import torch
from dp_step import Case, Step, measure
from ratios import Found, options, row, told, write
from torch import Tensor, nn

from clients import registry
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module


class Behind(nn.Module):
    """A scenario's network behind the dict that training takes."""

    def __init__(self, scenario: str) -> None:
        super().__init__()
        contract = load_scenario(scenario).contract
        (industry,) = contract.industries
        module = build_module(contract, industry)
        nn.init.normal_(module.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))  # zeros hide the rest
        self.net = nn.Sequential(module.encoder, module.trunk, module.head)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.net(inputs["x"])
        return output


class OfScenario(Case):
    """Rows of a scenario's shape, and its network."""

    def __init__(self, scenario: str, batch: int) -> None:
        (industry,) = load_scenario(scenario).contract.industries
        super().__init__([registry.get(industry).schema.width], batch)
        self.scenario, shape = scenario, registry.get(industry).schema.shape
        if getattr(shape, "mask", False):
            rows = self.x.reshape(self.rows, *shape.sizes)  # type: ignore[union-attr]
            rows[:, -1] = (rows[:, -1] > -1).float()
            self.x = rows.reshape(self.rows, -1)

    def module(self) -> Any:
        """See `Case`."""
        return Behind(self.scenario)


def main() -> int:
    """Measure; return the exit status."""
    chosen = options("CPU seconds of a DP-SGD step of networks beside plain torch and Opacus", "fewer repeats")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    found: list[Found] = []
    for scenario, kind in (("imaging", "cnn"), ("turbofans", "gru")):
        for batch in (64,) if chosen.quick else (64, 256):
            case = OfScenario(scenario, batch)
            variants: dict[str, Step] = {
                "plain torch": case.plain(),
                "consortia": case.ours(),
                "Opacus hooks, rows in memory": case.opacus("hooks", loader=False),
            }
            taken = measure(variants, *((0.1, 3) if chosen.quick else (0.3, 7)))
            size = f"{kind} of {scenario}, batch {batch}"
            rows = [row(f"{name}, {size}", values, taken["plain torch"]) for name, values in taken.items()]
            against = taken["Opacus hooks, rows in memory"]
            rows.append(row(f"consortia against Opacus hooks, rows in memory, {size}", taken["consortia"], against))
            for one in rows:
                print(told(one), flush=True)
            found += rows
    write(found, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
