"""No code of the product makes a key for noise without saying what the noise is for."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {"fresh_generator", "fresh_key", "FreshNoise", "KeyStream"}


def unbound(source: str) -> list[int]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {id(call): getattr(call.func, "id", getattr(call.func, "attr", "")) for call in calls}
    return [call.lineno for call in calls if names[id(call)] in MAKERS and not call.args and not call.keywords]


def test_every_key_of_the_product_is_bound() -> None:
    assert unbound("fresh_generator()") == [1]
    files = [*(ROOT / "privacy").rglob("*.py"), *(ROOT / "platform").rglob("*.py"), *(ROOT / "strategies").glob("*.py")]
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)): unbound(path.read_text(encoding="utf-8")) for path in files}
    assert not {path: lines for path, lines in found.items() if lines}
