"""Tests a vertical run: labels under randomised response, models trained with DP, scores with local noise.

Label owner and partners answer the coordinator's own loop, on made-up persons, under the scenario's terms with noise on
labels, models and scores (`_TERMS`), whatever of it the scenario has. The audit holds every home, so it reads what was
sealed: the labels that a partner got, the model that it fitted, the scores that it sent. Each must be what stood at
home passed through the charged noise. A partner's training is played as a neighbour game by message: the same
request, its home as it was before, and a file in which one person's row is another.

The intersection itself claims no epsilon: who is in it is disclosed and charged as such, and its cryptography is no
subject here (`docs/guarantees.md`). Nor is a masked sum of scores, whose masks are tested in the tests of this mode.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from numpy.typing import NDArray
from scipy import stats

from clients import holdings
from clients.dataset import assign
from clients.sources import parse_source
from consortia.audit import entropy, games, statistics
from consortia.audit.games import Game
from consortia.audit.reference import Array
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.settings import Audit
from consortia.common.errors import RunFailedError
from consortia.common.strict import parse
from consortia.coordinator.rounds import Answer
from consortia.participant.home import Home
from consortia.terms.scenario import Scenario
from consortia.vertical.assistance import FOLDS
from consortia.vertical.coordinator import VerticalCoordinator
from consortia.vertical.grid import MISSING, Grid
from consortia.vertical.handle import handle
from consortia.vertical.partner import BINS
from consortia.vertical.setup import introduce
from consortia.vertical.store import Store
from privacy.ledger import Ledger
from privacy.observation import observing

_LABEL, _SCORE, _MODEL = 1.0, 1.5, 1.0  # epsilon
_PERSONS, _QUICK_PERSONS = 600, 300
_RUNS, _QUICK_RUNS = 4, 1
_CLIP, _RATE = 1.0, 2.0  # of `privacy.dp_logistic`, public constants
_TERMS: Mapping[str, Any] = {
    "batches": 0,
    "minimum_rows": 10,
    "secure_sum": False,
    "hide_membership": False,
    "keyed_ids": False,
    "score_epsilon": _SCORE,
    # One step: the weights then are the noisy sum itself.
    "model_privacy": {"epsilon": _MODEL, "delta": 1e-5, "steps": 1},
}


@dataclass
class Party:
    """Everybody's home and file, and what was asked of a partner when it trained.

    Attributes
    ----------
    asked : by partner, the message of `assist` and its reply.
    before : by partner, a copy of its home as it was before that.
    """

    scenario: Scenario
    folder: Path
    frames: Mapping[str, pd.DataFrame]
    homes: dict[str, Home] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    asked: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    labelled: tuple[bytes, bytes] | None = None
    before: dict[str, Path] = field(default_factory=dict)

    @property
    def terms(self) -> Any:
        """The vertical terms of the contract."""
        return self.scenario.contract.vertical

    def exchange(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Sequence[Answer]:
        """Deliver messages; the stack at home releases nothing, so the run ends before it."""
        del deadline
        kind = kind.removeprefix("query.")
        if kind == "stack":
            raise RunFailedError("audit: everything has left that leaves")
        answers = []
        for name, data in envelopes.items():
            if kind == "assist":
                self.before[name] = self.folder / f"{name}-before"
                shutil.copytree(self.homes[name].folder, self.before[name], dirs_exist_ok=True)
            reply = handle(data, self.homes[name], f"csv:{self.files[name]}")
            if kind == "assist":
                self.asked[name] = data, reply
            if kind == "label":
                self.labelled = data, reply
            answers.append(Answer(name, reply))
        return answers

    def store(self, name: str) -> Store:
        """Return what a participant kept of the run."""
        run = self.homes[name].run_folder("audit")
        return Store(run / "vertical-0", run / "steps.jsonl")

    def encoded(self, name: str) -> holdings.Encoded:
        """Return a participant's rows as it encodes them."""
        case = holdings.get(self.terms.case)
        industry = self.scenario.participant(name).industry
        source = parse_source(f"csv:{self.files[name]}")
        return case.holding(industry).encode(case.frame(source, industry, 0))

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """Return everything a participant was charged."""
        with Ledger.open(self.homes[name].ledger, name) as ledger:
            entries = ledger.export()["entries"]
        return [event for entry in entries for event in entry["events"]]


def party(audit: Audit, number: int, persons: int) -> Party:
    """Make homes, policies and files, and play a run up to the partners' scores."""
    data = json.loads(audit.scenario.to_json())
    data["contract"]["vertical"] |= {**_TERMS, "largest_set": 10 * persons}
    data["roster"] = [
        {
            **participant,
            "epsilon": _LABEL if participant["name"] == data["contract"]["vertical"]["label_owner"] else math.inf,
        }
        for participant in data["roster"]
    ]
    scenario = parse(Scenario, data, "audit")
    terms = scenario.contract.vertical
    assert terms is not None
    case = holdings.get(terms.case)
    frames = case.synthesise(np.random.default_rng(audit.random.integers(2**31)), persons)
    made = Party(scenario, audit.folder / f"party-{number}", frames)
    for participant in scenario.roster:
        home = Home(made.folder / participant.name, participant.name, simulation=True)
        home.create(split_seed=audit.split_seed)
        owner = participant.name == terms.label_owner
        policy = {
            "schema": 1,
            "participant": participant.name,
            "demo": True,
            "dataset": {
                participant.dataset: {
                    "industry": participant.industry,
                    "source": "synthetic:10",  # replaced for each message by the audit's own file
                    "site": terms.case,
                    "unit": "record",
                    "declared_units": participant.units,
                    "quarantine_threshold": 1.0,
                }
            },
            "budget": {
                "run": {"epsilon": _LABEL if owner else _SCORE + _MODEL, "delta": 1e-5},
                "lifetime": {"epsilon": 100.0, "delta": 0.999 / participant.units},
            },
            "allow": {"releases": [*terms.releases_of(participant.name)], "contracts": "any"},
            "vertical": {
                "label": terms.label,
                "purpose": terms.purpose,
                "set_size_cap": 10 * persons,
                "intersections": 9,
                "minimum_rows": 10,
                "models": ["logistic"],
            },
        }
        home.policy.write_text(tomli_w.dumps(policy), encoding="utf-8")
        Ledger.create(home.ledger, participant.name).close()
        made.homes[participant.name] = home
        made.files[participant.name] = made.folder / f"{participant.name}.csv"
        frames[participant.industry].to_csv(made.files[participant.name], index=False)
    introduce(scenario, made.homes)
    try:
        VerticalCoordinator(scenario, "audit", made.folder / "coordinator", made.exchange).run()
    except RunFailedError:
        if set(made.asked) != set(terms.partners):
            raise
    return made


def run(audit: Audit, progress: Progress) -> Findings:
    """Check label owner and partners."""
    findings = Findings("vertical")
    findings.notes.append("the intersection claims no epsilon, and neither its group nor the masks of sums were tried")
    kept: list[NDArray[np.bool_]] = []
    answers: dict[str, list[tuple[Array, Array]]] = {}
    noise: dict[str, list[Array]] = {}
    for number in range(_QUICK_RUNS if audit.quick else _RUNS):
        progress(f"run {number + 1}")
        with entropy.contexts() as seen:
            made = party(audit, number, _QUICK_PERSONS if audit.quick else _PERSONS)
        findings.checks.append(entropy.no_context_twice(seen, f"run {number + 1}"))
        kept.append(_labels(made, findings))
        for name in made.terms.partners:
            _scores(made, name, answers.setdefault(name, []), noise.setdefault(name, []))
        findings.checks += _recount(made)
    findings.checks += _response(np.concatenate(kept), _LABEL, 2, "labels")
    for name, pairs in answers.items():
        told, true = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
        findings.checks += _response(told == true, _SCORE, BINS, f"scores of {name}")
        # Whoever is not kept is any other value, all alike.
        other = (told - true)[told != true] % BINS
        counts = np.array([(other == value).sum() for value in range(1, BINS)])
        p = float(stats.chisquare(counts).pvalue) if counts.sum() else 0.0
        findings.checks.append(
            Check("what is no score is any other alike", f"scores of {name}", "equal counts", str(counts.tolist()), p)
        )
    for name, rest in noise.items():
        numbers = np.concatenate(rest)
        found = f"mean square {np.square(numbers).mean():.4g} over {numbers.size} numbers"
        findings.checks += [
            Check(
                "a model is the clipped sum plus the charged noise",
                name,
                "mean square 1",
                found,
                statistics.size_p(numbers),
            ),
            Check("a model's noise is Gaussian", name, "standard normal", found, statistics.shape_p(numbers)),
            Check("no two models share noise", name, "independent noise", found, statistics.alike_p(numbers)),
            Check("a model's noise is unrelated", name, "no lag, no mirror", found, statistics.lags_p(numbers)),
        ]
    return findings


def _response(kept: NDArray[np.bool_], epsilon: float, values: int, subject: str) -> list[Check]:
    """Randomised response: every value is kept by a coin of its own, with the charged probability."""
    rate = math.exp(epsilon) / (math.exp(epsilon) + values - 1)
    law = stats.binom(len(kept), rate)
    count = int(kept.sum())
    centred = (kept - rate) / math.sqrt(rate * (1 - rate))
    # Products of separate pairs are independent and bounded, so Hoeffding's inequality holds.
    p = 1.0
    for half in (0, 1):
        pairs = centred[half::2][: len(centred[half + 1 :: 2])] * centred[half + 1 :: 2]
        if len(pairs):
            reach = float(np.abs(np.array([1 - rate, -rate]) / math.sqrt(rate * (1 - rate))).max()) ** 2
            low = -reach
            p = min(p, 4 * math.exp(-2 * float(pairs.sum()) ** 2 / (len(pairs) * (reach - low) ** 2)))
    found = f"{count} of {len(kept)}"
    return [
        Check(
            "values are kept with the charged probability",
            subject,
            f"{rate:.4f}",
            found,
            statistics.two_sided(float(law.cdf(count)), float(law.sf(count - 1))),
        ),
        Check(
            "whether a value is kept does not depend on its neighbour's", subject, "no correlation", found, min(1.0, p)
        ),
    ]


def _labels(made: Party, findings: Findings) -> NDArray[np.bool_]:
    """Return which training labels were kept, and check that no other label is told to anybody."""
    owner = made.terms.label_owner
    rows = made.encoded(owner)
    order = made.store(owner).places("order", _never)
    true = rows.labels[order]
    told = []
    for name in made.terms.partners:
        data = made.store(name).read("labels")
        told.append(np.frombuffer(data[: len(order)], dtype=np.uint8))
    alike = all(np.array_equal(told[0], other) for other in told)
    split = made.scenario.contract.split
    part = assign(
        [rows.ids[int(i)] for i in order],
        made.homes[owner].split_key(),
        {"train": split.train + split.validation, "test": split.test},
    )
    train = (part == "train") & (true >= 0)
    hidden = bool((told[0][~train] == MISSING).all() and (told[0][train] != MISSING).all())
    findings.checks += [
        fact("everybody gets the same noisy labels", owner, alike, wanted=True, got=alike),
        fact("labels of training persons leave, and no others", owner, hidden, wanted=True, got=hidden),
    ]
    kept: NDArray[np.bool_] = told[0][train] == true[train]
    return kept


def _never() -> Any:
    raise RunFailedError("audit: wanted what the run kept at home, got none")


def _scores(made: Party, name: str, answers: list[tuple[Array, Array]], noise: list[Array]) -> None:
    """Add a partner's coarse scores, noisy and true, and what its models hold beside their clipped sums."""
    store, rows = made.store(name), made.encoded(name)
    matched = store.places("matched", _never)
    known = np.flatnonzero(matched >= 0)
    fitted = store.objects("model", _never)
    grid = Grid.for_epsilon(_LABEL)
    true = grid.encode(fitted.logits).astype(int) * BINS // grid.levels
    codes = np.frombuffer(store.read("codes"), dtype=np.uint8)[known].astype(int)
    answers.append((codes * BINS // grid.levels, true))
    (event,) = [event for event in made.events(name) if event["kind"] == "replace_gaussian"]
    labels = np.frombuffer(store.read("labels")[: len(matched)], dtype=np.uint8)[known].astype(int)
    x = np.column_stack([rows.features[matched[known]].astype(np.float64), np.ones(len(known))])
    for fold, model in enumerate(fitted.models):
        inside = (labels != MISSING) & (np.arange(len(known)) % FOLDS != fold)
        gradients = (0.5 - labels[inside])[:, None] * x[inside]
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        total = (gradients * np.minimum(1.0, _CLIP / np.maximum(norms, 1e-300))).sum(axis=0)
        released = -np.asarray(model.weights) * max(int(inside.sum()), 1) / _RATE
        noise.append(((released - total) / (event["noise_multiplier"] * 2 * _CLIP))[None, :])


def _recount(made: Party) -> list[Check]:
    """Each account holds what left, once; the same message gets the same bytes and costs nothing."""
    owner, checks = made.terms.label_owner, []
    wanted = {
        "labels": sum(event["kind"] == "randomized_response" for event in made.events(owner)),
        "epsilon": sum(e["epsilon"] for e in made.events(owner) if e["kind"] == "randomized_response"),
    }
    checks.append(
        fact(
            "labels are charged once, within the run's budget",
            owner,
            wanted["labels"] == 1 and wanted["epsilon"] <= _LABEL * 1.001,
            wanted=(1, _LABEL),
            got=tuple(wanted.values()),
        )
    )
    for name in made.terms.partners:
        kinds = sorted(event["kind"] for event in made.events(name) if event["kind"] != "non_private")
        local = [event["epsilon"] for event in made.events(name) if event["kind"] == "randomized_response"]
        steps = [event["count"] for event in made.events(name) if event["kind"] == "replace_gaussian"]
        good = kinds == ["randomized_response", "replace_gaussian"] and local == [_SCORE] and steps == [FOLDS - 1]
        checks.append(fact("scores and model are charged once", name, good, wanted=(_SCORE, FOLDS - 1), got=kinds))
        data, reply = made.asked[name]
        before = len(made.events(name))
        again = handle(data, made.homes[name], f"csv:{made.files[name]}")
        free = again == reply and len(made.events(name)) == before
        checks.append(fact("the same message gets the same scores, free", name, free, wanted=True, got=free))
    if made.labelled is not None:
        data, reply = made.labelled
        again = handle(data, made.homes[owner], f"csv:{made.files[owner]}")
        checks.append(fact("the same message gets the same labels, free", owner, again == reply, wanted=True))
    return checks


def play(audit: Audit, made: Party, seed: int) -> list[Game]:
    """One person's row at a partner is replaced by another's, or by one at the bounds."""
    random = np.random.default_rng(seed)
    name = str(random.choice(made.terms.partners))
    industry = made.scenario.participant(name).industry
    holding = holdings.get(made.terms.case).holding(industry)
    frame = pd.read_csv(made.files[name], dtype=str, keep_default_na=False)
    matched = made.store(name).places("matched", _never)
    known = matched[matched >= 0]
    rows = made.encoded(name)
    person = int(random.choice(known))
    # Persons are named by normalised identifiers: find the line of the file that names this one.
    names = [holdings.normalise(*values) for values in frame[list(holding.ids)].itertuples(index=False)]
    line, other = names.index(rows.ids[person]), int(random.integers(len(frame)))
    columns = [column.name for column in holding.columns if column.name in frame and column.name not in holding.ids]
    changed = frame.copy()
    changed.loc[line, columns] = frame.loc[other, columns].to_numpy()
    if random.random() < 0.5:
        for column in holding.columns:
            if column.name in columns and column.dtype in {"number", "integer"} and column.high is not None:
                changed.loc[line, column.name] = str(column.high)
    told = []
    for place, one in enumerate((frame, changed)):
        folder = made.folder / f"game-{seed}-{place}"
        shutil.copytree(made.before[name], folder)
        one.to_csv(folder / "rows.csv", index=False)
        with observing() as notes:
            handle(made.asked[name][0], Home(folder, name, simulation=True), f"csv:{folder / 'rows.csv'}")
        told.append(list(notes))
        shutil.rmtree(folder)
    (event,) = [event for event in made.events(name) if event["kind"] == "replace_gaussian"]
    ratio = math.inf
    if len(told[0]) == FOLDS * 1:
        ratio = games.moved(told[0], told[1], event["noise_multiplier"]) / math.sqrt(event["count"])
    recipe = f"{name}, vertical, seed {seed}: the row of one person replaced"
    return [Game("vertical training, by message", recipe, ratio)]
