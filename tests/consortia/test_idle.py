"""What a participant takes while it waits: real processes, their memory and the libraries in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import many_meters


@pytest.mark.end_to_end
def test_a_launcher_and_a_supernode_that_wait_are_small() -> None:
    with many_meters.idling() as groups:
        size = many_meters.settled(groups)
        loaded = many_meters.libraries(groups, "launcher")
    assert any(name.startswith("_ssl") for name in loaded)
    assert not [name for name in loaded if "torch" in name or "arrow" in name or "pandas" in name]
    assert size["launcher"] <= 120  # both processes; 250 is what was asked for
    assert size["supernode"] <= 110


def test_what_waits_and_what_answers_load_no_flower() -> None:
    for module, most in (
        ("consortia.deploy.launcher, consortia.deploy.forks", 250),
        ("consortia.vertical.answer", 4000),
    ):
        code = f"import sys, {module}; print(len(sys.modules), *{{name.partition('.')[0] for name in sys.modules}})"
        count, *names = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not {"flwr", "grpc", "fastapi"} & set(names), module
        assert int(count) <= most, module
