"""Mistakes in how noise is made, as `audit_mutants` has them: (file, text, replacement).

`NOISE` lists those that the tests of the noise and `consortia audit --only noise` must both see; `ELSEWHERE` lists
those that other instruments see. Run them:

    PYTHONPATH=.:platform:tests/helpers python tests/helpers/noise_mutants.py [--audit] [NAME ...]
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from audit_mutants import DP_SGD, OPTIMIZER, ROOT, Mutant, one
from spoilt_trees import audit, tree

RANDOM = "privacy/randomness.py"
SECURE = "privacy/secure_noise.py"
FLOAT = "privacy/_gaussian.py"
SAMPLING = "privacy/sampling.py"
INTEGER = "privacy/integer_noise.py"
PLANS = "privacy/plans.py"

_DERIVED = "info=context.encoded()).derive(os.urandom(_ENTROPY))"
_FILLED = "    out[other] = _rest(len(other), table, stream)\n    return out"
_STREAMED = "        _box_muller(out.view(-1).numpy(), deviation, generator.stream)\n"
_TORCH = "        out.normal_(0, deviation, generator=generator)\n"
_HALF = "        flat = out.view(-1)\n        flat[(len(flat) + 1) // 2 :] = {sign}flat[: len(flat) // 2].flip(0)\n"
_GAPS = "        places = _by_gaps(count * n_units, rate, generator.stream)\n"
_ONE = "            yield poisson_sample(n_units, rate, generator)\n"
_FRESH = "        else fresh_generator(noise)\n"

NOISE = (
    one(
        "the second half of secure noise mirrors the first",
        SECURE,
        _FILLED,
        _FILLED.replace("    return out", "    out[(count + 1) // 2 :] = out[: count // 2][::-1]\n    return out"),
    ),
    one(
        "the second half of secure noise mirrors the first with the sign turned",
        SECURE,
        _FILLED,
        _FILLED.replace("    return out", "    out[(count + 1) // 2 :] = -out[: count // 2][::-1]\n    return out"),
    ),
    one("the second half of streamed noise mirrors the first", FLOAT, _STREAMED, _STREAMED + _HALF.format(sign="")),
    one("the second half of torch's noise mirrors the first", FLOAT, _TORCH, _TORCH + _HALF.format(sign="-")),
    one("a noise key of 16 bits", RANDOM, "derive(os.urandom(_ENTROPY))", "derive(os.urandom(2) * 16)"),
    one(
        "a noise key hashed to 16 bits",
        RANDOM,
        "derive(os.urandom(_ENTROPY))",
        "derive(hashlib.sha256(os.urandom(_ENTROPY)).digest()[:2])",
    ),
    one("half the entropy of a noise key", RANDOM, "derive(os.urandom(_ENTROPY))", "derive(os.urandom(_ENTROPY)[:16])"),
    one(
        "torch's state from 32 bits",
        RANDOM,
        "_fill(self, KeyStream(context, keys[32:]).bytes(4 * _WORDS))",
        "self.manual_seed(int.from_bytes(keys[32:36], 'big'))",
    ),
    one(
        "secure noise is cut off at 3 deviations",
        SECURE,
        _FILLED,
        _FILLED.replace("    return out", "    out[np.abs(out) > 3 * table.std] = 0\n    return out"),
    ),
    one(
        "streamed noise is cut off at 3 deviations",
        FLOAT,
        _STREAMED,
        _STREAMED + "        out.clamp_(-3 * deviation, 3 * deviation)\n",
    ),
    one(
        "torch's noise is cut off at 3 deviations",
        FLOAT,
        _TORCH,
        _TORCH + "        out.clamp_(-3 * deviation, 3 * deviation)\n",
    ),
    one(
        "noise repeats in a second attempt",
        RANDOM,
        _DERIVED,
        "info=(context.purpose + context.message).encode()).derive(\n"
        "        globals().setdefault(context.message, os.urandom(_ENTROPY))\n    )",
    ),
    one(
        "participants of a process share their entropy",
        RANDOM,
        _DERIVED,
        "info=(context.purpose + context.message).encode()).derive(globals().setdefault('_KEPT', os.urandom(32)))",
    ),
    one("attempt and ledger are not bound", RANDOM, "info=context.encoded()", "info=context.message.encode()"),
    one("nothing is bound", RANDOM, "info=context.encoded()", "info=b''"),
    one(
        "the second step has the noise of the first",
        OPTIMIZER,
        "    def scale_grad(self) -> None:\n",
        "    def _nothing(self) -> None:\n        pass\n\n    def scale_grad(self) -> None:\n"
        "        noise = self._noisy - self.total.to(self._noisy)\n"
        "        self._first = getattr(self, '_first', noise)\n"
        "        if noise is not self._first:\n"
        "            self._noisy.copy_(self.total.to(self._noisy) + self._first)\n",
    ),
)

#: The audit's `sampler` sees these, its `noise` does not.
DRAWS = (
    one(
        "rare draws are kept between rounds",
        SAMPLING,
        _GAPS,
        "        kept = globals().setdefault('_KEPT', {})\n        asked = (count, n_units, rate)\n"
        "        if asked not in kept:\n            kept[asked] = _by_gaps(count * n_units, rate, generator.stream)\n"
        "        places = kept[asked]\n",
    ),
    one(
        "likely draws are kept between rounds",
        SAMPLING,
        _ONE,
        "            kept, asked = globals().setdefault('_KEPT', {}), (_, draws, n_units, rate)\n"
        "            if asked not in kept:\n                kept[asked] = poisson_sample(n_units, rate, generator)\n"
        "            yield kept[asked]\n",
    ),
    one(
        "the step keeps its draws between rounds",
        DP_SGD,
        "    for units in poisson_draws(rows.n_units, plan.sampling_rate, plan.steps, generator):\n        if twin",
        "    asked = (rows.n_units, plan)\n    kept = globals().setdefault('_KEPT', {})\n    if asked not in kept:\n"
        "        kept[asked] = list(poisson_draws(rows.n_units, plan.sampling_rate, plan.steps, generator))\n"
        "    for units in kept[asked]:\n        if twin",
    ),
)

#: The audit's `metrics` sees the first three.
METRICS = (
    one(
        "the second half of a histogram's noise mirrors the first",
        "privacy/histogram.py",
        "    noised: NDArray[np.int64] = counts + drawn",
        "    drawn[(n_cells + 1) // 2 :] = drawn[: n_cells // 2][::-1]\n    noised: NDArray[np.int64] = counts + drawn",
    ),
    one(
        "Laplace noise is cut off at 3 deviations",
        INTEGER,
        "        size = 1 + (u + t * v) // s\n",
        "        size = min(1 + (u + t * v) // s, round(4.2 * t / s))\n",
    ),
    one("Laplace noise of the discrete kind", INTEGER, "_decays(s, 2 * t, below)", "_decays(s, t, below)"),
)

ELSEWHERE = (
    # No release shows it: the ledger's head, which is bound too, holds the key of the reservation. The context does.
    one("the model is not bound", PLANS, '{self.run_id}/{self.round}/{self.key}"', '{self.run_id}/{self.round}"'),
    one(
        "the second half of a masked sum's noise mirrors the first",
        "privacy/secure_sum/noise.py",
        "        out[start : start + _CHUNK] = pair[: count - start]\n    return out",
        "        out[start : start + _CHUNK] = pair[: count - start]\n"
        "    out[(count + 1) // 2 :] = out[: count // 2][::-1]\n    return out",
    ),
    one(
        "a masked sum's noise is cut off at 3 deviations",
        "privacy/secure_sum/noise.py",
        "        np.rint(pair, out=pair)\n",
        "        np.clip(pair, -3 * std, 3 * std, out=pair)\n        np.rint(pair, out=pair)\n",
    ),
    one(
        "the second half of vertical noise mirrors the first",
        "privacy/dp_logistic.py",
        "            total = torch.from_numpy(noised)\n",
        "            noise, half = noised - steps_of_grid.numpy() * grid.step, (len(noised) + 1) // 2\n"
        "            noised[half:] += noise[: len(noised) - half][::-1] - noise[half:]\n"
        "            total = torch.from_numpy(noised)\n",
    ),
    one(
        "central noise for one of two models only",
        "platform/consortia/coordinator/trusted_rounds.py",
        "message_key(current, self.run_id",
        "message_key({}, self.run_id",
    ),
    one(
        "all folds of a vertical model share their context",
        "platform/consortia/vertical/private_model.py",
        'noise.to(f"fold {number}")',
        'noise.to("fold")',
    ),
    one("shares of keys from a constant", "privacy/secure_sum/sharing.py", "_below_prime(stream) for", "3 for"),
)

MUTANTS: tuple[Mutant, ...] = (*NOISE, *DRAWS, *METRICS, *ELSEWHERE)
PACKAGES = {"privacy", "consortia", "clients", "strategies", "noise_contexts", "dp_step", "secure_sum_world"}
OURS = {"", ".", str(ROOT), str(ROOT / "platform"), str(ROOT / "tests" / "helpers")}
HEAVY = ("torch", "opacus", "scipy.stats", "dp_accounting", "pandas", "sklearn", "hypothesis", "flwr.common")
#: What must go red.
TESTS = (
    "tests/privacy/test_noise_key.py",
    "tests/privacy/test_randomness.py",
    "tests/privacy/test_noise_laws.py",
    "tests/privacy/test_integer_noise.py",
    "tests/consortia/test_noise_on_the_path.py",
)


def red(folder: Path, files: Sequence[str] = TESTS, marked: str = "not end_to_end") -> list[str]:
    """Run tests, by default the quick ones, over the tree in `folder`, in a child; return the first that failed.

    The child starts with the heavy packages imported, and with none of ours.
    """
    if not (folder / "tests").exists():
        (folder / "tests").symlink_to(ROOT / "tests")
    report = folder / "report"
    child = os.fork()
    if child == 0:
        with report.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            os.chdir(folder)
            sys.dont_write_bytecode = True
            helpers = str(ROOT / "tests" / "helpers")
            sys.path[:] = [str(folder), str(folder / "platform"), helpers, *(p for p in sys.path if p not in OURS)]
            for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
                del sys.modules[name]
            options = ["-q", "-x", "--import-mode=importlib", "-p", "no:cacheprovider", "-c", os.devnull]
            options += ["-m", marked]
            tests = [str(folder / test) for test in files]
            code = pytest.main([*options, "--tb=line", f"--rootdir={folder}", *tests])
            os._exit(int(code))
    os.waitpid(child, 0)
    lines = report.read_text(encoding="utf-8").splitlines()
    return [
        line.split(" - ")[0].split(" ", 1)[1] for line in lines if line.startswith(("FAILED tests/", "ERROR tests/"))
    ]


def main() -> int:
    """Try every mistake, or those named, with the tests; with `--audit` also with the quick and the full audit."""
    names = [name for name in sys.argv[1:] if not name.startswith("--")]
    missed = 0
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        found = red(tree(Path(folder), None))
        print(f"without a mistake: {found or 'green'}", flush=True)
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            target = tree(Path(folder), mutant)
            failed = red(target)
            missed += not failed
            print(f"{'red   ' if failed else 'MISSED'} {mutant.name}: {failed}", flush=True)
            for options in ([], ["--quick"]) if "--audit" in sys.argv else ():
                _, result, said = audit(target, "--only", "noise", "--only", "metrics", "--only", "sampler", *options)
                found = [v["law"] for i in result.get("instruments", []) for v in i["violations"]]
                kind = "quick audit" if options else "audit"
                print(f"    {kind}: {sorted(set(found)) or 'MISSED ' + said[-200:]}", flush=True)
    print(f"{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
