"""``samdpo_evaluate_folder``: predictions against references, as nnU-Net's command of that name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samdpo.cli.common import add_dask, add_processes, case_workers, parser, run_command

COLUMNS = {"Dice": "{:.4f}", "IoU": "{:.4f}", "SurfaceDice": "{:.4f}", "HD95": "{:.2f}"}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    arguments = build_parser().parse_args(argv)
    run_command(lambda: evaluate(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Flags of nnUNetv2_evaluate_folder; its -pfile is not needed here and accepted."""
    result = parser(
        "Compare a folder of predicted label maps with a folder of true ones and write summary.json: "
        "Dice, IoU, surface Dice, HD95 and counts of every case and structure, in nnU-Net's form."
    )
    result.add_argument("gt_folder", type=Path, help="folder with true label maps, for example labelsTs")
    result.add_argument("pred_folder", type=Path, help="folder with predictions of the same names")
    result.add_argument("-djfile", type=Path, required=True, help="dataset.json: names of labels and file ending; the "
                        "file may be called otherwise")
    result.add_argument("-pfile", type=Path, default=None, help="plans file; accepted for nnU-Net's sake, not needed")
    result.add_argument("-o", type=Path, default=None, help="JSON to write, or a folder for summary.json "
                        "(default: pred_folder/summary.json)")
    result.add_argument("--chill", action="store_true", help="evaluate what is predicted, even if files are missing")
    result.add_argument("--presence_figure", type=Path, default=None, metavar="FILE",
                        help="draw what the presence threshold trades, structures found against false alarms on images "
                        "without any: a PNG or PDF, from the reports beside predicted pictures")
    add_processes(result)
    add_dask(result)
    return result


def evaluate(arguments: argparse.Namespace) -> None:
    """Run the evaluation; print a table and what was written."""
    from samdpo.evaluation.summary import evaluate_folder

    output = arguments.o or arguments.pred_folder
    output = output / "summary.json" if output.is_dir() else output
    with case_workers(arguments) as workers:
        summary = evaluate_folder(
            arguments.gt_folder, arguments.pred_folder, arguments.djfile, output, workers, arguments.chill,
            presence_figure=arguments.presence_figure,
        )
    print_table(summary)
    print(f"Wrote {output}")
    if arguments.presence_figure:
        print(f"Wrote {arguments.presence_figure}")


def print_table(summary: dict[str, Any]) -> None:
    """One row a structure, then their mean where there are several."""
    from rich.console import Console
    from rich.table import Table

    cases, names = summary["metric_per_case"], summary["samdpo"]["labels"]
    surface = ", ".join(f"{s['tolerance']:g} {s['unit']}" for s in summary["samdpo"]["surface"])
    units = "/".join(s["unit"] for s in summary["samdpo"]["surface"])
    headings = {"SurfaceDice": f"Surface Dice ({surface})", "HD95": f"HD95 ({units})"}
    table = Table(title=f"{len(cases)} case{'s' if len(cases) != 1 else ''}", title_justify="left")
    table.add_column("structure")
    for column in COLUMNS:
        table.add_column(headings.get(column, column), justify="right")
    presence = summary["samdpo"]["presence"]
    table.add_column("cases with it", justify="right")
    absent = any(counts["cases_without"] for counts in presence.values())
    if absent:
        table.add_column("false alarms", justify="right")
    for label, means in summary["mean"].items():
        counts = presence[label]
        table.add_row(names[label], *_numbers(means), str(counts["cases_with"]), *([_alarms(counts)] if absent else []))
    if len(summary["mean"]) > 1:
        table.add_section()
        table.add_row("mean", *_numbers(summary["foreground_mean"]))
    Console().print(table)


def _alarms(counts: dict[str, float]) -> str:
    if not counts["cases_without"]:
        return "–"
    return f"{counts['false_alarms']} of {counts['cases_without']} ({counts['false_alarms_per_hundred']:.1f}%)"


def _numbers(means: dict[str, float]) -> list[str]:
    return ["–" if means[m] != means[m] else text.format(means[m]) for m, text in COLUMNS.items()]


if __name__ == "__main__":
    main()
