"""The fields of a contract: what is trained, how often, under which trust."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from consortia.common.strict import StrictModel
from consortia.terms import learners
from consortia.terms.additive import AdditiveTerms
from consortia.terms.compression import CompressionTerms
from consortia.terms.evaluation import EvaluationTerms, StoppingTerms
from consortia.terms.growing import BuiltOn, StepsBuiltOn, StepsTerms
from consortia.terms.learners import OwnTerms
from consortia.terms.model import LoraTerms, Model, PretrainedFile, Scopes
from consortia.terms.optimizer import OptimizerTerms, ScheduleTerms
from consortia.terms.secure_sum import SecureTerms
from consortia.terms.statistics import StatisticsTerms
from consortia.terms.strategy import Option, StrategyTerms
from consortia.terms.sums import SumsTerms
from consortia.terms.trusted_coordinator import CentralTerms
from consortia.terms.vertical import VerticalTerms
from consortia_plugins import known_name

WIRE_VERSION = 1
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
Industry = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1)]
#: What may leave a participant, by the word of contract and policy.
ReleaseKind = Literal[
    "update", "sums", "additive", "statistics", "blocks", "metrics", "size", "intersection", "labels", "scores"
]


class IndustryTerms(StrictModel):
    """How one industry trains: the model and the public constants of its DP-SGD.

    `sampling_rate` is the Poisson rate q per privacy unit, `clip` the norm bound C of one unit's summed
    gradient, `local_steps` the optimizer steps a round. The first `private_steps` of them move the private parameters
    alone, the others the shared ones alone (FedRep); with 0 every step moves all (FedPer). `optimizer` and `schedule`
    say how steps use a noisy gradient; without them it is plain gradient descent at one rate. `init` is a file to start
    from; parameters whose names `freeze` gives stay as they are, and dense layers get adapters with `lora`
    (`terms.pretrained`). `client` is the SHA-256 of an industry's file (`clients.declared`): every participant must
    have the same columns, bounds and categories.
    """

    model: Model = Model()
    local_steps: Annotated[int, Field(ge=1, le=10_000)]
    private_steps: Annotated[int, Field(ge=0, le=10_000, exclude_if=lambda steps: steps == 0)] = 0
    sampling_rate: Rate
    clip: Positive
    learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    optimizer: Annotated[OptimizerTerms | None, Field(exclude_if=lambda terms: terms is None)] = None
    schedule: Annotated[ScheduleTerms | None, Field(exclude_if=lambda terms: terms is None)] = None
    filter: str = ""
    split: str = "hash"
    init: PretrainedFile | None = None
    freeze: Annotated[tuple[str, ...], Field(exclude_if=lambda names: not names)] = ()
    lora: Annotated[LoraTerms | None, Field(exclude_if=lambda terms: terms is None)] = None
    client: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", exclude_if=lambda digest: not digest)] = ""

    @property
    def shared_steps(self) -> int:
        """How many steps a round move what is shared."""
        return self.local_steps - self.private_steps

    @property
    def adaptive(self) -> bool:
        """Whether local steps are something else than gradient descent with momentum."""
        return self.optimizer is not None and self.optimizer.adaptive

    def rate(self, number: int, rounds: int) -> float:
        """Return the learning rate of round `number` (from 1 on) of `rounds`."""
        return self.learning_rate * (1.0 if self.schedule is None else self.schedule.share(number, rounds))


class Split(StrictModel):
    """Shares of the units by keyed hash: training, validation (choices at home), test (the receipt)."""

    train: Rate = 0.6
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.3

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if not math.isclose(self.train + self.validation + self.test, 1.0, abs_tol=1e-9):
            raise ValueError("train + validation + test = 1")
        return self

    def training_units(self, declared: int) -> int:
        """Return how many of `declared` units train: a public number, the same for everybody."""
        return max(1, round(declared * self.train))


class RoundTerms(StrictModel):
    """Bounds of one round: replies needed (share of the roster), seconds to wait, tries."""

    quorum: Rate = 0.5
    deadline_seconds: Positive = 300.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 3


class TrainingTerms(StrictModel):
    """What is trained, how often, and under which trust: of a whole contract, or of one industry.

    `rounds` are the steps of the shared parameters; `max_participations` is how often one participant trains at most,
    where that is not once a round. `learner` is what is trained: networks by noisy gradients, ridge models by noisy
    sums, or additive models by noisy histograms; `statistics` trains nothing, its noisy counts are the result.
    Any other name is a learner that an installed package brings; `options` are the fields of its frozen dataclass.
    """

    rounds: Annotated[int, Field(ge=1, le=100_000)]
    max_participations: Annotated[int, Field(ge=1, le=100_000)] | None = None
    releases: tuple[ReleaseKind, ...] = ("update",)
    learner: str = "gradient"
    options: dict[str, Option] = Field(default_factory=dict)
    sums: SumsTerms | None = None
    additive: AdditiveTerms | None = None
    statistics: StatisticsTerms | None = None
    strategy: StrategyTerms = StrategyTerms()
    scopes: Scopes = Scopes()
    evaluation: EvaluationTerms = EvaluationTerms()
    stopping: StoppingTerms | None = None
    trust: Literal["local", "aggregate", "coordinator"] = "local"
    secure: SecureTerms | None = None
    central: CentralTerms | None = None
    compression: CompressionTerms | None = None

    @field_validator("learner")
    @classmethod
    def _learner_is_known(cls, name: str) -> str:
        if name == learners.GRADIENT:
            return name
        errors = {"unknown": learners.UnknownLearnerError, "broken": learners.LearnerLoadError}
        return known_name(name, "learner", learners.get, learners.names, **errors)

    @model_validator(mode="after")
    def _learner_can_be_made(self) -> TrainingTerms:
        if self.options and not learners.has_options(self.learner):
            raise ValueError(f'no [contract.options] with learner = "{self.learner}"; a package\'s learner has them')
        try:
            _ = self.noisy_sums
        except ValueError as error:
            raise ValueError(f"keys that fit learner {self.learner} ({error})") from None
        return self

    @property
    def participations(self) -> int:
        """How often one participant trains at most: the noise is solved for that many, whoever takes part."""
        return self.max_participations or self.rounds

    @property
    def own(self) -> OwnTerms | None:
        """The terms of a learner that a package brings; None for all others."""
        return learners.own_terms(self.learner, self.options) if learners.has_options(self.learner) else None

    @property
    def noisy_sums(self) -> SumsTerms | AdditiveTerms | StatisticsTerms | OwnTerms | None:
        """The terms of what is released as noisy sums in a fixed number of messages; None where steps are taken."""
        return self.sums or self.additive or self.statistics or self.own

    @property
    def finished_at_home(self) -> bool:
        """Whether a participant takes its own part off the last message's sums, and goes on with its own rows."""
        return self.sums is not None or self.statistics is not None

    @property
    def secure_terms(self) -> SecureTerms:
        """The terms of secure sums, as written or by default."""
        return self.secure or SecureTerms()

    @property
    def unsaid(self) -> set[str]:
        """The fields that the canonical text leaves out, so that contracts from before these fields keep their hash."""
        later = {"trust"} if self.trust == "local" else set()
        later |= set() if self.trust == "aggregate" else {"secure"}
        later |= set() if self.noisy_sums else {"learner"}
        optional = ("central", "compression", "max_participations", "sums", "additive", "statistics", "options")
        return later | {name for name in optional if not getattr(self, name)}


class ContractFields(TrainingTerms):
    """The fields of a contract, before they are checked against each other (`consortia.terms.contract`).

    `by_industry` has an industry's own training terms, in the place of all the contract's: what such a table leaves out
    has its default, not the contract's value. With `keeps_updates` the coordinator keeps each noisy update with the
    run, so that somebody may leave it. `steps` says whether a run of steps grows.
    """

    schema_version: Annotated[int, Field(alias="schema", ge=1)]
    wire: int
    mode: Literal["horizontal", "vertical"] = "horizontal"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    split: Split = Split()
    round: RoundTerms = RoundTerms()
    industries: dict[Industry, IndustryTerms] = Field(default_factory=dict)
    by_industry: dict[Industry, TrainingTerms] = Field(default_factory=dict)
    vertical: VerticalTerms | None = None
    keeps_updates: Annotated[bool, Field(exclude_if=lambda kept: not kept)] = False
    steps: Annotated[StepsTerms | None, Field(exclude_if=lambda terms: terms is None)] = None

    @property
    def grows(self) -> bool:
        """Whether participants claim the units that they use, so that a further release may use new ones alone."""
        return self.steps is not None or (self.sums is not None and self.sums.grows)

    @property
    def built_on(self) -> BuiltOn | StepsBuiltOn | None:
        """What a further release of a growing run builds on; None for every other run."""
        terms = self.steps or self.sums
        return None if terms is None else terms.builds_on

    def training_units(self, participant: str, declared: int) -> int:
        """Return the public number of units that a participant trains on: of all `declared` ones, or of new ones where
        a run of steps goes on with these alone."""
        built_on = None if self.steps is None else self.steps.builds_on
        return self.split.training_units(declared if built_on is None else built_on.units[participant])
