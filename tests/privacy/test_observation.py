"""Who may see what noise is added to: nobody, but for the audit and the tests."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from noise_contexts import TEST

from privacy.histogram import HistogramNoise, noisy_histogram
from privacy.observation import Note, observed, observing, tell

ROOT = Path(__file__).resolve().parents[2]


def _release() -> np.ndarray:
    cells, units = np.zeros(5, dtype=np.int64), np.arange(5, dtype=np.int64)
    return noisy_histogram(cells, 2, units, rows_per_unit=1, noise=HistogramNoise("laplace", 3.0), context=TEST)


def test_only_the_audit_opens_a_block() -> None:
    """A list, so that whoever adds a name has to say so here."""
    allowed = {
        "block_sums.py",
        "message_games.py",
        "mechanism_games.py",
        "statistics_games.py",
        "step_games.py",
        "sums.py",
        "vectorised.py",
        "vertical.py",
    }
    found = set()
    for folder in ("privacy", "clients", "strategies", "platform"):
        for path in (ROOT / folder).rglob("*.py"):
            if "observing" in path.read_text(encoding="utf-8") and path.name != "observation.py":
                found.add(path)
    assert {path.name for path in found} == allowed
    assert {path.parent.name for path in found} == {"audit"}


def test_nothing_is_kept_where_nobody_observes() -> None:
    assert not observed()
    _release()
    with observing() as notes:
        assert observed()
        assert notes == []
    assert not observed()


def test_a_block_sees_the_sum_and_the_noise_of_its_own_context_only() -> None:
    with observing() as notes:
        other = threading.Thread(target=_release)
        other.start()
        other.join()
        assert notes == []
        _release()
        with observing() as inner:
            tell("a mechanism", np.ones(2), deviation=1.0)
        (note,) = notes
        assert [one.where for one in inner] == ["a mechanism"]
    assert isinstance(note, Note)
    assert (note.where, note.deviation, note.law, note.exact.tolist()) == ("histogram", 3.0, "laplace", [5.0, 0.0])
    _release()
    assert len(notes) == 1


def test_a_note_is_a_copy() -> None:
    sums = np.ones(3)
    with observing() as (notes):
        tell("a mechanism", sums, deviation=2.0)
    sums += 1
    assert notes[0].exact.tolist() == notes[0].noised.tolist() == [1.0, 1.0, 1.0]
