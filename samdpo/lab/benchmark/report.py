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
from samdpo.lab.benchmark.records import Record, save_records
from samdpo.lab.benchmark.same_cases import assert_same_cases
from samdpo.lab.benchmark.settings import Settings
from samdpo.lab.benchmark.tables import Section, Table, write_table
from samdpo.paths import PLANS_NAME

# What the paper itself reports, of its own data and splits: beside our numbers and never among them. Table 1, Table 2,
# and those numbers of its Figure 3 that its Sec. 4.1 states in words. All in percent, as printed.
_COLUMNS = ("", "X-ray IoU", "X-ray Dice", "ultrasound IoU", "ultrasound Dice", "AMOS-CT mDice", "AMOS-CT mSDC")
_DICE_COLUMNS = ("", "X-ray Dice", "AMOS-CT mDice")
_TABLE_1 = (
    ("10% + 10% unannotated: ours", "74.30", "78.87", "64.35", "75.88", "77.69", "78.34"),
    ("20%: - alignment", "75.02", "79.13", "67.51", "81.38", "79.20", "80.66"),
    ("10%: - alignment", "68.43", "75.60", "61.44", "73.62", "74.77", "76.06"),
    ("10%: - alignment - VQA", "66.90", "73.35", "57.60", "70.53", "74.08", "75.41"),
    ("10%: - alignment - VQA - GPT4", "63.16", "72.76", "54.26", "68.89", "73.16", "74.89"),
    ("10%: - alignment - VQA - CAM", "50.38", "57.02", "45.16", "59.05", "69.97", "71.45"),
)
_TABLE_2 = (
    ("10% + 10%: loss for best candidate", "70.37", "77.09", "61.76", "73.81", "75.01", "76.36"),
    ("10% + 10%: rating", "73.99", "78.41", "63.97", "75.52", "77.23", "77.98"),
    ("10% + 10%: ranking", "74.30", "78.87", "64.35", "75.88", "77.69", "78.34"),
    ("10% + 20%: ranking", "79.74", "85.15", "73.56", "84.23", "80.54", "81.95"),
    ("10% + 40%: ranking", "88.96", "89.68", "85.92", "88.15", "84.30", "85.70"),
)
_FIGURE_3 = (
    ("20%: U-Net", "58.66", "59.35"),
    ("20%: nnU-Net", "60.97", "65.21"),
    ("20%: SAM", "61.64", "64.93"),
    ("20%: SAM-Med2D", "67.81", "66.57"),
    ("20%: SAM-Med3D", None, "72.54"),
    ("20%: Self-prompt", "68.41", "71.83"),
    ("20%: ours", "78.87", "77.69"),
    ("50%: ours", "89.68", "85.70 [1]"),
    ("50%: prompt-only", "91.42", "86.36"),
)
_REMARKS = (
    "Published by the paper; not ours. COVID-QU-Ex, BUSI with UDIAT, and AMOS-CT at the paper's sizes and splits, "
    "SAM-Med2D as backbone: other images, other amounts of them, another network than in our tables.",
)


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


def published_tables() -> dict[str, Table]:
    """``published_table1``, ``published_table2``, ``published_figure3`` -> table; only the third has a footnote."""
    return {
        "published_table1": Table("Published: the paper's Table 1, in percent", _COLUMNS,
                                  [Section("Components", _TABLE_1)], remarks=_REMARKS),
        "published_table2": Table("Published: the paper's Table 2, in percent", _COLUMNS,
                                  [Section("Preference scoring and unannotated data", _TABLE_2)], remarks=_REMARKS),
        "published_figure3": Table(
            "Published: what the paper's text says of its Figure 3, in percent", _DICE_COLUMNS,
            [Section("Share of data: methods", _FIGURE_3)], remarks=_REMARKS,
            notes=("So in the paper's text; its Table 2 has 84.30 as mDice and 85.70 as mSDC.",),
        ),
    }
