"""ONNX nodes that stand for columns in the function of a derived feature.

Such a function is written for pandas and works on each row alone (`clients.schema.Derived`). Called with `Cells`, its
arithmetic is recorded in the graph instead of being done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from consortia.common.errors import InputError

__all__ = ["DOUBLE", "STRING", "Cells", "Graph", "Table"]

DOUBLE, FLOAT, STRING, BOOL, INT64 = (
    TensorProto.DOUBLE,
    TensorProto.FLOAT,
    TensorProto.STRING,
    TensorProto.BOOL,
    TensorProto.INT64,
)
_FUNCTIONS = {np.log: "Log", np.exp: "Exp", np.sqrt: "Sqrt", np.abs: "Abs", np.sin: "Sin", np.cos: "Cos"}


class Graph:
    """Nodes and constants under names of their own."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        name = f"rows_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a constant: a text, or anything that numpy takes."""
        name = f"rows_constant_{len(self.constants)}"
        if isinstance(value, str):
            value = np.asarray(value, dtype=object)  # numpy's own text type is not ONNX's
        tensor = numpy_helper.from_array(np.asarray(value), name)
        self.constants.append(tensor)
        return name

    def number(self, value: float) -> str:
        """Add a float64 constant."""
        return self.constant(np.float64(value))


class Cells:
    """One value for each row: float64 (NaN where missing), a truth value, or a category's code (-1 where missing)."""

    def __init__(self, graph: Graph, name: str, kind: str = "number", categories: tuple[str, ...] = ()) -> None:
        self._graph, self.name, self._kind, self._categories = graph, name, kind, categories

    def __getattr__(self, name: str) -> Any:
        raise InputError(f"export: a derived feature uses pandas' {name}, which has no counterpart in ONNX here")

    def _new(self, operator: str, *inputs: str, kind: str = "number") -> Cells:
        return Cells(self._graph, self._graph.add(operator, *inputs), kind)

    def number(self) -> str:
        """Return the node as float64; truth is 1."""
        if self._kind == "category":
            raise InputError("export: a derived feature computes with a category; compare it with one of its values")
        return self._graph.add("Cast", self.name, to=DOUBLE) if self._kind == "truth" else self.name

    def _other(self, other: Any) -> str:
        return other.number() if isinstance(other, Cells) else self._graph.number(other)

    def _do(self, operator: str, other: Any, *, swap: bool = False, kind: str = "number") -> Cells:
        pair = (self.number(), self._other(other))
        return self._new(operator, *(reversed(pair) if swap else pair), kind=kind)

    def __add__(self, other: Any) -> Cells:
        return self._do("Add", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Cells:
        return self._do("Sub", other)

    def __rsub__(self, other: Any) -> Cells:
        return self._do("Sub", other, swap=True)

    def __mul__(self, other: Any) -> Cells:
        return self._do("Mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Cells:
        return self._do("Div", other)

    def __rtruediv__(self, other: Any) -> Cells:
        return self._do("Div", other, swap=True)

    def __pow__(self, other: Any) -> Cells:
        return self._do("Pow", other)

    def __neg__(self) -> Cells:
        return self._new("Neg", self.number())

    def __lt__(self, other: Any) -> Cells:
        return self._do("Less", other, kind="truth")

    def __le__(self, other: Any) -> Cells:
        return self._do("LessOrEqual", other, kind="truth")

    def __gt__(self, other: Any) -> Cells:
        return self._do("Greater", other, kind="truth")

    def __ge__(self, other: Any) -> Cells:
        return self._do("GreaterOrEqual", other, kind="truth")

    def __eq__(self, other: object) -> Cells:  # type: ignore[override]
        if self._kind == "category":
            code = self._categories.index(str(other)) if other in self._categories else len(self._categories)
            return self._new("Equal", self.name, self._graph.constant(np.int64(code)), kind="truth")
        return self._do("Equal", other, kind="truth")

    def __ne__(self, other: object) -> Cells:  # type: ignore[override]
        return ~(self == other)

    __hash__ = None  # type: ignore[assignment]

    def __invert__(self) -> Cells:
        return self._new("Not", self.name, kind="truth")

    def __and__(self, other: Cells) -> Cells:
        return self._new("And", self.name, other.name, kind="truth")

    def __or__(self, other: Cells) -> Cells:
        return self._new("Or", self.name, other.name, kind="truth")

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Cells:
        """Let `np.log(column)` be recorded, too."""
        if method != "__call__" or options or len(inputs) != 1 or function not in _FUNCTIONS:
            raise InputError(f"export: a derived feature uses numpy's {function.__name__}, which is not supported")
        return self.apply(function)

    def abs(self) -> Cells:
        """As in pandas."""
        return self._new("Abs", self.number())

    def apply(self, function: Any) -> Cells:
        """As in pandas, for the functions of numpy that ONNX has."""
        if function not in _FUNCTIONS:
            raise InputError("export: a derived feature applies a function that ONNX does not have")
        return self._new(_FUNCTIONS[function], self.number())

    def astype(self, kind: Any) -> Cells:
        """As in pandas, to float."""
        if kind not in {float, "float", "float64", np.float64}:
            raise InputError(f"export: a derived feature uses astype({kind}); wanted float")
        return Cells(self._graph, self.number())

    def clip(self, lower: float | None = None, upper: float | None = None) -> Cells:
        """As in pandas: what is missing stays missing."""
        name = self.number()
        for operator, bound in (("Less", lower), ("Greater", upper)):
            if bound is not None:
                edge = self._graph.number(bound)
                name = self._graph.add("Where", self._graph.add(operator, name, edge), edge, name)
        return Cells(self._graph, name)

    def isna(self) -> Cells:
        """As in pandas."""
        if self._kind == "category":
            return self._new("Less", self.name, self._graph.constant(np.int64(0)), kind="truth")
        return self._new("IsNaN", self.number(), kind="truth")

    def fillna(self, value: float) -> Cells:
        """As in pandas."""
        name = self.number()
        return self._new("Where", self._graph.add("IsNaN", name), self._graph.number(value), name)


class Table:
    """What a derived feature's function gets: columns by name."""

    def __init__(self, columns: Mapping[str, Cells]) -> None:
        self._columns = columns

    def __getitem__(self, name: str) -> Cells:
        return self._columns[name]

    def __getattr__(self, name: str) -> Any:
        raise InputError(f"export: a derived feature uses a frame's {name}; wanted columns by name only")
