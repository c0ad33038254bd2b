"""Options of a strategy: fields of any type are read from TOML, and what is wrong is one sentence."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest

from consortia.common.strict import parse
from consortia.terms.strategy import StrategyTerms
from strategies import registry
from strategies.fedavg import FedAvg
from strategies.registry import make


class Kind(Enum):
    NARROW = "narrow"
    WIDE = "wide"


@dataclass(frozen=True)
class Window:
    first: int
    last: int | None = None


@dataclass(frozen=True, kw_only=True)
class Odd(FedAvg):
    """One field of each kind."""

    flag: bool = False
    count: int = 1
    rate: float = 0.5
    word: str = "a"
    choice: Literal["left", "right"] = "left"
    kind: Kind = Kind.NARROW
    pair: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    names: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    perhaps: float | None = None
    window: Window = Window(1)
    windows: tuple[Window, ...] = ()
    made: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        if self.word == "type":
            raise TypeError("no such word")


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.get
    monkeypatch.setattr(registry, "get", lambda name: Odd if name == "odd" else known(name))


def _read(line: str) -> Odd:
    strategy = make("odd", options=tomllib.loads(line))
    assert isinstance(strategy, Odd)
    return strategy


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("flag = true", "flag", True),
        ("count = 3", "count", 3),
        ("rate = 2", "rate", 2.0),
        ("rate = 2.5", "rate", 2.5),
        ("word = 'b'", "word", "b"),
        ("choice = 'right'", "choice", "right"),
        ("kind = 'wide'", "kind", Kind.WIDE),
        ("pair = [2, 'b']", "pair", (2, "b")),
        ("many = [1, 2.5]", "many", (1.0, 2.5)),
        ("names = ['a', 'b']", "names", ["a", "b"]),
        ("sizes = {a = 1}", "sizes", {"a": 1}),
        ("perhaps = 1", "perhaps", 1.0),
        ("window = {first = 2, last = 5}", "window", Window(2, 5)),
        ("windows = [{first = 2}, {first = 3}]", "windows", (Window(2), Window(3))),
    ],
)
def test_a_field_of_any_type_is_read(line: str, name: str, value: Any) -> None:
    got = getattr(_read(line), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("flag = 1", "options.flag: wanted true or false, got 1"),
        ("flag = 'yes'", "options.flag: wanted true or false, got 'yes'"),
        ("count = true", "options.count: wanted a whole number, got True"),
        ("count = 1.0", "options.count: wanted a whole number, got 1.0"),
        ("rate = true", "options.rate: wanted a number, got True"),
        ("rate = '1'", "options.rate: wanted a number, got '1'"),
        ("word = 1", "options.word: wanted a text, got 1"),
        ("choice = 'up'", "options.choice: wanted 'left' or 'right', got 'up'"),
        ("kind = 'broad'", "options.kind: wanted 'narrow' or 'wide', got 'broad'"),
        ("pair = [2]", "options.pair.1: wanted a value, got none"),
        ("many = [1, 'b']", "options.many.1: wanted a valid number, got 'b'"),
        ("names = 'a'", "options.names: wanted a valid array, got 'a'"),
        ("sizes = {a = 'b'}", "options.sizes.a: wanted a valid integer, got 'b'"),
        ("window = {}", "options.window.first: wanted a value, got none; add the key"),
        ("window = {first = 1, lsat = 2}", "options.window: wanted first, last, got 'lsat' (did you mean 'last'?)"),
        ("windows = [{first = 1, x = 2}]", "options.windows.0: wanted first, last, got 'x'"),
        ("cuont = 1", "got 'cuont' (did you mean 'count'?)"),
        ("made = 4", "got 'made'"),
        ("word = 'type'", "wanted values that odd takes, got {'word': 'type'} (no such word)"),
    ],
)
def test_what_does_not_fit_is_one_sentence(line: str, says: str) -> None:
    with pytest.raises(ValueError, match="options") as caught:
        _read(line)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_type_that_pydantic_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Strange(FedAvg):
        thing: Nowhere | None = None  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setattr(registry, "get", lambda name: Strange)
    with pytest.raises(ValueError, match=r"options.thing: wanted a type that pydantic reads in Strange.*Nowhere"):
        make("strange", options={"thing": 1})


def test_an_unknown_strategy_is_one_sentence_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"wanted one of fedavg, .*got 'fedprx' \(did you mean 'fedprox'\?\)"):
        make("fedprx")


def test_a_contract_takes_whatever_toml_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    name = "odd"
    [options]
    flag = true
    names = ["a", "b"]
    many = [1, 2]
    window = {first = 2}
    windows = [{first = 1, last = 2}]
    """
    terms = parse(StrategyTerms, tomllib.loads(text), "scenario.toml")
    strategy = terms.strategy()
    assert isinstance(strategy, Odd)
    assert (strategy.flag, strategy.names, strategy.window) == (True, ["a", "b"], Window(2))
    again = StrategyTerms.model_validate_json(terms.model_dump_json())
    assert again.strategy() == strategy
    assert '"many":[1.0,2.0]' in terms.model_dump_json()  # as version 0.1 wrote it into the contract
    assert '"flag":true' in terms.model_dump_json()
