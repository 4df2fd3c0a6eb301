"""``samdpo_evaluate_folder``: predictions against references, as nnU-Net's command of that name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samdpo.cli.common import add_dask, add_processes, case_workers, parser, run_command

COLUMNS = {"Dice": "{:.4f}", "IoU": "{:.4f}", "SurfaceDice": "{:.4f}", "HD95": "{:.2f}", "ASD": "{:.2f}"}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    arguments = build_parser().parse_args(argv)
    run_command(lambda: evaluate(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Flags of nnUNetv2_evaluate_folder; its -pfile is not needed here and accepted."""
    result = parser(
        "Compare a folder of predicted label maps with a folder of true ones and write summary.json: "
        "Dice, IoU, surface Dice, HD95, ASD, ASSD and counts of every case and structure, in nnU-Net's form."
    )
    result.add_argument("gt_folder", type=Path, help="folder with true label maps, for example labelsTs")
    result.add_argument("pred_folder", type=Path, help="folder with predictions of the same names")
    result.add_argument("-djfile", type=Path, required=True, help="dataset.json: names of labels and file ending; the "
                        "file may be called otherwise")
    result.add_argument("-pfile", type=Path, default=None, help="plans file; accepted for nnU-Net's sake, not needed")
    result.add_argument("-o", type=Path, default=None, help="JSON to write, or a folder for summary.json "
                        "(default: pred_folder/summary.json)")
    result.add_argument("--voxels", action="store_true", help="measure surfaces in voxels whatever the spacing, as "
                        "MedPy without a spacing does and the tables of semi-supervised benchmarks have them")
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
            voxels=arguments.voxels,
            presence_figure=arguments.presence_figure,
        )
    print_table(summary)
    print(f"Wrote {output}")
    if arguments.presence_figure:
        print(f"Wrote {arguments.presence_figure}")


def print_table(summary: dict[str, Any]) -> None:
    """One row a structure, their mean where there are several, and a line of false alarms where there might be any."""
    from rich.console import Console
    from rich.table import Table

    cases, names = summary["metric_per_case"], summary["samdpo"]["labels"]
    surface = ", ".join(f"{s['tolerance']:g} {s['unit']}" for s in summary["samdpo"]["surface"])
    units = "/".join(s["unit"] for s in summary["samdpo"]["surface"])
    headings = {"SurfaceDice": f"Surface Dice ({surface})", "HD95": f"HD95 ({units})", "ASD": f"ASD ({units})"}
    table = Table(title=f"{len(cases)} case{'s' if len(cases) != 1 else ''}", title_justify="left")
    table.add_column("structure")
    for column in COLUMNS:
        table.add_column(headings.get(column, column), justify="right")
    presence = summary["samdpo"]["presence"]
    table.add_column("cases with it", justify="right")
    for label, means in summary["mean"].items():
        table.add_row(names[label], *_numbers(means), str(presence[label]["cases_with"]))
    if len(summary["mean"]) > 1:
        table.add_section()
        table.add_row("mean", *_numbers(summary["foreground_mean"]))
    Console().print(table)
    for label, counts in presence.items():
        if counts["cases_without"]:
            print(f"{names[label]}: false alarms on {counts['false_alarms']} of {counts['cases_without']} cases "
                  f"without it ({counts['false_alarms_per_hundred']:.1f} of 100), missed in {counts['missed']} of "
                  f"{counts['cases_with']}")
    if doubt := summary["samdpo"].get("doubt"):
        for what, found in (("flagged to be looked at", doubt["flagged"]),
                            *((f"doubted most, {float(share):.0%}", one) for share, one in doubt["shares"].items())):
            print(f"Cases {what}: {found['cases']} of {doubt['cases']}, with {found['error']:.0%} of the error "
                  f"(by chance {found['by_chance']:.0%}, at best {found['best']:.0%})")


def _numbers(means: dict[str, float]) -> list[str]:
    return ["–" if means[m] != means[m] else text.format(means[m]) for m, text in COLUMNS.items()]


if __name__ == "__main__":
    main()
