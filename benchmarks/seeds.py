"""Stages side by side over several seeds: mean, spread, and the gain over the first stage, seed by seed.

    python benchmarks/seeds.py -d 102 results_12345 results_1 results_2

Each folder is an ``nnUNet_results`` of one seed. The table is Markdown; below it stands each number's file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from samdpo.files import read_json

METRICS = ("Dice", "IoU", "SurfaceDice")
STAGES = ("finetune", "align", "align_self_training", "align_best_candidate")


def main() -> None:
    """Read the summaries and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("results", nargs="+", type=Path, help="nnUNet_results folders, one a seed")
    arguments.add_argument("-d", type=int, required=True, help="dataset id")
    arguments.add_argument("-f", default="0", help="fold")
    arguments.add_argument("-p", default="samdpoPlans", help="plan")
    args = arguments.parse_args()
    files = {stage: [summary_file(folder, args.d, args.p, stage, args.f) for folder in args.results]
             for stage in STAGES}
    scores = {stage: [read_json(file)["foreground_mean"] if file else None for file in found]
              for stage, found in files.items()}
    if not any(scores[STAGES[0]]):
        sys.exit(f"No summary.json of dataset {args.d}, stage {STAGES[0]}, fold {args.f} in these folders.")
    print(f"| stage | seeds | {' | '.join(METRICS)} | Dice over {STAGES[0]} | in each seed |")
    print("|---|---|" + "---|" * (len(METRICS) + 2))
    for stage, of_seeds in scores.items():
        there = [score for score in of_seeds if score]
        if there:
            cells = [mean_and_spread([score[metric] for score in there]) for metric in METRICS]
            gains = [a["Dice"] - b["Dice"] for a, b in zip(of_seeds, scores[STAGES[0]]) if a and b]
            print(f"| `{stage}` | {len(there)} | {' | '.join(cells)} | {mean_and_spread(gains, '+')} | "
                  f"{', '.join(f'{gain:+.3f}' for gain in gains)} |")
    print()
    for stage, found in files.items():
        for file in found:
            if file:
                print(f"{stage}: {file}: {read_json(file)['foreground_mean']['Dice']:.4f}")


def summary_file(results: Path, dataset: int, plans: str, stage: str, fold: str) -> Path | None:
    """The one summary of a stage in a results folder, or None."""
    pattern = f"Dataset{dataset:03d}_*/*__{plans}__{stage}/fold_{fold}/validation/summary.json"
    return next(iter(sorted(results.glob(pattern))), None)


def mean_and_spread(values: list[float], sign: str = "") -> str:
    """``.643 ± .012``: mean and standard deviation over seeds."""
    mean = f"{statistics.mean(values):{sign}.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
