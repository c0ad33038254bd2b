"""`consortia predict | edit | export | models`: uses the models of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consortia.common.console import begin, err, tell
from consortia.common.errors import InputError
from consortia.common.run_folders import check_finished, check_there, run_folder
from consortia.models.choice import check_choice

if TYPE_CHECKING:
    import pandas as pd

#: (rows, what errors call them) -> predictions and what the schema's check says.
Predict = Callable[["pd.DataFrame", str], tuple["pd.DataFrame", Any]]
_Participant = Annotated[str, typer.Option(help="Whose model: its own run folder is read (its own side only).")]
_Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="kept (what the receipt says), joined (own and federated, stacked), federated, released (learner sums), "
        "edited (by consortia edit).",
    ),
]
_Exported = Annotated[
    str,
    typer.Option(
        "--model", help="federated; with learner sums released, the default there. What saw own rows stays home."
    ),
]


def predict(
    source: Annotated[str, typer.Argument(help="Folder or id of a run, or a version in a folder of models.")],
    rows: Annotated[Path, typer.Argument(help="CSV file with the schema's columns; a label is not needed.")],
    participant: _Participant = "",
    model: _Model = "kept",
    target: Annotated[Path | None, typer.Option("--out", help="Write here instead of printing.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add why: what each column adds to each prediction. It stays with you.")
    ] = False,
) -> None:
    """Predict raw rows. Missing values are allowed; a row that breaks the schema gets no prediction."""
    check_choice(model)
    if not (Path(source) / "manifest.json").is_file():
        _whose(source, participant)
    if not rows.is_file():
        raise InputError(f"{rows}: wanted a CSV file, got nothing there; check the path")
    begin(f"loading the model of {source}")
    from clients.errors import ClientError
    from clients.sources import WrongRowsError, read_csv

    predict_rows, said = _model_of(source, participant, model, explain=explain)
    try:
        frame = read_csv(rows)
        predictions, report = predict_rows(frame, str(rows))
    except WrongRowsError as error:
        raise InputError(f"{rows}: {error}") from None
    except ClientError as error:
        raise InputError(str(error)) from None
    predictions.insert(0, "row", range(1, len(predictions) + 1))
    text = predictions.to_csv(index=False)
    if target is None:
        typer.echo(text, nl=False)
    else:
        target.write_text(text, encoding="utf-8")
    count = f"{report.rows_kept} of {report.rows_read} rows"
    err.print(f"{count} predicted by {said}", markup=False, highlight=False, soft_wrap=True)
    if report.reasons:
        err.print(f"no prediction where a row breaks the schema: {report}", markup=False, highlight=False)


def _whose(run: str, participant: str) -> None:
    """Refuse a path with no folder, a run without a participant, or without its receipt."""
    check_there(run)
    if not participant:
        raise InputError("--participant: wanted whose model of the run, got none")
    run_folder(run, participant)


def _model_of(source: str, participant: str, model: str, *, explain: bool) -> tuple[Predict, str]:
    """Return what predicts rows, and its name in a sentence."""
    from consortia.models import registry
    from consortia.models.explain.row import explain_rows
    from consortia.models.rows import predict as predict_rows
    from consortia.models.source import label_owner_folder, of_participant
    from consortia.vertical.offline import predict_alone

    if (Path(source) / registry.MANIFEST).is_file():
        loaded, about, _ = registry.load(Path(source))
    elif folder := label_owner_folder(source, participant):
        if model != "kept":
            raise InputError(
                f"--model: wanted kept for the label owner of a vertical run, got {model!r}; without its "
                "partners it has its own model alone"
            )
        if explain:
            raise InputError("--explain: wanted a model on whole rows, got the label owner's part of a vertical one")
        run = f"the label owner's own model of run {folder.name}, without any partner"
        return lambda frame, where: predict_alone(folder, frame, where), run
    else:
        found = of_participant(source, participant, model)
        loaded, about = found.model, found.about
        if found.withdrawn:
            err.print(f"warning: {found.withdrawn}", markup=False, highlight=False, soft_wrap=True)
    detail = f" ({about.detail})" if about.detail else ""
    said = f"the {about.kind} model{detail} of run {about.run_id}"
    if not explain:
        return lambda frame, where: predict_rows(loaded, about, frame, where), said

    def explained(frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, Any]:
        table, report, how = explain_rows(loaded, about, frame, where)
        err.print(f"why: {how}", markup=False, highlight=False, soft_wrap=True)
        return table, report

    return explained, said


def edit(
    run: Annotated[str, typer.Argument(help="Folder or id of a run of the learner additive.")],
    shapes: Annotated[Path | None, typer.Argument(help="CSV file of edited shapes.")] = None,
    participant: _Participant = "",
    target: Annotated[Path | None, typer.Option("--out", help="Write the shapes as they came into this file.")] = None,
) -> None:
    """Edit the shapes of a participant's additive model by hand. The edited model is for use at home and never leaves.

    First write the shapes with --out, change numbers in the column `adds`, then give the file back.
    """
    if not participant:
        raise InputError("--participant: wanted whose model of the run, got none")
    if (shapes is None) == (target is None):
        got = "neither" if shapes is None else "both"
        raise InputError(f"wanted --out FILE (write the shapes) or a file of edited shapes, got {got}")
    _whose(run, participant)
    begin(f"loading the additive model of {run}")
    from consortia.models import edited

    if target is not None:
        table = edited.shapes_of(run, participant)
        table.to_csv(target, index=False)
        said = [f"{target}: {len(table)} numbers; change them in the column adds, then give the file back"]
    elif shapes is not None:
        said = edited.edit(run, participant, edited.read_shapes(shapes))
        said.append(f"kept at home as `--model edited` of `consortia predict {run} ROWS --participant {participant}`")
    for line in said:
        tell(line)


def export(
    run: Annotated[str, typer.Argument(help="Folder or id of a run.")],
    participant: _Participant = "",
    industry: Annotated[str, typer.Option(help="At the coordinator: this industry's released model.")] = "",
    model: _Exported = "",
    without: Annotated[
        list[str] | None, typer.Option(help="With --industry, learner sums: leave this participant's sums out.")
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="The folder of models.")] = Path("models"),
    name: Annotated[str, typer.Option(help="Its name there; the participant's or industry's without it.")] = "",
    onnx: Annotated[bool, typer.Option(help="Write ONNX, too (needs the extra `onnx`).")] = True,
) -> None:
    """Export a released model with its preprocessing, as safetensors and ONNX, as a new version.

    Where ONNX cannot be written the safetensors are, the reason is said, and the exit status is 1.
    """
    if bool(participant) == bool(industry):
        got = "both" if participant else "neither"
        raise InputError(f"wanted --participant (on its own side) or --industry (at the coordinator), got {got}")
    if participant and without:
        raise InputError("--without: wanted none with --participant, whose side has no other's sums")
    if participant:
        run_folder(run, participant)
    else:
        check_finished(Path(run), "scenario.json", "result.json")
    begin(f"exporting the model of {run}")
    from consortia.models import registry
    from consortia.models.onnx_file import to_onnx
    from consortia.models.source import check_leaves, of_coordinator, of_participant

    found = of_participant(run, participant, model) if participant else of_coordinator(run, industry, without or ())
    check_leaves(found)
    translated, lacking = None, ""
    if onnx:
        try:
            translated = to_onnx(found.model, found.about)
        except InputError as error:  # the model itself is still worth having
            lacking = str(error)
    folder = registry.register(to, name or participant or industry, found, translated)
    manifest = json.loads((folder / registry.MANIFEST).read_text(encoding="utf-8"))
    tell(f"{folder}: {', '.join(manifest['files'])}")
    tell(_guarantee(found.guarantee))
    if lacking:
        err.print(f"without ONNX: {lacking} (--no-onnx leaves it out)", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def models(
    folder: Annotated[Path, typer.Argument(help="The folder of models.")] = Path("models"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests.")] = False,
) -> None:
    """List the exported models with their guarantees, and check all hashes."""
    if not folder.is_dir():
        raise InputError(f"{folder}: wanted a folder of models, got nothing there; `consortia export` makes one")
    from consortia.models import registry

    found = list(registry.entries(folder))
    if as_json:
        typer.echo(json.dumps([{**each.manifest, "problem": each.problem} for each in found], indent=1))
    else:
        for each in found:
            manifest = each.manifest
            line = f"{each.folder}: {manifest.get('model')} model of run {manifest.get('run_id')}"
            state = each.problem or _guarantee(manifest["guarantee"])
            tell(f"{line}\n  {state}")
    if any(each.problem for each in found):
        raise typer.Exit(1)


def _guarantee(guarantee: dict[str, Any]) -> str:
    """Return a guarantee as a sentence: every epsilon with its delta, unit, relation and horizon."""
    if "participants" in guarantee:
        parts = [f"{name}: {_guarantee(account)}" for name, account in guarantee["participants"].items()]
        return "; ".join(parts)
    if "reason" in guarantee:
        return f"no guarantee: {guarantee['reason']}"
    if guarantee["non_private"] or guarantee["epsilon"] is None:
        return "ε = ∞ (non-private)" if guarantee["non_private"] else "ε unknown"
    relation = guarantee["relation"].replace("_", " ")
    towards = f", towards {guarantee['towards']}" if "towards" in guarantee else ""
    return (
        f"ε = {guarantee['epsilon']:.3f}, δ = {guarantee['delta']:g}, unit: {guarantee['unit']}, {relation}, "
        f"horizon: {guarantee['horizon']}{towards}"
    )
