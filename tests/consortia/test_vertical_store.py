"""Kept models come back as they were; what is not one of the named types does not load, and nothing in it runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import skops.io

from consortia.common.errors import RefusedError
from consortia.vertical.assistance import MODELS, Assistance, _Constant, assist
from consortia.vertical.private_model import Linear
from consortia.vertical.stacking import decide
from consortia.vertical.store import Store

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = (X[:, 0] + RNG.normal(size=120) > 0).astype(int)


def _store(folder: Path) -> Store:
    return Store(folder / "vertical", folder / "progress.jsonl")


SLOW = [pytest.param(name, marks=pytest.mark.end_to_end) for name in MODELS if name != "logistic"]


@pytest.mark.parametrize("name", ["logistic", *SLOW, "constant", "logistic (DP)"])
def test_a_partners_models_come_back(tmp_path: Path, name: str) -> None:
    if name in MODELS:
        fitted = assist(X, Y, [name])
    else:
        model = _Constant(0.25) if name == "constant" else Linear(RNG.normal(size=4))
        fitted = Assistance(RNG.normal(size=120), name, (model, model))
    again = _store(tmp_path).objects("model", lambda: fitted)
    assert again.model == name
    assert np.array_equal(again.logits, fitted.logits)
    assert np.array_equal(again.score(X), fitted.score(X))
    assert np.array_equal(_store(tmp_path).objects("model", lambda: None).score(X), fitted.score(X))


@pytest.mark.end_to_end
def test_a_stack_comes_back(tmp_path: Path) -> None:
    scores = np.where(RNG.random((120, 1)) < 0.5, np.nan, RNG.normal(size=(120, 1)))
    made = decide(X, scores, Y)
    again = _store(tmp_path).objects("stack", lambda: made)
    assert (again.joins, again.gain, again.standard_error) == (made.joins, made.gain, made.standard_error)
    assert np.array_equal(again.assisted.predict(X, scores), made.assisted.predict(X, scores))


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("it-ran"),)  # type: ignore[return-value]


@pytest.mark.parametrize("content", ["pickle", "other type", "noise"])
def test_what_is_no_model_of_ours_is_refused_and_does_not_run(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"pickle": pickle.dumps(_Runs()), "other type": skops.io.dumps(_Runs()), "noise": b"\0" * 90}[content]
    store = _store(tmp_path)
    store.once("model", lambda: data)
    (tmp_path / "it-ran").unlink(missing_ok=True)
    with pytest.raises(RefusedError, match="not a model that this version wrote"):
        store.objects("model", lambda: None)
    assert not (tmp_path / "it-ran").exists()
