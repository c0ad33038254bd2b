"""Ctrl-C: what was committed stays, the status says that it did not finish, and the last line says how to go on."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.cli import audit
from consortia.reports.watch import wait_hint


def test_every_engine_says_how_to_go_on(tmp_path: Path) -> None:
    assert wait_hint(tmp_path).endswith(f"consortia run --resume {tmp_path}")
    assert wait_hint(tmp_path, "flower").endswith(f"consortia run --resume {tmp_path} --engine flower")
    assert "--resume" not in wait_hint(tmp_path, "vectorized")
    (tmp_path / "result.json").touch()
    assert "the run itself is complete" in wait_hint(tmp_path)


def test_any_command_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "load_scenario", interrupted)
    result = CliRunner().invoke(APP, ["audit", "banks-network", "--quick"])
    assert result.exit_code == 1
    assert "interrupted; nothing that was committed is lost" in result.output


@pytest.mark.end_to_end
def test_a_run_that_was_interrupted_goes_on_as_it_says(tmp_path: Path) -> None:
    consortia = [sys.executable, "-P", "-c", _MAIN]
    command = [*consortia, "run", "linear", "--rounds", "60", "--out", str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 240
        while time.monotonic() < end and _rounds(tmp_path) < 3:
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 1, said
    assert "Traceback" not in said
    (folder,) = tmp_path.iterdir()
    assert not (folder / "result.json").exists()
    done = _rounds(tmp_path)
    advice = re.search(r"Go on with: consortia (run --resume .*)$", said, re.MULTILINE)
    assert advice is not None, said
    again = subprocess.run([*consortia, *shlex.split(advice[1])], capture_output=True, text=True, check=False)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed", again.stderr
    assert [line["round"] for line in result["history"]] == list(range(1, 61))
    assert 3 <= done < 60
    assert _rounds(tmp_path) == 60  # no round twice


#: Tests in the background inherit that Ctrl-C is ignored, and would hand it on.
_MAIN = """
import signal
from consortia.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def _rounds(out: Path) -> int:
    files = list(out.glob("*/events.jsonl"))
    return files[0].read_text().count('"event": "round"') if files else 0
