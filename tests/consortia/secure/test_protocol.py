"""The secure sum's protocol: sums open whole, a liar learns nothing, every refusal has a name and costs nothing."""

from __future__ import annotations

from typing import Any

import pytest
from secure_sum_checks import CHECKS
from secure_sum_world import genuine


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_protocol(check: Any) -> None:
    check(genuine())
