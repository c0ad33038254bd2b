"""Code blocks of the documentation: found, split into commands, and made one shell script for each page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Pages that people read; design notes are records of decisions, with the commands of their day.
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "design"),
)

#: Commands that no test runs from the page, with the reason and, where there is one, the test that runs the like.
NOT_RUN = {
    r"^([A-Z_]+=\S+ )*(make (up|down|receipts|containers)\b|docker )": "Docker: tests/consortia/test_federation.py",
    r"^iptables ": "needs root, and an older engine: tests/consortia/test_container_walls.py",
    r"^tar ": "takes a coordinator's folders: tests/consortia/test_restore_drill.py",
    r"^consortia home (backup|restore) ": "asks for a passphrase: tests/consortia/test_home_backup.py",
    r"^(kubectl |consortia kubernetes --participant )": "needs a cluster, or a kit: tests/consortia/test_kubernetes.py",
    r"^(make install|\. \.venv/bin/activate|consortia .*\bscreening\b)": "run by tests/consortia/test_clean_clone.py",
    r"^make (run|test|check|docs|e2e|browser)\b": "is what CI does itself",
    r"^consortia demo\b": "serves until it is stopped: tests/consortia/test_demo.py",
    r"^consortia dashboard\b": "serves until it is stopped: tests/consortia/test_dashboard_browser.py",
    r"^consortia [a-z ]+ (--scenario )?NAME\b": "names the reader's files: docs/tutorials/own_data.md runs the like",
    r"^consortia client (check|confirm|diff) .*\bward\b": "names the file above it: tests/consortia/test_own_data.py",
    r"\bDATA\b": "reads data sets that the project does not ship: tests/clients/test_public_data.py",
    r"\bruns/RUN\b|\bmodels/used-car/1\b": "names a run or model of the reader's: tests/consortia/test_models.py",
    r"^consortia participant (add|key|remove)\b": "needs the certificates of an `up`: tests/consortia/test_joining.py",
    r"^consortia participant check-kit\b": "needs a kit: tests/consortia/test_kit_signature.py",
    r"^consortia audit banks --quick( --jobs 2)?$": "takes minutes: tests/consortia/test_audit.py",
    r"^consortia (passport RUN|verify) ": "names a run of the reader's: tests/consortia/test_passport.py",
    r"^consortia leave RUN ": "names a run of the reader's: tests/consortia/sums/test_leave.py",
    r"^python -m pytest\b": "is a test of the suite",
    r"--track otel\b": "needs a collector: tests/consortia/test_traces.py",
    r"^consortia (participant acts|home log [a-z-]+ --acts)\b": "names acts of the reader's: test_acts.py",
    r"^consortia (run smart-home|run shared-trunk --placebo$)": "takes minutes: tests/consortia/test_placebo.py",
}

#: Commands that end with status 1 and say why: two rows with that much noise miss the line that the scenario expects.
MISSES = (
    "consortia run linear --epsilon 1 --ledger homes",
    "consortia run linear --epsilon 1 --ledger homes/officer --out runs/officer",
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in found]


def commands(page: Path) -> Iterator[str]:
    """Yield every command line of a page's shell blocks, without its comment."""
    for block in blocks(page):
        if block.language in {"sh", "bash"}:
            for line in block.text.splitlines():
                if command := _command(line):
                    yield command


def _command(line: str) -> str:
    return re.sub(r"(^|\s+)#.*$", "", line).strip()


def words(command: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a line: what `&&` joins, without assignments and redirections."""
    for part in re.split(r"\s*(?:&&|\|)\s*", command):
        split = shlex.split(re.sub(r"\s*>\s*\S+", "", part))
        while split and re.fullmatch(r"[A-Z_]+=.*", split[0]):
            split = split[1:]
        if split:
            yield split


def why_not_run(command: str) -> str | None:
    """Return the reason why a command is not run from its page, or None."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), None)


def script(page: Path) -> str:
    """Return a page as one shell script, in its order; `@@ N` on a line of the output starts block N.

    The Python blocks of a page are one program, since each goes on where the last one ended.
    """
    lines = ["set -eu -o pipefail"]
    python = "\n".join(block.text for block in blocks(page) if block.language == "python")
    for number, block in enumerate(blocks(page)):
        lines.append(f"echo '@@ {number}'")
        if block.language == "sh":
            for line in block.text.splitlines():
                command = _command(line)
                if command and why_not_run(command) is None:
                    lines.append(f"{command} || test $? = 1" if command in MISSES else command)
        elif block.language == "python" and python:
            lines += ["python - <<'END_OF_PAGE'", python, "END_OF_PAGE"]
            python = ""
    return "\n".join(lines) + "\n"


def missing(page: Path, output: str) -> list[str]:
    """Return the lines of a page's `text` blocks that the output of the block before lacks; `…` stands for anything."""
    said = re.split(r"^@@ \d+$", output, flags=re.MULTILINE)[1:]
    lacking = []
    for number, block in enumerate(blocks(page)):
        if block.language != "text":
            continue
        got = " ".join(said[number - 1].split())
        for line in block.text.splitlines():
            pattern = r".*?".join(re.escape(" ".join(part.split())) for part in line.split("…"))
            if not re.search(pattern, got):
                lacking.append(line)
    return lacking
