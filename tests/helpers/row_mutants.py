"""Mistakes by which one unit's rows decide what another one adds: (mistake, scenario, instrument, test) for each."""

from __future__ import annotations

from audit_mutants import SIDE, Mutant, one

BOOKS = "privacy/bookkeeping.py"
ROWS = "privacy/_rows.py"
COMPOSED = "privacy/_composition.py"

_GAME = "tests/consortia/test_neighbour_game.py"
_MOVED = "tests/privacy/test_sensitivity.py"
_NEW = "tests/consortia/test_planted.py"
_GROUPS = "tests/consortia/test_fairness.py"

_SINGLE = '        object.__setattr__(self, "_counts", counts)\n'
_NO_LAYERS = """return f"its forward is not made of known layers alone ({type(error).__name__})"
    return _composed(module, graph)
"""
_ANY_MODULE = """return _Any(module)
    found = _composed(module, graph)
    return _Any(module) if isinstance(found, str) else found


class _Any(Composition):
    signature = "any"

    def __init__(self, root):
        nn.Module.__init__(self)
        self.root, self.calls = root, []
        kinds = tuple(_DIMENSIONS)
        self.layers = nn.ModuleList([layer for layer in root.modules() if isinstance(layer, kinds)])

    def of(self, root):
        return _Any(root)

    def forward(self, inputs):
        return self.root(inputs)
"""
_ONE_BATCH = "predictions(module.target, module(table.inputs)).detach()"


def _single(found: str) -> str:
    return f"        object.__setattr__(self, 'single', n >= self.n_units and {found})\n{_SINGLE}"


#: (mistake, scenario, instrument, test)
APART = (
    (
        one("some units of one row pass for all", ROWS, _SINGLE, _single("bool((counts == 1).any())")),
        "local",
        "mechanism",
        "tests/privacy/test_dp_sgd.py",
    ),
    (
        one("the rows decide whether a unit is one row", ROWS, _SINGLE, _single("bool((counts == 1).all())")),
        "local",
        "neighbours",
        f"{_MOVED}::test_a_unit_with_more_rows_than_the_others_moves_one_clip",
    ),
    (
        one("nothing in a norm for rows that cancel", BOOKS, "TERMS: Final = 2.0**-10", "TERMS: Final = 0.0"),
        "local",
        "neighbours",
        f"{_NEW}::test_a_unit_whose_rows_cancel_has_a_norm_all_the_same",
    ),
    (
        Mutant(
            "passes of as many rows as were drawn",
            (
                (ROWS, "        together = self._together\n", "        together = max(1, len(rows))\n"),
                (BOOKS, "        twin = self._copied()\n", "        return True\n        twin = self._copied()\n"),
            ),
        ),
        "local",
        "neighbours",
        "tests/privacy/test_rows_stay_apart.py::test_every_pass_has_one_number_of_rows_whatever_was_drawn",
    ),
    (
        Mutant("modules of any kind see a batch", ((COMPOSED, _NO_LAYERS, _ANY_MODULE),)),
        "local",
        "neighbours",
        f"{_MOVED}::test_a_module_that_mixes_rows_is_refused_or_sees_one_row",
    ),
    (
        one(
            "a module keeps what it wrote in a pass",
            COMPOSED,
            "return copy.deepcopy(module, {id(p): p for p in module.parameters() if p.requires_grad})",
            "return module",
        ),
        "local",
        "neighbours",
        f"{_MOVED}::test_what_a_module_remembers_of_a_row_is_forgotten_with_it",
    ),
    (
        one(
            "metrics: scores of one batch",
            SIDE,
            "outputs(module, table.inputs, functools.partial(predictions, module.target))",
            _ONE_BATCH,
        ),
        "local",
        "neighbours",
        f"{_NEW}::test_the_score_of_a_row_in_metrics_goes_by_that_row",
    ),
    (
        one(
            "metrics by group: a limit of rows in each group",
            SIDE,
            "        np.asarray(table.unit_index, dtype=np.int64),\n        rows_per_unit",
            "        np.asarray(table.unit_index, dtype=np.int64) * 10**6 + np.maximum(cells, 0) // (2 * bins),\n"
            "        rows_per_unit",
        ),
        "local",
        "neighbours",
        f"{_GROUPS}::test_no_unit_moves_the_histograms_of_all_groups_by_more_than_its_rows",
    ),
    (
        one(
            "metrics by group: small groups are left out by true counts",
            "platform/consortia/metrics/groups.py",
            "np.where((cells < 0) | (groups < 0), -1, groups * n_cells + cells)",
            "np.where((cells < 0) | (np.bincount(groups)[groups] < 3), -1, groups * n_cells + cells)",
        ),
        "local",
        "neighbours",
        f"{_GROUPS}::test_no_unit_moves_the_histograms_of_all_groups_by_more_than_its_rows",
    ),
)
