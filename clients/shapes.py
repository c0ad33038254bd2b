"""The shape of a row whose numbers belong together: an image, a sequence, or an item beside earlier ones.

Such a row is a table's row with one column a number, in the order of the shape. So public bounds, quarantine,
hashes, splits and the models of one's own treat it as they treat any row; the network alone puts it into its shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Names
from dataclasses import dataclass

from clients.errors import SchemaError
from consortia_plugins.arguments import named_arguments

__all__ = ["Image", "Items", "Sequence", "Shape"]


@named_arguments(SchemaError)
@dataclass(frozen=True, kw_only=True)
class Image:
    """An image: its columns are channel by channel, then row by row, then from left to right."""

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        _check_positive(self.sizes, "channels, height and width")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the tensor of one row."""
        return self.channels, self.height, self.width

    def names(self, prefix: str) -> tuple[str, ...]:
        """Return names of the columns, such as "pixel_3_7" (row 3, column 7; with the channel first if several)."""
        channels = [f"{prefix}_{c}" for c in range(self.channels)] if self.channels > 1 else [prefix]
        return tuple(f"{c}_{y}_{x}" for c in channels for y in range(self.height) for x in range(self.width))


@named_arguments(SchemaError)
@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A sequence: its columns are channel by channel, then step by step.

    Parameters
    ----------
    length, channels : int
        Steps, and numbers of each step.
    mask : bool
        Whether the last channel says by 1 which steps are there and by 0 which are not. Recurrent networks and
        transformers then leave the others out; convolutions see it as one more channel.
    """

    length: int
    channels: int
    mask: bool = False

    def __post_init__(self) -> None:
        _check_positive(self.sizes, "length and channels")
        if self.mask and self.channels < 2:
            raise SchemaError("sequence: mask: wanted a channel beside the mask, got 1 channel")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the tensor of one row."""
        return self.channels, self.length

    def names(self, prefix: str) -> tuple[str, ...]:
        """Return names of the columns, such as "beat_12" (step 12; with the channel first if several)."""
        channels = [f"{prefix}_{c}" for c in range(self.channels)] if self.channels > 1 else [prefix]
        return tuple(f"{c}_{t}" for c in channels for t in range(self.length))


@named_arguments(SchemaError)
@dataclass(frozen=True, kw_only=True)
class Items:
    """An item, and a set of earlier items with a value each: what somebody thought of others before.

    The columns are the item, the earlier items, then their values. An item is a whole number from 1 to `vocabulary`.
    A place without an earlier item holds 0, and the middle of the values' bounds.

    Parameters
    ----------
    vocabulary : int
        How many items there are: a public number. An id above 2^20 would be rounded on its way through float32.
    earlier : int
        Places for earlier items.
    """

    vocabulary: int
    earlier: int

    def __post_init__(self) -> None:
        _check_positive((self.vocabulary, self.earlier), "vocabulary and earlier")
        if self.vocabulary > 2**20:
            raise SchemaError(f"items: vocabulary: wanted at most {2**20}, got {self.vocabulary}; keep frequent items")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the tensor of one row."""
        return (1 + 2 * self.earlier,)

    def names(self, prefix: str) -> tuple[str, ...]:
        """Return names of the columns, such as "item", "item_3" (the third earlier one), "item_3_value"."""
        places = range(1, self.earlier + 1)
        return (prefix, *(f"{prefix}_{place}" for place in places), *(f"{prefix}_{place}_value" for place in places))


Shape = Image | Items | Sequence


def _check_positive(sizes: tuple[int, ...], what: str) -> None:
    if min(sizes) < 1:
        raise SchemaError(f"shape: {what}: wanted whole numbers >= 1, got {', '.join(map(str, sizes))}")


def problem(shape: Shape | None, kinds: Names[str]) -> str:
    """Return why features of these kinds do not fill the shape, or nothing.

    Parameters
    ----------
    kinds : what each feature is (`Schema.feature_kinds`).
    """
    if shape is None:
        return ""
    wanted = math.prod(shape.sizes)
    strange = next((kind for kind in kinds if kind not in {"number", "flag"}), "")
    if len(kinds) != wanted or strange:
        what = f"a feature of kind {strange!r}" if strange else f"{len(kinds)} features"
        return f"shape: wanted {wanted} number or flag columns without missing values, got {what}"
    return ""
