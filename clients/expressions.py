"""Evaluates a small expression over columns, such as `weight / (height / 100) ** 2`, each row by itself.

The library `simpleeval` walks the expression. Here it knows names of columns, numbers, texts to compare with,
arithmetic, comparisons, `&`, `|`, `~` and the functions below: no attribute, no index, no call of anything else. Every
one of them works element by element, so no row can see another (decision 0026).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import simpleeval

from clients._pandas import pd
from clients.errors import SchemaError

__all__ = ["FUNCTIONS", "Expression", "parse"]

_LONGEST: Final = 1000


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def applied(left: Any, right: Any) -> Any:
        # Constants become floats: 9 ** 9 ** 9 is infinite at once instead of a number of millions of digits.
        return function(*(np.float64(each) if isinstance(each, (bool, int, float)) else each for each in (left, right)))

    return applied


def _where(condition: Any, then: Any, otherwise: Any) -> Any:
    if not isinstance(condition, pd.Series):
        return then if condition else otherwise
    return pd.Series(np.where(condition.to_numpy(bool), then, otherwise), index=condition.index)


def _round(value: Any, digits: float = 0) -> Any:
    return np.round(value, int(digits))


def _missing(value: Any) -> Any:
    return pd.isna(value)


#: What an expression may call.
FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log": np.log,
    "log10": np.log10,
    "exp": np.exp,
    "floor": np.floor,
    "min": np.minimum,
    "max": np.maximum,
    "round": _round,
    "where": _where,
    "missing": _missing,
}
_OPERATORS: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: _arithmetic(operator.add),
    ast.Sub: _arithmetic(operator.sub),
    ast.Mult: _arithmetic(operator.mul),
    ast.Div: _arithmetic(operator.truediv),
    ast.Pow: _arithmetic(operator.pow),
    ast.Mod: _arithmetic(operator.mod),
    ast.FloorDiv: _arithmetic(operator.floordiv),
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NODES: Final = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Load, ast.Constant),
    *(ast.operator, ast.unaryop, ast.cmpop),
)


class Expression:
    """A checked expression.

    Attributes
    ----------
    text : str
    names : tuple of str
        The columns that it reads, in their order of appearance. A column whose name is no Python name is
        written `column("Air temperature [K]")`.
    texts : frozenset of str
        Those that it compares with a text.

    Raises
    ------
    SchemaError
        Naming what the expression holds that is not allowed.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self._where = where
        try:
            if len(text) > _LONGEST:
                raise ValueError
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise SchemaError(
                f"{where}: wanted an expression such as `weight / height ** 2` of at most {_LONGEST} characters, got "
                "one that cannot be read; correct it"
            ) from None
        names: dict[str, None] = {}
        compared: set[str] = set()
        for node in ast.walk(tree):
            self._check(node, names, compared)
        self.names = tuple(names)
        self.texts = frozenset(compared)
        self._tree = tree.body

    def _check(self, node: ast.AST, names: dict[str, None], compared: set[str]) -> None:
        if not isinstance(node, _NODES):
            hint = " (write & and | with brackets)" if isinstance(node, (ast.BoolOp, ast.boolop)) else ""
            hint = " (write where(condition, then, otherwise))" if isinstance(node, ast.IfExp) else hint
            raise SchemaError(
                f"{self._where}: wanted columns, numbers, operators and {', '.join(FUNCTIONS)}; got a "
                f"{type(node).__name__}{hint}"
            )
        if isinstance(node, ast.operator | ast.unaryop | ast.cmpop) and type(node) not in _OPERATORS:
            raise SchemaError(f"{self._where}: wanted a known operator, got {type(node).__name__}")
        if isinstance(node, ast.Call):
            function = node.func.id if isinstance(node.func, ast.Name) else ""
            if function == "column":
                names[_column_of(node, self._where)] = None
            elif function not in FUNCTIONS:
                raise SchemaError(f"{self._where}: wanted a call of {', '.join(['column', *FUNCTIONS])}; got another")
            if node.keywords:
                raise SchemaError(f"{self._where}: {function}: wanted values by their place, got a keyword")
        elif isinstance(node, ast.Name):
            if node.id not in {"column", *FUNCTIONS}:
                names[node.id] = None
        elif isinstance(node, ast.Constant) and not isinstance(node.value, (bool, int, float, str)):
            raise SchemaError(f"{self._where}: wanted numbers and texts, got a {type(node.value).__name__}")
        elif isinstance(node, ast.Compare):
            if len(node.ops) != 1:
                raise SchemaError(f"{self._where}: wanted one comparison at a time, joined by &; got a < b < c")
            sides = (node.left, node.comparators[0])
            if any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides):
                compared |= {name for side in sides if (name := _name_of(side, self._where)) is not None}

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        """Return the value of the columns, which are series of one length (float64, or text where `texts` says so).

        Raises
        ------
        SchemaError
            It cannot be computed, such as a text plus a number.
        """
        functions = {**FUNCTIONS, "column": lambda name: columns[name]}
        evaluator = simpleeval.SimpleEval(operators=_OPERATORS, functions=functions, names=dict(columns))
        try:
            with np.errstate(all="ignore"):
                return evaluator.eval(self.text, previously_parsed=self._tree)
        except Exception as error:  # noqa: BLE001 - its text may hold a value
            raise SchemaError(
                f"{self._where}: wanted an expression that these columns can give, got {type(error).__name__}; compare "
                "texts with ==, and use numbers for arithmetic"
            ) from None


def _column_of(node: ast.Call, where: str) -> str:
    if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
        return node.args[0].value
    raise SchemaError(f'{where}: column: wanted one name in quotes, such as column("Air temperature"), got another')


def _name_of(node: ast.AST, where: str) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "column":
        return _column_of(node, where)
    return None


@lru_cache(maxsize=256)
def parse(text: str, where: str) -> Expression:
    """Read an expression; `where` is what errors call it."""
    return Expression(text, where)
