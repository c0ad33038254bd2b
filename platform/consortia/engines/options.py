"""The options of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from consortia.common.errors import InputError

__all__ = ["ENGINES", "Options", "check_options"]

ENGINES = ("embedded", "flower", "ray", "vectorized")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `consortia run`."""

    scenario: str
    data: Path | None = None
    rounds: int | None = None
    seed: int | None = None
    split_seed: int | None = None
    epsilon: tuple[str, ...] = ()
    engine: str = "embedded"
    secure_noise: bool = False
    ledger: Path | None = None
    out: Path = Path("runs")
    dump: Path | None = None
    resume: Path | None = None
    top_up: Path | None = None
    units: tuple[str, ...] = ()
    batches: int | None = None
    placebo: bool = False
    uncompressed: bool = False
    draws: int = 3
    jobs: int = 1
    compressed: bool = True
    proposed_policies: bool = False  # without a demonstration policy, take the roster's proposal


def check_options(options: Options) -> None:
    """Refuse options that exclude each other or name nothing, independent of the scenario.

    Raises
    ------
    InputError
    """
    if options.engine not in ENGINES:
        raise InputError(f"--engine: wanted one of {', '.join(ENGINES)}, got {options.engine!r}")
    simulation = options.engine != "flower"
    if not simulation and (options.dump or options.ledger or options.split_seed is not None):
        raise InputError(
            "--dump, --ledger and --split-seed: wanted a simulation (--engine embedded), got --engine flower; "
            "a participant's rows, ledger and split are its own there"
        )
    if options.engine == "vectorized" and (options.dump or options.ledger or options.resume or options.secure_noise):
        raise InputError(
            "--dump, --ledger, --resume and --secure-noise: wanted none with --engine vectorized, which keeps its "
            "accounts in memory and draws floating-point noise; take --engine embedded"
        )
    if options.ledger and options.split_seed is not None:
        raise InputError("--split-seed: wanted none with --ledger, whose data sets have a split of their own")
    if options.jobs > 1 and not (options.placebo or options.uncompressed):
        raise InputError(
            f"--jobs: wanted --placebo or --uncompressed, whose runs go side by side, got {options.jobs} for one run; "
            "leave it out"
        )
    if options.resume is not None and (options.placebo or options.uncompressed):
        raise InputError("--placebo and --uncompressed: wanted a run from its start, got --resume")
    if options.top_up is not None:
        _check_top_up(options)
    elif options.units:
        raise InputError("--units: wanted --top-up RUN, whose new units it counts, got a run from its start")
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"--data {options.data}: wanted a folder, got nothing there; check the path")
    if options.resume is not None and not (options.resume / "job.json").is_file():
        raise InputError(f"--resume {options.resume}: wanted the folder of a run, got none; it holds job.json")


def _check_top_up(options: Options) -> None:
    """Refuse what a further release of a growing run cannot have (InputError)."""
    given = {
        "SCENARIO": options.scenario,
        "--resume": options.resume,
        "--rounds": options.rounds,
        "--seed": options.seed,
        "--split-seed": options.split_seed,
        "--placebo": options.placebo,
        "--uncompressed": options.uncompressed,
        "--batches": options.batches,
        "--secure-noise": options.secure_noise,
    }
    if wrong := [name for name, value in given.items() if value not in (None, "", False)]:
        raise InputError(
            f"--top-up: wanted none of {', '.join(wrong)}, since contract, split and homes are those of the run; leave "
            "it out"
        )
    if options.engine == "vectorized":
        raise InputError(
            "--top-up: wanted --engine embedded or flower, got vectorized, whose accounts end with its run"
        )
    if not (options.top_up and (options.top_up / "job.json").is_file()):
        raise InputError(f"--top-up {options.top_up}: wanted the folder of a finished run, got none; it holds job.json")
