"""Says where one column of a schema comes from, as a policy has it. Nothing heavy is imported for it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ColumnMap"]


class ColumnMap(BaseModel):
    """Where one column of the schema comes from.

    Parameters
    ----------
    column : str
        Its name in the source; by default the schema's own. Case does not matter.
    missing : tuple of str
        Further spellings of "missing".
    values : dict
        From a code of the source to the schema's value; "" is missing. A flag, category or class has no other codes.
    prefixes : dict
        The same by the beginning of the code, the longest first: ICD codes to groups, say.
    otherwise : str, optional
        What a code becomes that is neither in `values` nor in `prefixes`.
    measure : str
        The source's unit of measure; numbers are converted to the schema's exactly.
    molar_mass : float, optional
        In g/mol, between mg/dl and mmol/l.
    decimals : int, optional
        Digits after the point that a converted number keeps.
    born : str
        The source has a date in this form ("%d.%m.%Y"), which becomes the age in full years on the day `on`.
    on : str
        A date such as "2026-01-01", or the source's column with one.
    constant : str, optional
        The same value in every row.
    expression : str
        Computed from the source's columns (`clients.expressions`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    column: str = ""
    missing: tuple[str, ...] = ()
    values: dict[str, str] = Field(default_factory=dict)
    prefixes: dict[str, str] = Field(default_factory=dict)
    otherwise: str | None = None
    measure: str = ""
    molar_mass: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    decimals: Annotated[int, Field(ge=0, le=15)] | None = None
    born: str = ""
    on: str = ""
    constant: str | None = None
    expression: str = ""

    @model_validator(mode="after")
    def _fit(self) -> ColumnMap:
        coded = bool(self.values or self.prefixes)
        kinds = {
            "values or prefixes": coded and not self.measure,
            "measure": bool(self.measure) and not coded,
            "born": bool(self.born),
            "constant": self.constant is not None,
            "expression": bool(self.expression),
        }
        if sum(kinds.values()) > 1 or (coded and self.measure):
            raise ValueError("one of values (and prefixes), measure, born, constant and expression")
        if bool(self.born) != bool(self.on):
            raise ValueError("born and on together")
        if self.column and (self.constant is not None or self.expression):
            raise ValueError("no column beside constant or expression")
        if (self.otherwise is not None and not coded) or (self.molar_mass is not None and not self.measure):
            raise ValueError("otherwise beside values or prefixes only, molar_mass beside measure only")
        return self
