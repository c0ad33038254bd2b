"""Each kind of model with every strategy, compression, trust, engine and learner: it runs or is refused by name.

The table that the page on networks shows is that of `kinds_of_models.FEATURES`, and these runs hold it to the truth.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kinds_of_models as kinds
import pytest
import safetensors.torch
import torch
from packages import Packages
from series import Unmeasured

from clients import registry
from consortia import server_app
from consortia.common.errors import InputError
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "networks.md"


def test_the_page_shows_the_table_that_runs_are_held_to() -> None:
    marks = re.search(r"<!-- kinds -->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.S)
    assert marks is not None, "wanted the marks <!-- kinds --> and <!-- end -->"
    assert marks.group(1) == kinds.table(), f"write this between the marks of {PAGE.name}:\n{kinds.table()}"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Packages(tmp_path / "packages", monkeypatch).install(*kinds.OWN_PACKAGE, own_network=kinds.OWN_MODULE)
    monkeypatch.setattr(registry, "_held", {(one := kinds.client_of(kind)).name: one for kind in kinds.KINDS})


def _run(folder: Path, kind: str, feature: str, **options: Any) -> Any:
    """Run the feature on that kind; raise what refuses it."""
    change, _, _ = kinds.FEATURES[feature]
    name = feature.strip("`")
    path = kinds.write(
        folder,
        kind,
        change,
        participants=kinds.LEAST.get(name, kinds.SMALL),
        private=name not in {"qfedavg"},
    )
    engine = "vectorized" if "vectorized" in feature else "embedded"
    asked = Options(scenario=path, out=folder / "runs", seed=1, engine=engine, **options)
    return execute(prepare(asked), asked)


@pytest.mark.end_to_end
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_what_works_with_a_kind_runs_and_the_rest_is_refused_by_name(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_app, "Coordinator", Unmeasured)
    for number, (feature, (_, refused, words)) in enumerate(kinds.FEATURES.items()):
        folder = tmp_path / str(number)
        if kind in refused:
            with pytest.raises(InputError, match=re.escape(words)):
                _run(folder, kind, feature)
            continue
        outcome = _run(folder, kind, feature)
        assert outcome.result["status"] == "completed", feature
        kept = load_latest(outcome.job.folder)
        if kept is not None:  # learners have a model of another form
            assert all(torch.isfinite(t).all() for group in kept.groups.values() for t in group.values()), feature


@pytest.mark.end_to_end
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_run_of_each_kind_that_broke_goes_on_to_the_same_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kinds.write(tmp_path, kind, lambda contract: contract.update(rounds=2), private=False)
    real, models = Coordinator._round, []

    def dies(self: Coordinator, state: Any) -> Any:
        if state.round == 1:
            raise KeyboardInterrupt
        return real(self, state)

    monkeypatch.setattr(Coordinator, "_evaluate", Unmeasured._evaluate)
    for name, method in (("whole", real), ("broken", dies)):
        options = Options(scenario=path, out=tmp_path / name, seed=1)
        job = prepare(options)
        monkeypatch.setattr(Coordinator, "_round", method)
        try:
            execute(job, options)
        except KeyboardInterrupt:
            monkeypatch.setattr(Coordinator, "_round", real)
            again = Options(scenario="", resume=job.folder)
            assert execute(prepare(again), again).result["status"] == "completed"
        file = job.folder / "model" / f"{kinds.client_of(kind).name}.safetensors"
        models.append(safetensors.torch.load(file.read_bytes()))
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
