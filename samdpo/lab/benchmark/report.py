"""From run folders to ``benchmark.json``, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.lab.benchmark.ablations import ABLATIONS, Ablation, cells_of
from samdpo.lab.benchmark.cell import Cell
from samdpo.lab.benchmark.cells import cells_on_disk
from samdpo.lab.benchmark.collect import collect_run
from samdpo.lab.benchmark.compose import table1, table2
from samdpo.lab.benchmark.methods import METHODS, suits
from samdpo.lab.benchmark.published import published_tables
from samdpo.lab.benchmark.records import Record, save_records
from samdpo.lab.benchmark.same_cases import assert_same_cases
from samdpo.lab.benchmark.settings import Settings
from samdpo.lab.benchmark.tables import write_table
from samdpo.paths import PLANS_NAME


def collect(settings: Settings, ablations: Sequence[Ablation], ndims: dict[str, int], plans: str) -> list[Record]:
    """Every run of a plan: all that were asked for, and of other methods, shares and seeds those that are there.

    Raises:
        ConfigurationError: runs that are compared had other cases, or a run's file is damaged.
    """
    asked = settings.cells()
    cells = [*asked, *(c for c in cells_on_disk(settings.root) if c not in asked and c.unlabelled is None)]
    cells.sort(key=lambda cell: cell.labelled)  # seeds stay in the order in which they were asked for
    wanted_variants = {(a.method.name, a.unlabelled) for a in ablations}
    variants = {(a.method.name, a.unlabelled): a for a in ABLATIONS if a.unlabelled or a.method.name not in METHODS}
    records: list[Record] = []
    for dataset in settings.datasets:
        for cell in cells:
            for method in METHODS.values():
                wanted = method in settings.methods and suits(method, ndims[dataset], cell.labelled == 1)
                record = collect_run(cell, dataset, plans, method, settings.fold)
                records += [record] if record.status != "missing" or (wanted and cell in asked) else []
        for key, ablation in variants.items():
            for cell in cells_of(ablation, cells):
                base = Cell(cell.root, cell.labelled, cell.seed)
                record = collect_run(cell, dataset, plans, ablation.method, settings.fold)
                wanted = key in wanted_variants and base in asked
                records += [record] if record.status != "missing" or wanted else []
    assert_same_cases(records, {**METHODS, **{a.method.name: a.method for a in ABLATIONS}})
    return records


def write_report(settings: Settings, records_of: dict[str, list[Record]]) -> list[Path]:
    """Write ``benchmark.json``, tables and figures; returns the files, none where nothing was run.

    Args:
        settings: of the benchmark.
        records_of: plan -> its runs; another plan than the usual one has its tables in a folder of its name.
    """
    every = [record for records in records_of.values() for record in records]
    if all(record.status == "missing" for record in every):
        return []
    files = [save_records(every, settings.root, {"budget": settings.budget, "fold": settings.fold})]
    for name, table in published_tables().items():
        files += write_table(table, settings.root, name)
    for plans, records in records_of.items():
        folder = settings.root if plans == PLANS_NAME else settings.root / plans
        tables = {"table1": table1(records, settings.root), "table2": table2(records, settings.root)}
        files += [file for name, table in tables.items() if table for file in write_table(table, folder, name)]
        files += _figures(records, cells_on_disk(settings.root), folder)
    return files


def _figures(records: Sequence[Record], cells: Sequence[Cell], folder: Path) -> list[Path]:
    from samdpo.lab.benchmark.figure3 import draw_figure3
    from samdpo.lab.benchmark.figure4 import draw_figure4
    from samdpo.lab.benchmark.figure5 import draw_figure5

    return [*draw_figure3(records, folder), *draw_figure4(records, cells, folder),
            *draw_figure5(records, cells, folder)]
