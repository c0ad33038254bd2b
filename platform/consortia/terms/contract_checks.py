"""Checks that fields of a contract fit together: secure sums, a trusted coordinator, asynchronous strategies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from consortia.learners.blocks.shares import OWN_KIND
from consortia.terms.contract_fields import ContractFields
from consortia.terms.learners import STEPS, TABLES
from consortia.terms.model import Model, Scopes
from consortia.terms.strategy import StrategyTerms
from strategies.base import Asynchronous, Clusters, Controlled, LocalHalf, Strategy, TakesTurns

#: What a learner takes of a network all the same.
_BELOW: Mapping[str, str] = defaultdict(str, sums=" (model and init together are a frozen network below the sums)")


def check_secure_sum(contract: ContractFields, strategy: Strategy) -> None:
    """Raise ValueError, naming what was wanted, where a contract's trust and the rest of it exclude each other."""
    if contract.trust != "aggregate":
        if contract.secure is not None:
            raise ValueError(f'no [contract.secure] with trust = "{contract.trust}"; set trust = "aggregate"')
        return
    if contract.compression is not None:
        raise ValueError('no [contract.compression] with trust = "aggregate": a masked word cannot be shortened')
    name = contract.strategy.name
    if not strategy.fit.sum_only:
        raise ValueError(
            f"a strategy that needs the sum of the updates only (fedsgd, fedavg, fedadam, ...): {name} compares single "
            'updates, and nobody sees one with trust = "aggregate". Where members are not trusted to be honest, keep '
            f'{name} and take trust = "local" with local noise'
        )
    if isinstance(strategy, LocalHalf | Controlled):
        raise ValueError(
            f"a strategy without a local term: {name} changes local steps, and a secure sum has none, since shared "
            "noise inside local steps has no proof"
        )
    if contract.evaluation.every or contract.stopping is not None:
        raise ValueError("evaluation.every = 0 and no [contract.stopping]: a masked reply carries no metric")
    if contract.strategy.weighting != "declared":
        raise ValueError('weighting = "declared": in one sum every unit counts alike, whoever holds it')
    for industry, terms in contract.industries.items():
        plain = (terms.local_steps, terms.momentum, terms.weight_decay, terms.optimizer, terms.schedule)
        if plain != (1, 0.0, 0.0, None, None):
            raise ValueError(
                "local_steps = 1, momentum = 0, weight_decay = 0, no optimizer and no schedule in "
                f"industries.{industry}, since one noised sum a round is all that is released with trust = "
                '"aggregate" (take server_momentum or a server optimizer)'
            )
    rates = {terms.learning_rate for terms in contract.industries.values()}
    shared = "consortium" in contract.scopes.named
    if shared and len(rates) > 1 and not strategy.fit.gradient:
        raise ValueError("one learning_rate in all industries that share parameters, since one sum makes one step")


def check_trusted_coordinator(contract: ContractFields, strategy: Strategy) -> None:
    """Raise ValueError, naming what was wanted, where a trusted coordinator and the rest of a contract do not fit."""
    terms = contract.central
    if (contract.trust == "coordinator") != (terms is not None):
        raise ValueError('[contract.central] exactly where trust = "coordinator"')
    if terms is None:
        return
    if terms.delta >= 1 / terms.units:
        raise ValueError(f"central.delta < 1/central.units = {1 / terms.units:.3g}")
    excluded = {
        "a strategy that needs the mean of the changes only (fedavg, fedprox, fedadam, ...)": (
            not strategy.fit.sum_only
            or strategy.fit.gradient
            or isinstance(strategy, Asynchronous | Clusters | Controlled | TakesTurns)
        ),
        'strategy.weighting = "equal": every participant counts alike': contract.strategy.weighting != "equal",
        "one industry, whose participants share one clip": len(contract.industries) != 1,
        "no private parameters": "private" in contract.scopes.named or len(contract.scopes.named) != 1,
        "no [contract.compression]: what is shortened is no longer clipped": contract.compression is not None,
        "no max_participations: who takes part is drawn": contract.max_participations is not None,
        'evaluation.metrics = "none" and no [contract.stopping]: a participant is one unit, and its metrics would be '
        "released about the rows that train": contract.evaluation.metrics != "none" or contract.stopping is not None,
    }
    if problems := [text for text, wrong in excluded.items() if wrong]:
        raise ValueError(f'{"; ".join(problems)}, with trust = "coordinator"')


def check_sums(contract: ContractFields) -> None:
    """Raise ValueError, naming what was wanted, where a learner of noisy sums and the rest of a contract do not fit."""
    terms, learner = contract.noisy_sums, contract.learner
    for name in TABLES:
        if (learner == name) != (getattr(contract, name) is not None):
            raise ValueError(f'[contract.{name}] exactly where learner = "{name}"')
    kind = "" if terms is None else terms.shares.what
    for name in (*TABLES, OWN_KIND):
        if kind != name and name in contract.releases:
            raise ValueError(f"no '{name}' in releases with learner = \"{learner}\"")
    if terms is None:
        return
    metrics = {"metrics"} if contract.statistics is None else set()
    excluded = {
        f"rounds = {terms.shares.messages}, its messages": contract.rounds != terms.shares.messages,
        f"releases ['{kind}']{', and metrics where they are asked for' if metrics else ''}": (
            set(contract.releases) - metrics != {kind}
        ),
        'trust = "local" or "aggregate"': contract.trust not in {"local", "aggregate"},
        "no [contract.strategy]: sums are added": contract.strategy != StrategyTerms(),
        "no [contract.scopes]: an industry shares its sums": contract.scopes != Scopes(),
        "no [contract.compression]": contract.compression is not None,
        "no max_participations": contract.max_participations is not None,
        "evaluation.every = 0 and no [contract.stopping]: there is one model": bool(contract.evaluation.every)
        or contract.stopping is not None,
        "secure.cohorts = 1: an industry has one sum": contract.secure is not None and contract.secure.cohorts != 1,
        "secure.colluders >= 1: each member takes its own part off the sum at home": (
            contract.finished_at_home and contract.secure is not None and contract.secure.colluders < 1
        ),
    }
    if contract.sums is not None and contract.sums.grows:
        excluded[
            'trust = "local" with sums.grows: who takes part may differ from release to release, and the difference '
            "of two totals would show a participant under its own share of the noise"
        ] = contract.trust != "local"
    for name, rules in contract.industries.items():
        frozen = contract.sums is not None and rules.init is not None and rules.model != Model()
        network = (Model(), None) if frozen else (rules.model, rules.init)
        plain = (rules.private_steps, rules.momentum, rules.weight_decay)
        added = (rules.optimizer, rules.schedule, rules.lora, rules.freeze or None)
        excluded[f"no model, init, clip, steps or rates in industries.{name}: nothing takes steps{_BELOW[learner]}"] = (
            any(getattr(rules, key) != value for key, value in STEPS.items())
            or (network, plain, added) != ((Model(), None), (0, 0.0, 0.0), (None,) * 4)
        )
        excluded[f"no sums.grows with a network in industries.{name}: a top-up is of columns of the schema"] = (
            frozen and contract.grows
        )
    if problems := [text for text, wrong in excluded.items() if wrong]:
        raise ValueError(f'{"; ".join(problems)}, with learner = "{learner}"')
    if strange := sorted(terms.named_industries() - contract.industries.keys()):
        raise ValueError(f"{learner}: terms of the contract's industries, not of {', '.join(strange)}")


def check_groups(contract: ContractFields) -> None:
    """Raise ValueError, naming what was wanted, where the final model cannot be measured by group."""
    groups = contract.evaluation.groups
    if strange := sorted(groups.keys() - contract.industries.keys()):
        raise ValueError(f"evaluation.groups of the contract's industries, not of {', '.join(strange)}")
    if groups and "private" in contract.scopes.named:
        raise ValueError(
            "no private scope with evaluation.groups: each participant would measure its own parts, and only a "
            "released model is measured by group"
        )


def check_by_industry(contract: ContractFields) -> None:
    """Raise ValueError, naming what was wanted, where training terms of single industries cannot be kept apart."""
    if strange := sorted(contract.by_industry.keys() - contract.industries.keys()):
        raise ValueError(f"by_industry tables of the contract's industries, not of {', '.join(strange)}")
    if not contract.industries.keys() - contract.by_industry.keys():
        raise ValueError("an industry without a by_industry table: the contract's own terms are for it")
    for name, terms in contract.by_industry.items():
        if strange := sorted(terms.evaluation.groups.keys() - {name}):
            raise ValueError(f"by_industry.{name}.evaluation.groups: of {name} alone, not of {', '.join(strange)}")
    if strange := sorted(contract.evaluation.groups.keys() - contract.industries.keys()):
        raise ValueError(f"evaluation.groups of the contract's industries, not of {', '.join(strange)}")
    for name, terms in (("the contract", contract), *contract.by_industry.items()):
        excluded = {
            "nothing shared with the whole consortium": "consortium" in terms.scopes.named,
            'trust = "local" or "aggregate"': terms.trust == "coordinator",
            "rounds (no asynchronous strategy)": isinstance(terms.strategy.strategy(), Asynchronous),
            "no [stopping]: each industry ends after its rounds": terms.stopping is not None,
            'a learner that trains, not "statistics"': terms.statistics is not None,
            "no sums.grows: a run that grows has one contract": terms.sums is not None and terms.sums.grows,
        }
        if problems := [text for text, wrong in excluded.items() if wrong]:
            raise ValueError(f"{'; '.join(problems)}, with [contract.by_industry], in {name}")


def check_non_private(contract: ContractFields, non_private: Mapping[str, bool]) -> None:
    """Raise ValueError for a proposal that claims an epsilon of its own: the change leaves without noise."""
    private = [name for name, free in non_private.items() if not free]
    if contract.central is not None and private:
        raise ValueError(
            f'epsilon = inf in the roster ({private[0]}): with trust = "coordinator" the change itself is not noised; '
            "contract.central.epsilon is what the models cost"
        )


def check_optimizers(contract: ContractFields, strategy: Strategy) -> None:
    """Raise ValueError, naming what was wanted, where local optimizers, rates and the rest of a contract do not fit."""
    for industry, terms in contract.industries.items():
        if terms.adaptive and terms.optimizer is not None:
            where = f"industries.{industry}.optimizer"
            if terms.momentum and terms.optimizer.name != "rmsprop":
                raise ValueError(f"momentum = 0 with {where} = {terms.optimizer.name}, which has beta1")
            reckoning = {
                f"strategy {contract.strategy.name}": strategy.fit.plain_steps or strategy.fit.bound != "no",
                "weighting = 'information'": contract.strategy.weighting == "information",
            }
            if named := [name for name, so in reckoning.items() if so]:
                raise ValueError(f"sgd in {where}, since {named[0]} reckons with steps of gradient descent")
        if terms.schedule is not None and (strategy.fit.gradient or isinstance(strategy, Asynchronous)):
            raise ValueError(
                f"no schedule in industries.{industry}, since {contract.strategy.name} "
                + ("sends a gradient (take options of the server)" if strategy.fit.gradient else "has no rounds")
            )


def check_participations(contract: ContractFields, strategy: Strategy) -> None:
    """Raise ValueError, naming what was wanted, where a contract's strategy and the rest of it exclude each other."""
    name = contract.strategy.name
    if contract.max_participations is not None and not isinstance(strategy, Asynchronous | TakesTurns):
        raise ValueError(
            f"max_participations with an asynchronous strategy or 'cyclic' only: with {name} everybody trains in every "
            "round"
        )
    if not isinstance(strategy, Asynchronous):
        return
    if contract.evaluation.every or contract.stopping is not None:
        raise ValueError(f"evaluation.every = 0 and no [contract.stopping]: {name} has no rounds to measure between")
    if contract.strategy.average_last != 1:
        raise ValueError(f"average_last = 1: {name} has no last rounds to average")
    if contract.strategy.weighting in {"information", "noised"}:
        raise ValueError(f'weighting = "declared" or "equal": {name} compares no replies of one round')


def check_growing_steps(contract: ContractFields) -> None:
    """Raise ValueError, naming what was wanted, where a run of steps cannot go on with new units alone."""
    if contract.steps is None:
        return
    strategy = contract.strategy.strategy()
    excluded = {
        'a horizontal contract with learner = "gradient" (sums have sums.grows)': (
            contract.vertical is not None or contract.noisy_sums is not None or contract.learner != "gradient"
        ),
        'trust = "local": in a secure sum who takes part may differ from release to release, and with a trusted '
        "coordinator a participant is one unit": contract.trust != "local",
        "no [contract.by_industry]: a run that grows has one contract": bool(contract.by_industry),
        "no private parameters: a further release would need those that old units trained at home": (
            "private" in contract.scopes.named
        ),
        f"a strategy that takes changes alone (fedavg, fedsgd, fedadam, ...), not {contract.strategy.name}": (
            strategy.fit.loss or isinstance(strategy, Asynchronous | Clusters | Controlled | TakesTurns)
        ),
    }
    if problems := [text for text, wrong in excluded.items() if wrong]:
        raise ValueError(f"{'; '.join(problems)}, with [contract.steps] grows = true")


def check_kept_updates(contract: ContractFields) -> None:
    """Raise ValueError, naming what was wanted, where updates would be kept that cannot be played again."""
    if not contract.keeps_updates:
        return
    strategy = contract.strategy.strategy()
    excluded = {
        'a horizontal contract with learner = "gradient"': (
            contract.vertical is not None or contract.noisy_sums is not None or contract.learner != "gradient"
        ),
        'trust = "local": with another trust nobody has an update with noise enough of its own': (
            contract.trust != "local"
        ),
        "one industry and no [contract.by_industry]": len(contract.industries) != 1 or bool(contract.by_industry),
        f"a strategy that takes changes alone (fedavg, fedsgd, fedadam, ...), not {contract.strategy.name}": (
            strategy.fit.loss or isinstance(strategy, Asynchronous | Clusters | Controlled | TakesTurns)
        ),
    }
    if problems := [text for text, wrong in excluded.items() if wrong]:
        raise ValueError(f"{'; '.join(problems)}, with keeps_updates = true")
