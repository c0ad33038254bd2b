"""Mistakes in learners, terms by industry, readiness, local optimizers and networks, and who should see each."""

from __future__ import annotations

from audit_mutants import OPTIMIZER, Mutant, one

_ADDITIVE = "platform/consortia/learners/additive"
_MODEL = f"{_ADDITIVE}/model.py"
_HISTOGRAMS = f"{_ADDITIVE}/histograms.py"
_BLOCKS = "platform/consortia/messages/blocks.py"
_READY = "platform/consortia/participant/readiness.py"

_BOUND = "math.sqrt(len(self.cells.terms)) * (1.0 if message == 1 else self.clip)"
_PAIRLESS = _BOUND.replace("len(self.cells.terms)", 'sum(term.kind != "pair" for term in self.cells.terms)')
_CLIPPED = "return slope * (clip / lengths(slope).clamp(min=clip))"
_SHARED = "on_grid(clipped * rows.shares() * SHORT, _STEPS)"
_TOTAL = "        total = total + shapes[place]\n    return total\n"
_OWN_TERMS = 'contract_from_json(header["contract"]).of(header["industry"])'
_HASH = "return text, hashlib.sha256(text.encode()).hexdigest()"
_UNTABLED = """data.pop("by_industry", None)
        return text, hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()"""
_SAID = '        "contract": contract.sha256(),\n    }\n    return encode('
_COUNTED = """        parts = work.partitions(ledger)
        seen = len(parts.train)
        _look(work, plan, parts)
"""
_ADAPTIVE = "            return super().step(closure)\n"
_SQUARES = "            squares.add_(_norms(self.samples).square_())\n"
_WEIGHTED = "factors = [weight * _SHORT * math.sqrt(f) / s for f, s in zip(shares, sensitivities, strict=True)]"
_UNWEIGHTED = "factors = [s / (_SHORT * math.sqrt(f)) for f, s in zip(shares, sensitivities, strict=True)]"
_NOISY = "return tuple(deviation * s / math.sqrt(f) for f, s in zip(shares, sensitivities, strict=True))"

_MATHEMATICS = "tests/consortia/additive/test_mathematics.py"

#: (mistake, scenario, instrument, test).
LEARNERS: tuple[tuple[Mutant, str, str, str], ...] = (
    (
        one("additive: pairs are not in the bound", _MODEL, _BOUND, _PAIRLESS),
        "additive",
        "neighbours",
        f"{_MATHEMATICS}::test_no_unit_moves_a_block_by_more_than_its_bound",
    ),
    (
        one(
            "additive: each output is clipped by itself",
            _HISTOGRAMS,
            _CLIPPED,
            _CLIPPED.replace("lengths(slope)", "slope.abs()"),
        ),
        "classes",
        "neighbours",
        f"{_MATHEMATICS}::test_no_unit_moves_a_block_by_more_than_its_bound",
    ),
    (
        one("additive: each row of a unit weighs 1", _HISTOGRAMS, _SHARED, "on_grid(clipped * SHORT, _STEPS)"),
        "additive",
        "neighbours",
        f"{_MATHEMATICS}::test_no_unit_moves_a_block_by_more_than_its_bound",
    ),
    (
        one(
            "additive: scores go by all rows",
            _HISTOGRAMS,
            _TOTAL,
            _TOTAL.replace("return total\n", "return total - total.mean(dim=0)\n"),
        ),
        "additive",
        "neighbours",
        f"{_MATHEMATICS}::test_what_a_row_adds_is_the_same_to_the_bit_in_any_batch_and_order",
    ),
    (
        Mutant(
            "blocks of a secure sum: each has the whole weight",
            (
                (_BLOCKS, _WEIGHTED, _WEIGHTED.replace(" * math.sqrt(f)", "")),
                (_BLOCKS, _UNWEIGHTED, _UNWEIGHTED.replace("(_SHORT * math.sqrt(f))", "_SHORT")),
                (_BLOCKS, _NOISY, _NOISY.replace(" / math.sqrt(f)", "")),
            ),
        ),
        "blocks",
        "neighbours",
        "tests/consortia/sums/test_secure.py",
    ),
    (
        one(
            "terms by industry: a participant goes by the contract's own",
            "platform/consortia/messages/request.py",
            _OWN_TERMS,
            'contract_from_json(header["contract"])',
        ),
        "industries",
        "asking",
        "tests/consortia/test_by_industry.py",
    ),
    (
        one(
            "terms by industry: tables do not count in the hash",
            "platform/consortia/terms/contract.py",
            _HASH,
            _UNTABLED,
        ),
        "industries",
        "asking",
        "tests/consortia/test_by_industry.py::test_every_table_counts_in_the_hash",
    ),
    (
        Mutant(
            "ready: the answer tells a number of rows",
            (
                (_READY, _SAID, _SAID.replace("sha256(),\n    }", 'sha256(),\n        "unit": str(seen),\n    }')),
                (
                    _READY,
                    "        _look(work, plan, work.partitions(ledger))\n",
                    _COUNTED,
                ),
                (_READY, "    plan = work.affordable(ledger)\n", "    plan, seen = work.affordable(ledger), 0\n"),
            ),
        ),
        "one",
        "asking",
        "tests/consortia/test_readiness.py",
    ),
    (
        one(
            "an adaptive optimizer sees the sum before noise",
            OPTIMIZER,
            _ADAPTIVE,
            "            self.pre_step()\n            self._noisy.copy_(self.total)\n            self.scale_grad()\n"
            "            return self.original_optimizer.step()\n",
        ),
        "adaptive",
        "mechanism",
        "tests/consortia/test_local_optimizers.py::test_an_optimizer_sees_the_noisy_gradient_alone",
    ),
    (
        one(
            "convolutions: biases are not in the norm",
            "privacy/_layer.py",
            _SQUARES,
            _SQUARES.replace(
                "_norms(self.samples)",
                "_norms({p: s for p, s in self.samples.items() if p is not getattr(self.layer, 'bias', None)})",
            ),
        ),
        "one",
        "neighbours",
        "tests/privacy/test_kinds_of_networks.py",
    ),
)
