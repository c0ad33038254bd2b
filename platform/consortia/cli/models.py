"""`consortia predict | export | models`: uses the models of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from consortia.common.console import err, out
from consortia.common.errors import InputError

#: (rows, what errors call them) -> predictions and what the schema's check says.
Predict = Callable[[pd.DataFrame, str], tuple[pd.DataFrame, Any]]
_Participant = Annotated[str, typer.Option(help="Whose model: its own run folder is read (its own side only).")]
_Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="kept (what the receipt says), joined (own and federated, stacked), federated, released (learner sums).",
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
    from clients.errors import ClientError
    from clients.sources import WrongRowsError, read_csv

    predict_rows, said = _model_of(source, participant, model, explain=explain)
    try:
        frame = read_csv(rows)
        predictions, report = predict_rows(frame, str(rows))
    except FileNotFoundError:
        raise InputError(f"{rows}: wanted a CSV file, got nothing there") from None
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


def _model_of(source: str, participant: str, model: str, *, explain: bool) -> tuple[Predict, str]:
    """Return what predicts rows, and its name in a sentence."""
    from consortia.models import registry
    from consortia.models.explain.row import explain_rows
    from consortia.models.rows import predict as predict_rows
    from consortia.models.source import check_choice, check_there, label_owner_folder, of_participant
    from consortia.vertical.offline import predict_alone

    check_choice(model)
    if (Path(source) / registry.MANIFEST).is_file():
        loaded, about, _ = registry.load(Path(source))
    elif not participant:
        check_there(source)
        raise InputError("--participant: wanted whose model of the run, got none")
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
    detail = f" ({about.detail})" if about.detail else ""
    said = f"the {about.kind} model{detail} of run {about.run_id}"
    if not explain:
        return lambda frame, where: predict_rows(loaded, about, frame, where), said

    def explained(frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, Any]:
        table, report, how = explain_rows(loaded, about, frame, where)
        err.print(f"why: {how}", markup=False, highlight=False, soft_wrap=True)
        return table, report

    return explained, said


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
    from consortia.models import registry
    from consortia.models.onnx_file import to_onnx
    from consortia.models.source import check_leaves, of_coordinator, of_participant

    if bool(participant) == bool(industry):
        got = "both" if participant else "neither"
        raise InputError(f"wanted --participant (on its own side) or --industry (at the coordinator), got {got}")
    if participant and without:
        raise InputError("--without: wanted none with --participant, whose side has no other's sums")
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
    out.print(f"{folder}: {', '.join(manifest['files'])}", markup=False, highlight=False, soft_wrap=True)
    out.print(_guarantee(found.guarantee), markup=False, highlight=False, soft_wrap=True)
    if lacking:
        err.print(f"without ONNX: {lacking} (--no-onnx leaves it out)", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def models(
    folder: Annotated[Path, typer.Argument(help="The folder of models.")] = Path("models"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests.")] = False,
) -> None:
    """List the exported models with their guarantees, and check all hashes."""
    from consortia.models import registry

    if not folder.is_dir():
        raise InputError(f"{folder}: wanted a folder of models, got nothing there; `consortia export` makes one")
    found = list(registry.entries(folder))
    if as_json:
        typer.echo(json.dumps([{**each.manifest, "problem": each.problem} for each in found], indent=1))
    else:
        for each in found:
            manifest = each.manifest
            line = f"{each.folder}: {manifest.get('model')} model of run {manifest.get('run_id')}"
            state = each.problem or _guarantee(manifest["guarantee"])
            out.print(f"{line}\n  {state}", markup=False, highlight=False, soft_wrap=True)
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
