"""`consortia budget plan|sweep`: shows what an ε buys, before joining and side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from consortia.cli.options import AsJson, Jobs, Rounds, ScenarioName
from consortia.common.console import begin, err, out, tell
from consortia.common.errors import InputError, RunFailedError
from consortia.common.strict import listed
from consortia.common.words import epsilon_text, interval, number
from consortia.participant.home import Home
from consortia.terms.scenario import find_scenario, load_scenario
from privacy.errors import PrivacyError

if TYPE_CHECKING:
    from consortia.studies.sweep import Point, Sweep

_GRID = "0.5,1,2,4,8"
Epsilons = Annotated[str, typer.Option("--epsilon", metavar="X,Y,…", help="The ε to try, separated by commas.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where finished runs and tables are kept; go on from there.")]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or any(not value > 0 for value in values) or len(set(values)) != len(values):
        raise InputError(f"--epsilon: wanted different numbers > 0 separated by commas, got {text!r}")
    return values


def _run(sweep: Sweep, folder: Path, *, quiet: bool) -> list[dict[str, Any]]:
    """Run the cells with a bar in a terminal, plain lines without one; Ctrl-C keeps what is finished."""
    from consortia.studies import sweep as sweeps

    console = err if quiet else out
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    try:
        with progress:
            task = progress.add_task("starting", total=sweep.seeds * len(sweep.epsilons))
            return sweeps.run(sweep, folder, _teller(progress, task, console))
    except KeyboardInterrupt:
        err.print(f"interrupted; finished runs are kept in {folder}. The same command goes on.", soft_wrap=True)
        raise typer.Exit(1) from None


def _teller(progress: Progress, task: Any, console: Any) -> Callable[[int, int, str], None]:
    def told(finished: int, total: int, line: str) -> None:
        progress.update(task, completed=finished, description=line)
        if not console.is_terminal:
            console.print(f"{finished}/{total}: {line}", highlight=False)

    return told


def sweep(
    scenario: ScenarioName,
    participant: Annotated[str, typer.Option(help="Whose ε varies; everybody's without it.")] = "",
    epsilon: Epsilons = _GRID,
    seeds: Annotated[int, typer.Option(min=1, help="Runs for each ε.")] = 5,
    rounds: Rounds = None,
    data: Annotated[
        Path | None, typer.Option(help="Public rows for everybody: each run is charged in full to --ledger.")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="The participants' homes to charge: on --data, or on the rows that their policies name."),
    ] = None,
    jobs: Jobs = 1,
    out_folder: Out = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario under several budgets, and show how a participant's ε changes everybody's metric."""
    values = _numbers(epsilon)
    begin(f"starting the runs of {find_scenario(scenario).stem}: libraries first", as_json=as_json)
    load_scenario(scenario)
    # From here on it takes everything: what is refused above costs no second.
    from consortia.studies import sweep as sweeps

    asked = sweeps.Sweep(
        scenario=scenario,
        participant=participant,
        epsilons=values,
        seeds=seeds,
        rounds=rounds,
        data=data,
        ledger=ledger,
        jobs=jobs,
    )
    folder = out_folder or Path("sweeps") / "-".join(filter(None, (Path(scenario).stem, participant)))
    sweeps.check(asked)
    cells = _run(asked, folder, quiet=as_json)
    table = sweeps.points(cells)
    if not table:
        raise RunFailedError(
            f"none of {len(cells)} runs gave anybody a metric on test rows: wanted more rows a participant, of both "
            f"classes, got too few; the runs are kept in {folder}"
        )
    files = sweeps.write_tables(asked, table, cells, folder)
    drawn = sweeps.plot(asked, table, cells, folder)
    if as_json:
        data_out = {"schema": 1, "scenario": Path(scenario).stem, "participant": participant or None}
        typer.echo(json.dumps({**data_out, "synthetic": cells[0]["synthetic"], "points": _plain(table)}, indent=1))
        return
    _print_sweep(asked, table, cells)
    for file in (*files, *drawn):
        tell(f"wrote {file}")
    if not drawn:
        out.print("No plot: pip install 'consortia[plot]' for matplotlib.", markup=False, highlight=False)


def _plain(table: list[Point]) -> list[dict[str, Any]]:
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(point).items()} for point in table
    ]


def _print_sweep(asked: Sweep, table: list[Point], cells: list[dict[str, Any]]) -> None:
    from consortia.studies import sweep as sweeps

    names = list(dict.fromkeys(point.participant for point in table))
    shown = Table(title=f"{Path(asked.scenario).stem}: ε of {asked.participant or 'everybody'}, everybody's metric")
    shown.add_column(f"ε of {asked.participant or 'all'}", justify="right")
    for name in names:
        shown.add_column(name, justify="right", overflow="fold")
    by = {(point.epsilon, point.participant): point for point in table}
    for value in dict.fromkeys(point.epsilon for point in table):
        first = "∞ (non-private)" if value is None else f"{value:g}"
        shown.add_row(first, *(sweeps.cell_text(by.get((value, name))) for name in names))
    out.print(shown)
    out.print(sweeps.caption(asked, table, cells) + ".", highlight=False)


def plan(
    scenario: ScenarioName,
    participant: Annotated[str, typer.Option(help="One participant only.")] = "",
    epsilon: Epsilons = _GRID,
    seeds: Annotated[int, typer.Option(min=0, help="Simulated runs for each ε; 0 leaves the utility out.")] = 2,
    rounds: Rounds = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Homes to read policy and ledger from; demonstration policies without."),
    ] = None,
    own_rows: Annotated[
        bool,
        typer.Option("--own-rows", help="At home: sharpen the verdict of --participant with its rows in --home."),
    ] = False,
    jobs: Jobs = 1,
    out_folder: Out = None,
    as_json: AsJson = False,
) -> None:
    """Show before joining whether it is worth it, what each ε means in noise and utility, and which change helps."""
    values = _numbers(epsilon)
    name = find_scenario(scenario).stem
    begin(f"planning {name}: what each ε means for {participant or 'every participant'}", as_json=as_json)
    loaded = load_scenario(scenario).with_overrides(rounds=rounds)
    if participant and participant not in [planned.name for planned in loaded.roster]:
        names = listed(planned.name for planned in loaded.roster)
        raise InputError(f"--participant: wanted one of {names}, got {participant!r}")
    if own_rows and not (participant and home):
        raise InputError("--own-rows: wanted --participant NAME and --home DIR, whose rows are read; give both")
    from consortia.participant.forecast_at_home import at_home
    from consortia.reports.fit import print_text
    from consortia.reports.forecasts import FOR_SUMS_ONLY, MEANS
    from consortia.reports.glossary import lines as glossary
    from consortia.studies import sweep as sweeps
    from consortia.studies.tuning import answer

    try:
        data = answer(loaded, scenario, [value for value in values if math.isfinite(value)], home, participant)
        if own_rows and home:
            own = at_home(Home((home / participant).resolve(), participant), loaded)
            data["participants"][participant]["forecast_at_home"] = own.to_json()
    except PrivacyError as error:
        raise InputError(str(error)) from None
    band: dict[tuple[float | None, str], Point] = {}
    if seeds:
        asked = sweeps.Sweep(scenario=scenario, participant="", epsilons=values, seeds=seeds, rounds=rounds, jobs=jobs)
        folder = out_folder or Path("sweeps") / f"{Path(scenario).stem}-plan"
        band = {
            (point.epsilon, point.participant): point for point in sweeps.points(_run(asked, folder, quiet=as_json))
        }
    for name, planned in data["participants"].items():
        for price in planned["prices"]:
            point = band.get((price["epsilon"], name))
            price["utility"] = point and {
                "metric": point.metric,
                "mean": point.mean,
                "smallest": point.smallest,
                "largest": point.largest,
                "seeds": point.seeds,
                "local": point.local,
                "data": "synthetic",
            }
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    for name, planned in data["participants"].items():
        _print_plan(name, planned)
    out.print(MEANS if any(part.contract.sums for part in loaded.parts()) else FOR_SUMS_ONLY, highlight=False)
    print_text(out, f"σ: {dict(glossary('σ'))['σ']}.")
    out.print(
        "ε of one run by its privacy loss distribution (PLD). Noise/signal: norm of all noise over the largest "
        "possible signal; above .5 little can be left. Rounds: what ε pays for at the proposal's own σ. "
        + (
            f"Utility: smallest to largest of {seeds} simulated runs on [bold]synthetic[/] rows, everybody at that ε."
            if seeds
            else "Utility was not simulated (--seeds 0)."
        ),
        highlight=False,
    )


def _print_plan(name: str, participant: dict[str, Any]) -> None:
    from consortia.reports.fit import print_fitting, print_text
    from consortia.reports.forecasts import OWN_ROWS, sentence

    proposed = "∞ (non-private)" if participant["proposed_epsilon"] is None else f"{participant['proposed_epsilon']:g}"
    units, unit = participant["training_units"], participant["unit"]
    title = f"{name}: {units} training units, proposed ε {proposed} (add/remove one {unit})"
    told = participant["forecast"]
    if life := participant["lifetime"]:
        print_text(
            out,
            f"{name}: runs like this one left: {life['runs_left']}. Lifetime ({life['source']}): ε "
            f"{epsilon_text(life['left'])} of {epsilon_text(life['lifetime_budget'])} left at δ {life['delta']:g}, "
            f"unit {life['unit']}; run budget {epsilon_text(life['run_budget'])}.",
            "yellow" if life["runs_left"] <= 1 else None,
        )
    for label, forecast in (("as proposed", told), ("at home", participant.get("forecast_at_home"))):
        if forecast:
            print_text(out, f"{name}, {label}: {sentence(forecast)}.")
    if participant.get("forecast_at_home"):
        out.print(OWN_ROWS, highlight=False)
    simulated = all(price["utility"] for price in participant["prices"])
    utility = ("expected utility", "alone") if simulated else ()
    rows = []
    for price in participant["prices"]:
        use, hope = price["utility"] if simulated else None, price["forecast"]
        rows.append(
            (
                epsilon_text(price["epsilon"]),
                f"{price['delta']:g}",
                epsilon_text(price["noise_multiplier"]),
                number(price["noise_ratio"], 2),
                str(price["rounds_affordable"]) if price["rounds_affordable"] else "–",
                *((f"{use['metric']} {use['smallest']:.3f}–{use['largest']:.3f}", number(use["local"])) if use else ()),
                *((number(hope["effective_rows"], 0), interval(hope["gain"]), hope["verdict"]) if hope else ()),
            )
        )
    heads = ("ε run", "δ run", "σ", "noise/signal", "rounds", *utility)
    print_fitting(out, (*heads, *(("N_eff", "expected net gain", "verdict") if told else ())), rows, title=title)
    for knob in participant["knobs"]:
        change = f"{knob['knob']} {knob['before']} -> {knob['after']}" if knob["after"] else knob["knob"]
        verdict = "helps" if knob["helps"] else ("" if not knob["after"] else "does not help by this measure")
        numbers = (
            f"σ {number(knob['noise_multiplier'], 2)}, noise/signal {number(knob['noise_ratio'], 2)}, noise in a "
            f"coordinate {number(knob['update_noise'])}"
        )
        line = "; ".join(filter(None, (numbers, verdict, knob["note"])))
        tell(f"  {change}: {line}")
