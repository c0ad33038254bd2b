"""The guard of the protocol's tests: every broken version must break one of them."""

from __future__ import annotations

import pytest
from secure_sum_checks import CHECKS
from secure_sum_world import broken

ANY = "NoiseContext(purpose='any', message='any', attempt=0, ledger='')"
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
    "scopes share a mask": ("protocol", "derive(seeds[peer], label), subtract", "derive(seeds[peer]), subtract"),
    "mask does not depend on the context": ("protocol", '"mask", context)', '"mask")'),
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
        "if not set(request.everybody) - {self.name} <= rules.peers.keys():",
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
        "- rules.code.colluders - rules.code.drops < 2:",
        "- rules.code.colluders - rules.code.drops < 1:",
    ),
    "fewer colluders than the owner wants": ("protocol", "if rules.code.colluders < rules.colluders:", "if False:"),
    "twice in one cohort": ("protocol", "if len(set(names)) != len(names):", "if False:"),
    "a stranger in the cohort": ("protocol", "if not set(request.everybody) <= {*keys.pairs, self.name}:", "if False:"),
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
        "        noise = outbox.reserve(request.round, context.hex())",
        f"        noise = outbox.reserve(request.round, context.hex()) if request.attempt == 0 else {ANY}",
    ),
    "the draw comes before the charge": (
        "protocol",
        "        noise = outbox.reserve(request.round, context.hex())\n        totals = sums(noise)",
        f"        totals = sums({ANY})\n        noise = outbox.reserve(request.round, context.hex())",
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
    "shares are counted on n": (
        "fixed_point",
        "counted = cohort - self.colluders - self.drops",
        "counted = cohort - self.drops",
    ),
    "two thirds of the noise": ("noise", "radius *= std", "radius *= std * 2 / 3"),
    "one number twice": ("noise", "np.multiply(angle, 2.0, out=pair[half:])", "pair[half:] = pair[:half]"),
    "a circle of another form": ("noise", "np.tan(angle, out=angle)", "np.arctan(angle, out=angle)"),
    "half again as much noise": ("noise", "radius *= std", "radius *= std * 3 / 2"),
    "no noise": ("fixed_point", "        whole += noise\n", ""),
    "the account promises n shares": (
        "accounting",
        "(cohort - against) / (cohort - colluders)",
        "(cohort - against) / cohort",
    ),
    # mode two: drop-out recovery
    "no noise is reserved for drop-outs": (
        "fixed_point",
        "counted = cohort - self.colluders - self.drops",
        "counted = cohort - self.colluders",
    ),
    "a cohort too small for its drop-outs": (
        "protocol",
        "- rules.code.colluders - rules.code.drops < 2:",
        "- rules.code.colluders < 2:",
    ),
    "the own mask is known": (
        "protocol",
        'fresh_key(noise.to("own mask")) if rules.code.drops else b""',
        'bytes(32) if rules.code.drops else b""',
    ),
    "the own mask is one for all rounds": (
        "protocol",
        'fresh_key(noise.to("own mask")) if rules.code.drops else b""',
        'derive(keys.private, "own") if rules.code.drops else b""',
    ),
    "the run's key with a peer is shared, not the attempt's": (
        "protocol",
        'derive(keys.pairs[peer], "mask", context)',
        "keys.pairs[peer]",
    ),
    "the quorum is counted on the cohort": (
        "protocol",
        "len(request.everybody) < threshold(len(keys.pairs) + 1,",
        "len(request.everybody) < threshold(len(request.everybody),",
    ),
    "the quorum does not count colluders": ("sharing", "(members + colluders) // 2 + 1", "members // 2 + 1"),
    "shares for one less than the quorum": ("sharing", "for _ in range(least - 1))", "for _ in range(least - 2))"),
    "the polynomial is a constant's neighbour": ("sharing", "_below_prime(stream) for", "1 for"),
    "the dead's own key is told": (
        "recovery",
        "for name in alive:\n        others",
        "for name in request.boxes:\n        others",
    ),
    "keys between the living are told": ("recovery", "if other == name or other not in alive)", "if True)"),
    "the drops are not bounded": ("recovery", "if len(names) - left > rules.code.drops:", "if False:"),
    "the quorum is not asked of the living": ("recovery", "if len(alive) < quorum(keys, rules):", "if False:"),
    "min_cohort does not count among the living": ("recovery", "(label in mine and left < rules.min_cohort)", "False"),
    "a member opens a sum that it is dead in": ("recovery", "if member.name not in alive or ", "if "),
    "a stranger is alive": ("recovery", " or not alive <= set(asked.everybody):", ":"),
    "somebody is alive twice": ("recovery", " or len(alive) != len(request.alive)", ""),
    "an older attempt opens": ("recovery", "if not made or outbox", "if outbox"),
    "an attempt that never left opens": (
        "recovery",
        "if not made or outbox.reply(asked.round, context.hex()) is None:",
        "if not made:",
    ),
    "no agreement is needed": ("recovery", "if len(agreed) < quorum(keys, rules):", "if False:"),
    "signatures of the dead count": (
        "recovery",
        'name for name in alive if _signed(member, rules, name, request.votes.get(name, b""), view)',
        "name for name in request.votes if _signed(member, rules, name, request.votes[name], view)",
    ),
    "signatures are not verified": (
        "recovery",
        "    except RefusedError:\n        return False",
        "    except RefusedError:\n        return True",
    ),
    "a signature is for every context": ("recovery", '"alive", context, *sorted(alive)', '"alive", *sorted(alive)'),
    "a signature is for every set": ("recovery", '"alive", context, *sorted(alive)', '"alive", context'),
    "two signatures a round": (
        "recovery",
        'if not member.store.settle_view(member.run, number, "vote", view.hex()):',
        "if False:",
    ),
    "a signature after another sum opened": (
        "recovery",
        '"open") not in {None, view.hex()}:',
        '"open") == "never":',
    ),
    "another sum opens than was signed": ("recovery", '"vote") not in {None, view.hex()}:', '"vote") == "never":'),
    "two sums of a round open": (
        "recovery",
        'if not member.store.settle_view(member.run, number, "open", view.hex()):',
        "if False:",
    ),
    "views are forgotten": (
        "store",
        "INSERT OR IGNORE INTO secure_views VALUES (?, ?, ?, ?)",
        "INSERT OR REPLACE INTO secure_views VALUES (?, ?, ?, ?)",
    ),
    "a box is for every context": ("protocol", '"box", context, sealer, holder)', '"box", sealer, holder)'),
    "a box is for both directions": ("protocol", '"box", context, sealer, holder)', '"box", context)'),
    "a box is not authentic": (
        "sharing",
        '    except (InvalidTag, ValueError):\n        raise PlanError("box: wanted one that',
        '    except (InvalidTag, ValueError):\n        return [bytes(SHARE_BYTES)] * count\n        raise PlanError("',
    ),
    "a mode-one sum opens by shares": ("recovery", "if not rules.code.drops:", "if False:"),
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
