"""Checks an industry's network: scopes, training, few rows, serialisation, imports."""

from __future__ import annotations

import ast
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load, save

from clients import registry
from clients.dataset import Table
from clients.models import FederatedModule, loss_for, predict
from consortia.testing._client_case import Case, failing_with
from consortia.testing._suite import require
from privacy.dp_sgd import check_module

SCOPED = ("encoder", "trunk", "head")
FORBIDDEN = ("privacy", "flwr", "strategies", "consortia")
ALLOWED = "consortia.testing"  # a client and its own test may share a file


class SlowNetworkWarning(UserWarning):
    """DP training takes the network as a function of one row: right, and several times slower."""


def only_declared_scopes(case: Case) -> None:
    """All that decides an output is a named tensor of encoder, trunk or head, and of one of them only."""
    for spec in case.specs:
        module, twin = case.stirred(spec, seed=0), case.module(spec, seed=1)
        names = list(module.state_dict())
        foreign = [name for name in names if name.split(".")[0] not in SCOPED]
        require(not foreign, f"tensors outside encoder, trunk and head: {foreign}")
        owners: dict[int, str] = {}
        for name, tensor in [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]:
            require(name in names, f"{name!r} is not in the state dict: it would never travel")
            first = owners.setdefault(tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor), name)
            require(first == name, f"{first!r} and {name!r} are one tensor: it cannot have two scopes")
        require(
            names == list(twin.state_dict()) and _shapes(module) == _shapes(twin),
            "two networks of one client have other names or shapes",
        )
        twin.load_state_dict(module.state_dict())
        table = case.table(case.frame())
        require(
            torch.equal(predict(module, table.inputs), predict(twin, table.inputs)),
            "two networks with equal parameters disagree: something outside the state dict decides",
        )


def model_does_not_mix_rows(case: Case) -> None:
    """The very check that DP training makes before its first step (`privacy.dp_sgd.check_module`).

    Warns where the network is one that trains row by row, which is slower.
    """
    for spec in case.specs:
        module, table = case.stirred(spec), case.table(case.frame())
        with failing_with(spec.kind):
            steps = check_module(module, table.inputs, table.target, loss_for(case.client.schema.target))
        if isinstance(steps, str):
            warnings.warn(
                f"client {case.client.name!r}, network {spec.kind}: trains row by row, which is slower: {steps}",
                SlowNetworkWarning,
                stacklevel=2,
            )


def one_epoch_lowers_the_loss(case: Case) -> None:
    """On the client's own synthetic rows."""
    for spec in case.specs:
        table = case.table(case.frame())
        module = case.module(spec)
        before = case.mean_loss(module, table)
        frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
        case.train(module, table)
        after = case.mean_loss(module, table)
        require(
            math.isfinite(after) and after < before,
            f"{spec.kind}: the loss went from {before:.4f} to {after:.4f}; frozen: {sorted(frozen) or 'nothing'}",
        )


def works_with_one_row(case: Case) -> None:
    """One row can be trained on and evaluated."""
    for site in case.client.sites:
        with failing_with(f"site {site}"):
            _works(case, case.table(case.frame(site).iloc[:1]))


def works_with_one_class(case: Case) -> None:
    """Rows of one class (of one value, for a regression) can be trained on and evaluated."""
    target = case.client.schema.target
    frame = case.frame()
    if target.kind == "regression":
        frame[target.name] = frame[target.name].iloc[0]
        _works(case, case.table(frame))
        return
    rows = frame[target.name].astype(str)
    for value in sorted(rows.unique()):
        with failing_with("rows of one class"):
            _works(case, case.table(frame[rows == value]))


def survives_the_round_trip(case: Case) -> None:
    """Names, dtypes, shapes and bits survive safetensors, integer buffers too."""
    for spec in case.specs:
        module = case.module(spec)
        case.train(module, case.table(case.frame()))
        state: dict[str, Any] = module.state_dict()
        odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
        require(not odd, f"not tensors: {odd}")
        back = load(save({name: tensor.contiguous() for name, tensor in state.items()}))
        twin = case.module(spec, seed=1)
        twin.load_state_dict(back)
        after: dict[str, torch.Tensor] = twin.state_dict()
        require(set(back) == set(state) == set(after), "names were lost on the way")
        for name, tensor in state.items():
            for there in (back[name], after[name]):
                same = there.dtype == tensor.dtype and there.shape == tensor.shape and torch.equal(there, tensor)
                require(
                    same,
                    f"{name!r} left as {tensor.dtype} and came back as {there.dtype}, or with other values",
                )


def imports_nothing_forbidden(case: Case) -> None:
    """An industry cannot weaken what it cannot reach: no import of Flower, the privacy code or the platform."""
    for name in sorted(_own_modules(case)):
        module = sys.modules[name]
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):
            found = {getattr(v, "__name__", "") for v in vars(module).values() if inspect.ismodule(v)}
        else:
            found = set(_imports(ast.parse(source)))
        wrong = sorted(i for i in found if i.split(".")[0] in FORBIDDEN and not f"{i}.".startswith(f"{ALLOWED}."))
        require(not wrong, f"module {name!r} imports {', '.join(wrong)}")


def _works(case: Case, table: Table) -> None:
    for spec in case.specs:
        module = case.module(spec).train()
        loss = loss_for(case.client.schema.target)(module(table.inputs), table.target)
        require(bool(torch.isfinite(loss).all()), "the loss is not finite")
        loss.sum().backward()  # type: ignore[no-untyped-call]
        finite = all(bool(torch.isfinite(p.grad).all()) for p in module.parameters() if p.grad is not None)
        require(finite, "a gradient is not finite")
        case.metrics(module, table)


def _shapes(module: FederatedModule) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(tuple(t.shape), t.dtype) for t in module.state_dict().values()]


def _own_modules(case: Case) -> set[str]:
    """Modules in which the client's functions are written, without the seam's own."""
    client = case.client
    functions: list[Callable[..., Any]] = [client.read, client.synthesise, client.encoder, client.head]
    functions += [*client.splits.values(), *(d.function for d in client.schema.derived)]
    functions += [f for chosen in client.filters.values() for f in (chosen.rows, chosen.view)]
    functions += [c.generalise for c in client.schema.columns if callable(c.generalise)]
    names = {inspect.unwrap(f).__module__ for f in functions if getattr(f, "__module__", None)}
    names |= {type(client).__module__, type(client.schema).__module__}
    return {n for n in names if n in sys.modules and n.removeprefix("clients.") not in registry.SEAM}


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere, by statement or by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                yield str(first.value)
