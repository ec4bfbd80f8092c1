"""A seeded tenth of the fault matrix; `python -m tests.faults.matrix --all` runs every cell."""

import os

import matrix
import pytest

SEED = int(os.environ.get("BILLIARD_FAULT_SEED", "1"))
SHARE = float(os.environ.get("BILLIARD_FAULT_SHARE", "0.1"))


@pytest.fixture(autouse=True, scope="module")
def warm():
    matrix.warm_up()


@pytest.mark.parametrize("cell", matrix.share_of(matrix.cells(), SHARE, SEED), ids=" / ".join)
def test_cell(cell):
    matrix.run_cell(*cell)


def test_the_cells_that_cannot_exist_are_few_and_say_why():
    possible = {(point, fault) for point, fault, _, _ in matrix.cells()}
    for point in matrix.POINTS:
        assert any(p == point for p, _ in possible)
        for fault in matrix.FAULTS:
            assert ((point, fault) in possible) is (matrix.impossible(point, fault) is None)
