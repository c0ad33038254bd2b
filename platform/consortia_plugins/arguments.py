"""Names the argument of a wrong type in a public call. This module imports nothing of ours."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["named_arguments"]

F = TypeVar("F", bound=Callable[..., Any])
_CONFUSED = (TypeError, AttributeError, ValueError, LookupError, RuntimeError, ArithmeticError)


def named_arguments(error: type[Exception]) -> Callable[[F], F]:
    """Return a decorator after which a call with an argument of a wrong type raises `error`, which names it.

    The arguments are looked at after the call has failed, so a call that works pays nothing and none is refused that
    worked before. The message holds the argument's name, the wanted type and the type that came, never a value: an
    argument may hold rows. An error of the package's own, and one that no argument explains, stays what it is.

    Parameters
    ----------
    error : the package's error for wrong arguments. Decorates a function, or a class for its constructor.
    """

    def decorate(function: F) -> F:
        if inspect.isclass(function):
            function.__init__ = decorate(function.__init__)  # type: ignore[method-assign]
            return function

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except _CONFUSED as failure:
                own = type(failure).__module__.partition(".")[0] == error.__module__.partition(".")[0]
                problem = None if own else _problem(function, args, kwargs)
                if problem is None:
                    raise
            raise error(problem)

        return typing.cast(F, checked)

    return decorate


def _problem(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return what is wrong with the first argument that is not of its parameter's type, or None."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type  # slow to import, and needed rarely

    try:
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:  # arguments that fit no parameter: Python's own sentence is clear
        return None
    function = inspect.unwrap(function)  # a cache has no annotations of its own
    for name, value in bound.items():
        written = inspect.get_annotations(function).get(name, Any)
        try:
            hint = eval(written, vars(sys.modules[function.__module__])) if isinstance(written, str) else written  # noqa: S307 - source text
        except (NameError, TypeError):  # a type that is known to type checkers only
            continue
        try:
            check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError:
            wanted = inspect.formatannotation(hint).replace("collections.abc.", "").replace("typing.", "")
            return f"{name}: wanted {wanted}, got a value of type {type(value).__name__}, or of others inside"
    return None
