"""`[contract.strategy]`: names the algorithm, its options, and the weighting of replies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from consortia.common.strict import StrictModel
from consortia_plugins import known_name
from strategies import registry
from strategies.base import Strategy

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, le=1)]
# Whatever TOML can write; the algorithm's fields say what is meant. An array of numbers is one of floats, as ever:
# contracts are hashed as they are read here.
Option = Annotated[
    bool | int | float | str | tuple[float, ...] | tuple[JsonValue, ...] | dict[str, JsonValue],
    Field(union_mode="left_to_right"),
]


class StrategyTerms(StrictModel):
    """The aggregation.

    `weighting` uses declared sizes of the roster ("declared"), sizes released with noise ("noised"), nothing
    ("equal"), or the noise in the released updates and how far these differ beyond it ("information").

    `options` are the fields of the algorithm's own config (`strategies/`), `mu` of FedProx for instance.
    """

    name: str = "fedavg"
    weighting: Literal["declared", "noised", "equal", "information"] = "declared"
    weight_cap: _Rate = 0.8
    server_learning_rate: _Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    average_last: Annotated[int, Field(ge=1, le=1000)] = 1
    options: dict[str, Option] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name_is_known(cls, name: str) -> str:
        errors = {"unknown": registry.UnknownStrategyError, "broken": registry.StrategyLoadError}
        return known_name(name, "strategy", registry.get, registry.names, **errors)

    @model_validator(mode="after")
    def _strategy_can_be_made(self) -> StrategyTerms:
        try:
            self.strategy()
        except ValueError as error:
            raise ValueError(f"keys that fit {self.name} ({error})") from None
        return self

    def strategy(self) -> Strategy:
        """Make the algorithm; ValueError when name or options are none of it."""
        return registry.make(
            self.name,
            server_learning_rate=self.server_learning_rate,
            server_momentum=self.server_momentum,
            options=self.options,
        )
