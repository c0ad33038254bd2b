"""The guard of the protocol's tests: every broken version must break one of them."""

from __future__ import annotations

import pytest
from secure_sum_checks import CHECKS
from secure_sum_world import broken

MUTANTS = {
    # masks and their context
    "model is not in the context": ("protocol", "(group, request.models[group])]]", "(group,)]]"),
    "cohort is not in the context": (
        "protocol",
        '["cohort", label, *sorted(request.cohorts[label])]',
        '["cohort", label]',
    ),
    "other cohorts are not in the context": (
        "protocol",
        "    for label in sorted(request.cohorts):\n        parts +=",
        "    for label in sorted(request.cohorts)[:1]:\n        parts +=",
    ),
    "round is not in the context": ("protocol", "roster, request.round, request.attempt]", "roster, request.attempt]"),
    "attempt is not in the context": ("protocol", "roster, request.round, request.attempt]", "roster, request.round]"),
    "encoding is not in the context": ("protocol", 'parts += ["code", repr(code), bits]', "pass"),
    "scopes share a mask": ("protocol", '"mask", context, label)', '"mask", context)'),
    "mask does not depend on the context": ("protocol", '"mask", context, label)', '"mask", label)'),
    "fields without their length": ("masks", 'out += kind + len(data).to_bytes(8, "big") + data', "out += kind + data"),
    "masks all have one sign": ("protocol", "subtract=peer < self.name", "subtract=False"),
    # rosters
    "peers are not pinned": (
        "protocol",
        "            if name not in rules.peers:\n                raise",
        "            if name not in rules.peers:\n                continue\n                raise",
    ),
    "signatures are not checked": (
        "protocol",
        "            verify(rules.peers[name], signature,",
        "            (rules.peers[name], signature,",
    ),
    "the signature is not bound to the run": (
        "protocol",
        '"key", run, contract, name, key)',
        '"key", contract, name, key)',
    ),
    "the signature is not bound to the contract": (
        "protocol",
        '"key", run, contract, name, key)',
        '"key", run, name, key)',
    ),
    "own key is not echoed": ("protocol", '(b"", b""))[0] != own:', '(b"", b""))[0] != own and False:'),
    "two members have one key": ("protocol", "!= len(request.roster):", "!= len(request.roster) and False:"),
    "the roster may change": ("protocol", "if keys.roster != found:", "if False:"),
    "a pin taken back still counts": (
        "protocol",
        "if not set(names) - {self.name} <= rules.peers.keys():",
        "if False:",
    ),
    "the run key outlives the run": (
        "store",
        '"DELETE FROM secure_runs WHERE run_id = ?"',
        '"SELECT run_id FROM secure_runs WHERE run_id = ?"',
    ),
    "one run key for every run": (
        "store",
        "pairs FROM secure_runs WHERE run_id = ?",
        "pairs FROM secure_runs WHERE ? != ''",
    ),
    "a run that ended gets a new key": ("protocol", "if self.store.last(self.run) != (0, -1):", "if False:"),
    # cohorts
    "min_cohort does not count": ("protocol", "len(names) < rules.min_cohort or ", ""),
    "colluders may leave one share": (
        "protocol",
        "len(names) - rules.code.colluders < 2:",
        "len(names) - rules.code.colluders < 1:",
    ),
    "fewer colluders than the owner wants": ("protocol", "if rules.code.colluders < rules.colluders:", "if False:"),
    "twice in one cohort": ("protocol", "len(set(names)) != len(names) or ", ""),
    "a stranger in the cohort": ("protocol", " or not set(names) <= {*keys.pairs, self.name}:", ":"),
    "one gradient in two sums": (
        "protocol",
        "if not mine or len({group_of(label) for label in mine}) != len(mine):",
        "if not mine:",
    ),
    "a group that is not shared": ("protocol", "<= rules.groups:", "<= {*rules.groups, *request.models, 'bank'}:"),
    # charges and replays
    "no outbox": (
        "protocol",
        "        if sent is not None:\n            return sent",
        "        if False:\n            return sent",
    ),
    "a mask is used twice": ("protocol", "request.attempt <= last_attempt)", "request.attempt < last_attempt)"),
    "an older round is answered": ("protocol", "if request.round < last_round or (", "if ("),
    "attempts are not bounded": ("protocol", "if request.attempt >= rules.max_attempts:", "if False:"),
    "only the first attempt is charged": (
        "protocol",
        "        outbox.reserve(request.round, context.hex())",
        "        outbox.reserve(request.round, context.hex()) if request.attempt == 0 else None",
    ),
    "the draw comes before the charge": (
        "protocol",
        "        outbox.reserve(request.round, context.hex())\n        totals = sums()",
        "        totals = sums()\n        outbox.reserve(request.round, context.hex())",
    ),
    "the attempt is not used up before the draw": (
        "protocol",
        "        self.store.burn(self.run, request.round, request.attempt, context.hex())\n",
        "",
    ),
    # fixed point and noise
    "rounding does not count": ("fixed_point", "self.noise / self.step * (1 + INFLATION)", "self.noise / self.step"),
    "the grid has no sqrt(D)": ("fixed_point", "self.smallest_clip / math.sqrt(self.dimension)", "self.smallest_clip"),
    "the grid is that of the largest clip": (
        "fixed_point",
        "INFLATION * self.smallest_clip /",
        "INFLATION * self.clip /",
    ),
    "shares are counted on n": ("fixed_point", "counted = cohort - self.colluders", "counted = cohort"),
    "two thirds of the noise": ("noise", "radius *= std", "radius *= std * 2 / 3"),
    "half again as much noise": ("noise", "radius *= std", "radius *= std * 3 / 2"),
    "no noise": ("fixed_point", "        whole += rounded_gaussian(len(whole), self.share_std(cohort))\n", ""),
    "the account promises n shares": (
        "accounting",
        "(cohort - against) / (cohort - colluders)",
        "(cohort - against) / cohort",
    ),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", MUTANTS)
def test_every_broken_version_breaks_a_test(name: str) -> None:
    module, old, new = MUTANTS[name]
    code = broken(f"mutant_{list(MUTANTS).index(name)}", module, old, new)
    for check in CHECKS:
        try:
            check(code)
        except Exception:  # noqa: BLE001 - however it breaks
            return
        except pytest.fail.Exception:
            return
    pytest.fail(f"no test noticed: {name}")
