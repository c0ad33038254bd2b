"""An ONNX file is compared with torch relative to what predictions range over."""

from __future__ import annotations

from dataclasses import replace

from clients import registry as industries
from clients.schema import Target
from consortia.models.onnx_file import predicted_range


def test_onnx_is_compared_relative_to_what_predictions_range_over() -> None:
    bounded = Target(name="rent", kind="regression", low=50, high=400)
    assert predicted_range(bounded) == 350
    assert predicted_range(replace(bounded, low=None, high=None)) == 1
    assert predicted_range(industries.get("bank").schema.target) == 1
