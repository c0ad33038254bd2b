"""Seconds of CPU a step of DP-SGD takes, beside plain torch and beside Opacus, in one process and interleaved.

    python benchmarks/dp_step.py [--quick] [--sizes small,million,ten] [--json FILE]

One thread. The denominator is plain torch with in-memory index sampling (`torch.randperm`, `BCEWithLogitsLoss`, SGD).
Ours is `privacy.dp_sgd.train_private`, whole: Poisson draw, rows, clipped sum, noise, step; what a call costs once
(checks on made-up rows) is printed beside it. Opacus is as its users run it (`make_private` with its DataLoader), and
with the same rows drawn in memory. Ratios are plain ÷ variant of the same repeat, so 1.0 is the speed of no privacy;
`consortia against X` is X ÷ consortia.
"""

import itertools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from opacus import PrivacyEngine
from ratios import Found, options, row, told, write
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from privacy import _engines, dp_sgd
from privacy.dp_sgd import DpSgdPlan, train_private
from privacy.noise_context import NoiseContext
from privacy.randomness import fresh_generator
from privacy.sampling import poisson_sample

#: What noise in a benchmark is for: no message.
NOISE = NoiseContext(purpose="benchmark", message="benchmark", attempt=0, ledger="")

#: Sizes of the layers, and the batches that are measured.
NETWORKS = {
    "small": ([30, 64, 32, 1], [64, 256, 1024]),
    "million": ([30, 1000, 1000, 1], [256]),
    "ten": ([30, 3150, 3150, 1], [256]),
}

Step = Callable[[int], float]  # steps -> seconds of CPU


class Named(nn.Module):
    """The network behind the dict that industries' modules take."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.net(inputs["x"])
        return output


def losses(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output.squeeze(1), target, reduction="none")


class Case:
    def __init__(self, sizes: list[int], batch: int) -> None:
        self.sizes, self.batch, self.rows = sizes, batch, 16 * batch
        self.x = torch.randn(self.rows, sizes[0])
        self.y = (self.x[:, :5].sum(1) + torch.randn(self.rows) > 0).float()

    def module(self) -> Any:
        """Return the network anew: it takes named tables, and its `net` takes rows."""
        return Named(self.sizes)

    def plain(self) -> Step:
        module = self.module()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        criterion = nn.BCEWithLogitsLoss()

        def batches() -> Iterator[Tensor]:
            while True:
                order = torch.randperm(self.rows)
                yield from order.split(self.batch)

        drawn = batches()

        def steps(count: int) -> float:
            start = time.process_time()
            for _ in range(count):
                rows = next(drawn)
                optimizer.zero_grad(set_to_none=True)
                criterion(module({"x": self.x[rows]}).squeeze(1), self.y[rows]).backward()
                optimizer.step()
            return time.process_time() - start

        return steps

    def _ours(self, count: int, module: nn.Module, secure: bool) -> float:
        plan = DpSgdPlan(
            sampling_rate=self.batch / self.rows, declared_units=self.rows, steps=count, noise_multiplier=1.0, clip=1.0
        )
        start = time.process_time()
        train_private(
            module,
            {"x": self.x},
            self.y,
            torch.arange(self.rows),
            self.rows,
            losses,
            lambda parameters: torch.optim.SGD(parameters, lr=0.05),
            plan,
            fresh_generator(NOISE),
            secure=secure,
            single=True,
        )
        return time.process_time() - start

    def ours(self, secure: bool = False, one_row: bool = False) -> Step:
        module = self.module()

        def steps(count: int) -> float:
            supported = _engines.known
            if one_row:  # what a module that book-keeping does not fit would get
                _engines.known = dp_sgd.known = lambda _: "asked for"
            try:
                return self._ours(count + 1, module, secure) - self._ours(1, module, secure)
            finally:
                _engines.known = dp_sgd.known = supported

        return steps

    def call(self) -> float:
        """Seconds that a call costs beside its steps."""
        module = self.module()
        one, two = (min(self._ours(count, module, False) for _ in range(9)) for count in (1, 2))
        return max(0.0, 2 * one - two)

    def opacus(self, mode: str, loader: bool) -> Step:
        module: Any = self.module().net
        optimizer: Any = torch.optim.SGD(module.parameters(), lr=0.05)
        made = PrivacyEngine(accountant="rdp").make_private(
            module=module,
            optimizer=optimizer,
            criterion=nn.BCEWithLogitsLoss(),
            data_loader=DataLoader(TensorDataset(self.x, self.y), batch_size=self.batch),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            grad_sample_mode=mode,
            poisson_sampling=True,
        )
        criterion: Any = nn.BCEWithLogitsLoss()
        if mode == "ghost":
            module, optimizer, criterion, data = made
        else:
            module, optimizer, data = made
        rate = self.batch / self.rows

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                if loader:
                    yield from data
                else:
                    rows = poisson_sample(self.rows, rate, generator)
                    yield self.x[rows], self.y[rows]

        generator = fresh_generator(NOISE)
        drawn = batches()

        def steps(count: int) -> float:
            start = time.process_time()
            for _ in range(count):
                x, y = next(drawn)
                optimizer.zero_grad()
                criterion(module(x).squeeze(1), y).backward()
                optimizer.step()
            return time.process_time() - start

        return steps


def measure(variants: dict[str, Step], seconds: float, repeats: int) -> dict[str, list[float]]:
    """Seconds a step, interleaved: every repeat visits every variant."""
    counts: dict[str, int] = {}
    for name, step in variants.items():
        step(1)
        # A difference of two times may be negative on a busy machine; no step takes less than a tenth of a millisecond.
        counts[name] = max(2, int(seconds / max(step(2) / 2, 1e-4)))
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, step in variants.items():
            taken[name].append(step(counts[name]) / counts[name])
    return taken


def main() -> int:
    chosen = options(
        "CPU seconds of a DP-SGD step beside plain torch and Opacus",
        "one size, fewer repeats",
        sizes=(str, f"networks to measure, with commas between them; if not said, {','.join(NETWORKS)}"),
    )
    names = ["small"] if chosen.quick else (chosen.sizes or ",".join(NETWORKS)).split(",")
    if unknown := set(names) - set(NETWORKS):
        print(f"--sizes: wanted some of {', '.join(NETWORKS)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    cases = [(name, batch) for name in names for batch in ([256] if chosen.quick else NETWORKS[name][1])]
    found: list[Found] = []
    for name, batch in cases:
        sizes = NETWORKS[name][0]
        case = Case(sizes, batch)
        big = name != "small"
        variants: dict[str, Step] = {"plain torch": case.plain(), "consortia": case.ours()}
        if name != "ten":
            variants["consortia, secure noise"] = case.ours(secure=True)
            if not chosen.quick:
                variants["consortia, row by row"] = case.ours(one_row=True)
            variants["Opacus hooks, rows in memory"] = case.opacus("hooks", loader=False)
        if not big:
            variants["Opacus hooks, DataLoader"] = case.opacus("hooks", loader=True)
        variants["Opacus ghost, rows in memory"] = case.opacus("ghost", loader=False)
        seconds, repeats = (0.1, 3) if chosen.quick else (0.2, 7) if not big else (0.5, 3)
        taken = measure(variants, seconds, repeats)
        parameters = sum(p.numel() for p in Named(sizes).parameters())
        print(f"{'-'.join(map(str, sizes))}, batch {batch} of {case.rows} rows")
        size = f"{parameters:,} parameters, batch {batch}"
        rows = [row(f"{variant}, {size}", values, taken["plain torch"]) for variant, values in taken.items()]
        rows += [
            row(f"consortia against {variant}, {size}", taken["consortia"], values)
            for variant, values in taken.items()
            if variant.startswith("Opacus")
        ]
        for one in rows:
            print(told(one), flush=True)
        found += rows
        if not big:
            print(f"  {'consortia, once a call':64s} {case.call() * 1e6:10.1f} us")
    write(found, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
