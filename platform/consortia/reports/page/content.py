"""The sections of a report: sentences, facts, tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from markupsafe import Markup

from consortia.common.words import epsilon_text, number, when
from consortia.reports.charts import Level, Line, line_chart
from consortia.reports.decision import listed
from consortia.reports.forecasts import told_and_measured
from consortia.reports.many_participants import first, rest
from consortia.reports.page.closing import card_section, model_words, origin_section, proof_section, words_section
from consortia.reports.page.facts import Facts, promise
from consortia.reports.page.parts import WORDS, Chart, Section, Table
from consortia.reports.page.releases import releases
from consortia.reports.receipt_table import columns, interval, label, metric_name, receipt_row, synthetic_for
from consortia.reports.round_times import without_setup
from consortia.trust.passport.leave import departures
from consortia.trust.trusted_coordinator import sentence

__all__ = ["NO_METRIC", "WORDS", "Chart", "Section", "Table", "sections"]

#: Where no metric left: how to ask for one.
NO_METRIC = (
    "No metric left a participant. A contract asks for them with evaluation.metrics, and the participants' policies "
    "have to allow it."
)
_RELATIONS = {
    "add_or_remove_one": "adding or removing one unit",
    "change_label": "changing one label",
    "replace_one_row": "replacing one row",
}


def sections(facts: Facts) -> list[Section]:
    """Return the report."""
    # fmt: off
    made: tuple[Callable[[Facts], Section | None], ...] = (
        _left, _paid, releases, _guarantee, _spending, _cost, _trained, _convergence, _failures,
        words_section, card_section, proof_section, origin_section,
    )
    # fmt: on
    if facts.run.scenario.contract.statistics is not None:  # no model
        made = (_guarantee, _cost, _trained, _failures, words_section, proof_section, origin_section)
    return [section for make in made if (section := make(facts)) is not None]


def _size(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} B"


def _charts(*found: tuple[str, Markup]) -> list[Chart]:
    return [Chart(caption, drawing) for caption, drawing in found if drawing]


def _participants(facts: Facts) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield everybody, or the first ones of a crowd."""
    yield from first(list(facts.result["participants"].items()))


def _left(facts: Facts) -> Section | None:
    """Return who left the run since; nothing where nobody did."""
    gone = departures(facts.run.folder)
    if not gone:
        return None
    section = Section("Who left", says=[f"{one.sentence()}." for one in gone])
    section.facts = [(f"certificate of {one.stated.participant}", f"sha256:{one.sha256}") for one in gone]
    return section


def _trained(facts: Facts) -> Section:
    contract, result = facts.run.scenario.contract, facts.result
    section = Section("What was trained, and by whom")
    if facts.whose:
        others = [each.name for each in facts.run.scenario.roster if each.name != facts.whose]
        section.says.append(f"The report of {facts.whose}, which trained together with {listed(others)}.")
    if facts.simulation:
        charged = "charged to the given ledger" if result["charged"] else "not charged to any ledger"
        section.says.append(f"A simulation by one operator who holds all rows: {charged}.")
    if result["synthetic"]:
        section.says.append(
            f"The rows of {some} are synthetic; those of the others are real."
            if (some := synthetic_for(result))
            else "The rows are synthetic, made on each industry's schema: no number here is about real data."
        )
    if result.get("together"):
        section.says.append(f"{result['together'].capitalize()}.")
    rounds = f"{result['rounds']}" if facts.vertical else f"{result['rounds']} of {facts.run.scenario.rounds}"
    section.facts = [
        ("scenario", facts.run.scenario.title),
        ("status", result["status"] + (f": {result['reason']}" if result["reason"] else "")),
        ("steps" if facts.vertical else "rounds", rounds),
        ("mode", contract.mode),
        ("engine", result["engine"]),
        ("started", when(facts.run.started)),
        ("took", f"{result['seconds']:.1f} s"),
    ]
    if not facts.vertical:
        section.says += [f"{choice}." for choice in facts.run.scenario.choices]
        for part in facts.run.scenario.parts():
            own, whose = part.contract, f"{next(iter(part.contract.industries))}: " if contract.by_industry else ""
            shared = ", ".join(f"{name} with {scope}" for name, scope in own.scopes.model_dump().items())
            section.facts += [(f"{whose}learner", own.learner), (f"{whose}strategy", own.strategy.name)]
            section.facts += [(f"{whose}shared", shared)]
        rows = [
            (name, model_words(terms), str(terms.local_steps), f"{terms.sampling_rate:g}", f"{terms.clip:g}")
            for name, terms in contract.industries.items()
            if contract.of(name).noisy_sums is None
        ]
        heads = ("industry", "model", "steps a round", "sampling rate", "clip norm")
        if rows:
            section.tables.append(Table("Models and training terms by industry", heads, rows))
    participants = [
        (
            name,
            participant["industry"],
            participant["state"].lower().replace("_", "-"),
            str(participant["rounds_contributed"]),
        )
        for name, participant in _participants(facts)
    ]
    section.tables.append(Table("Participants", ("participant", "industry", "state", "updates taken"), participants))
    if more := rest(len(facts.result["participants"])):
        section.says.append(f"Tables and plots show the first of a crowd {more}.")
    return section


def guarantee_formula(facts: Facts) -> str:
    """Return what (ε, δ) promises, exactly; nothing where nobody is known to have a guarantee of this kind."""
    promised = promise(facts)
    if facts.vertical or "central" in facts.result or promised is None:
        return ""
    text = (
        f"Whatever left a participant in this run would have been at most e^ε times less or more likely without any "
        f"one {promised.units} of its training rows, except with probability δ = {promised.deltas}"
    )
    honest = ", provided that the members whom the contract counts on are honest" if promised.rests_on_members else ""
    return f"{text}{honest}."


def _guarantee(facts: Facts) -> Section:
    section = Section("Under which guarantee")
    trust = {
        "local": (
            "Trust model: local. Every participant adds all of its noise itself before anything leaves; its guarantee "
            "needs trust in nobody else, and the coordinator sees each noisy update."
        ),
        "aggregate": (
            "Trust model: aggregate. The coordinator sees sums only; participants share the noise, so the guarantee "
            "counts on the members that the contract names as honest."
        ),
    }
    if facts.vertical:
        section.says.append(
            "Vertical: the coordinator relays bytes that it cannot read; the label owner's ε is about its labels, a "
            "partner's about its scores. ∞ says that scores are disclosed to the label owner as they are."
        )
    elif "central" in facts.result:
        section.says.append(sentence(facts.result["central"]))
    else:
        for part in facts.run.scenario.parts():
            whose = f"{next(iter(part.contract.industries))}: " if facts.run.scenario.contract.by_industry else ""
            section.says.append(whose + trust[part.contract.trust])
    section.says.append(
        "ε of the run counts all training releases of this run by their privacy loss distribution (PLD), at the δ of "
        "the run; ε of the lifetime estimates all runs on the data set in the participant's ledger, at its own δ, and "
        "is known to its owner only. σ is the noise's standard deviation over the clip norm. Non-private is ∞."
    )
    if formula := guarantee_formula(facts):
        section.says.append(formula)
    rows = []
    for name, participant in _participants(facts):
        account = participant["epsilon"]
        infinite = bool(account["non_private"])
        relation = facts.receipts.get(name, {}).get("epsilon", {}).get("relation", "add_or_remove_one")
        rows.append(
            (
                name,
                "–" if account.get("runs_left") is None else str(account["runs_left"]),
                "∞ (non-private)" if infinite else epsilon_text(account["run"]),
                "–" if infinite or account["budget"] is None else f"{account['budget']:g}",
                "–" if account["delta"] is None else f"{account['delta']:g}",
                "∞" if infinite else epsilon_text(account["lifetime"]),
                "–" if account["lifetime_delta"] is None else f"{account['lifetime_delta']:g}",
                account["unit"] or "–",
                _RELATIONS.get(relation, relation.replace("_", " ")),
                "–" if facts.vertical else epsilon_text(participant["noise_multiplier"]),
            )
        )
    heads = (
        *("participant", "runs left", "ε run", "run budget", "δ run", "ε lifetime, estimate", "δ lifetime"),
        *("unit", "neighbours differ by", "σ"),
    )
    section.tables.append(Table("Privacy account of the training units", heads, rows))
    exact = [name for name, participant in _participants(facts) if participant["epsilon"]["metrics_non_private"]]
    if exact:
        section.says.append(f"Exact metrics left {', '.join(exact)}: ε of their evaluation units is ∞.")
    paid = [
        (name, epsilon_text(a["run"]), f"{a['budget']:g}", f"{a['delta']:g}", a["unit"])
        for name, participant in _participants(facts)
        if (a := participant["epsilon"]["metrics"])
    ]
    if paid:
        columns = ("participant", "ε run", "budget", "δ", "unit")
        section.tables.append(
            Table("Account of the evaluation units, for released metrics; horizon: this run", columns, paid)
        )
    if conditional := sorted({t.split for t in facts.run.scenario.contract.industries.values() if t.split != "hash"}):
        section.says.append(
            f"ε is conditional on the split {', '.join(conditional)}, which depends on the number of rows."
        )
    return section


def _paid(facts: Facts) -> Section | None:
    released = [
        (
            name,
            label(metric),
            number(line["released_value"]),
            "–" if "interval" not in line else f"{number(line['interval'][0])} to {number(line['interval'][1])}",
            "exact" if line["release"] == "exact" else "histogram with noise",
        )
        for name, participant in _participants(facts)
        for metric, line in participant["metrics"].items()
        if line.get("release") and line.get("released_value") is not None
    ]
    if not facts.receipts and not released:
        return None
    section = Section("Did joining pay")
    if released:
        heads = ("participant", "metric", "released value", "95 % interval", "how it left")
        section.tables.append(Table("The final model on test rows, as released", heads, released))
    if not facts.receipts:
        section.says.append("Receipts stay with the participants: whether joining paid is theirs to know.")
        return section
    section.says.append(
        "From receipts, which belong to the participants and are here because the reader owns them: metrics on "
        "untouched test rows."
    )
    headings = columns(facts.receipts.values())
    shown = first(list(facts.receipts.items()))
    rows = [
        (name, *receipt_row(receipt, headings), str(receipt.get("units", {}).get("test", "–")))
        for name, receipt in shown
    ]
    section.tables.append(Table("Receipts", (*headings, "test units"), rows))
    told = [(name, text) for name, receipt in shown if (text := told_and_measured(receipt))]
    if told:
        section.tables.append(Table("Expected before the run, and measured", ("participant", "joining"), told))
    further = [
        (name, metric_name(metric), interval(gain))
        for name, receipt in shown
        for metric, gain in receipt.get("net_gains", {}).items()
        if metric != receipt["headline"]
    ]
    if further:
        section.tables.append(
            Table("Net gain in further metrics", ("participant", "metric", "net gain [95 %]"), further)
        )
    return section


def _convergence(facts: Facts) -> Section | None:
    section = Section("Convergence")
    for metric, by_name in facts.released().items():
        lines = [
            Line(name, [(p.round, p.value, p.low, p.high) for p in points if p.value is not None])
            for name, points in by_name.items()
        ]
        title = f"{label(metric)} by round"
        caption = f"Released {label(metric)} of the shared model on validation rows; bands are 95 % intervals"
        section.charts += _charts((caption, line_chart(title, "round", label(metric), lines)))
    own: dict[str, list[Line]] = {}
    for name, (metric, values) in first(list(facts.progress.items())):
        own.setdefault(metric, []).append(Line(name, [(r, v, None, None) for r, v in values]))
    for metric, lines in own.items():
        title = f"{label(metric)} at home by round"
        caption = f"{label(metric)} of the incoming model on the participants' own validation rows (never released)"
        section.charts += _charts((caption, line_chart(title, "round", label(metric), lines)))
    rows = [
        (name, f"{label(metric)}, released", str(points[-1].round), number(points[-1].value))
        for metric, by_name in facts.released().items()
        for name, points in by_name.items()
    ]
    rows += [
        (name, f"{label(metric)}, at home", str(values[-1][0]), number(values[-1][1]))
        for name, (metric, values) in first(list(facts.progress.items()))
    ]
    if not rows:
        section.says.append(NO_METRIC)
        return None if facts.vertical else section
    section.tables.append(Table("The last value on validation rows", ("participant", "metric", "round", "value"), rows))
    return section


def _spending(facts: Facts) -> Section | None:
    if not facts.epsilon:
        return None
    section = Section("ε by round")
    section.says.append(
        "Counted from the declared noise (privacy loss distribution, rounded up), at each participant's δ and unit of "
        "the table above; horizon: this run."
    )
    lines = [Line(name, [(r, e, None, None) for r, e in points]) for name, points in first(list(facts.epsilon.items()))]
    budgets = {a["budget"] for _, p in _participants(facts) if (a := p["epsilon"])["budget"] is not None}
    levels = [Level("run budget", budgets.pop())] if len(budgets) == 1 else []
    drawing = line_chart("ε spent by round", "round", "ε of the run", lines, levels, zero=True)
    says = (
        "; the broken line is the run budget" if levels else "; each line ends at its participant's run budget or below"
    )
    section.charts = _charts((f"ε spent in this run after each round{says}", drawing))
    rows = [
        (name, str(points[-1][0]), epsilon_text(points[-1][1])) for name, points in first(list(facts.epsilon.items()))
    ]
    section.tables.append(Table("After the last update that was taken", ("participant", "round", "ε run"), rows))
    return section


def _cost(facts: Facts) -> Section:
    section = Section("What it cost")
    rows = [
        (
            name,
            _size(participant["bytes"]["sent"]),
            _size(participant["bytes"]["received"]),
            number(participant["seconds"]["train"], 1),
            number(participant["seconds"]["evaluate"], 1),
            str(len(participant["failures"])),
        )
        for name, participant in _participants(facts)
    ]
    heads = ("participant", "sent", "received", "seconds of training", "seconds of evaluation", "failures")
    section.tables.append(Table("By participant; seconds of work are known to the participant only", heads, rows))
    points, apart = without_setup([(each, seconds) for each, seconds, _ in facts.run.rounds])
    drawing = line_chart("Seconds by round", "round", "seconds", [Line("coordinator", points)], zero=True)
    section.charts = _charts((f"Seconds from sending a round to its aggregate{apart}", drawing))
    return section


def _failures(facts: Facts) -> Section:
    section = Section("Failures")
    if not facts.run.failures:
        section.says.append("None.")
        return section
    rows = [(f.participant, str(f.round), f.code, when(f.time)) for f in facts.run.failures]
    section.tables.append(Table("In order of time", ("participant", "round", "code", "time"), rows))
    return section
