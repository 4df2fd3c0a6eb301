"""Fixtures of the benchmark's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.methods import write_plans
from samdpo.plans import Plans, load_plans


@pytest.fixture(scope="session")
def _planned_cell(tmp_path_factory: pytest.TempPathFactory, _tiny_original: Path) -> Cell:
    from samdpo.planning.plan_and_preprocess import plan_and_preprocess

    root = tmp_path_factory.mktemp("benchmark")
    cell = Cell(root, 0.4, 1)
    (root / "raw").mkdir()
    (root / "raw" / _tiny_original.name).symlink_to(_tiny_original)
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in {"raw": root / "raw", "preprocessed": cell.preprocessed, "results": cell.results}.items():
            patch.setenv(f"nnUNet_{name}", str(folder))
        plan_and_preprocess(901, labelled=cell.labelled, seed=cell.seed, preprocess=False)
    write_plans(cell, _tiny_original.name, "samdpoPlans")
    return cell


@pytest.fixture
def plans_folder(_planned_cell: Cell, _tiny_original: Path) -> Path:
    """``preprocessed/DATASET`` of a planned cell, with the plans of all variants. Only read."""
    return _planned_cell.preprocessed / _tiny_original.name


@pytest.fixture
def default_plans(plans_folder: Path) -> Plans:
    """The plan of LitePlanner for pictures."""
    return load_plans(plans_folder / "samdpoPlans.json")
