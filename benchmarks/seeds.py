"""Stages side by side over several seeds: mean, spread, and the gain over the first stage, seed by seed.

    python benchmarks/seeds.py -d 102 results_12345 results_1 results_2
    python benchmarks/seeds.py -d 104 -d 105 results_12345 results_1 results_2

Each folder is an ``nnUNet_results`` of one seed. The table is Markdown, one a dataset; below it stands each number's
file. Last comes the paired bootstrap: of each test case the difference to ``--over``, averaged over the seeds that
have both, and 95% of the means of cases drawn anew, of all datasets together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

from samdpo.files import read_json

METRICS = ("Dice", "IoU", "SurfaceDice")
STAGES = ("finetune", "align", "align_preferences", "align_paper", "fixmatch", "mean_teacher", "fixmatch_encoder",
          "mean_teacher_encoder", "align_self_training", "align_best_candidate", "prompt_only")
DRAWS = 10_000


def main() -> None:
    """Read the summaries and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("results", nargs="+", type=Path, help="nnUNet_results folders, one a seed")
    arguments.add_argument("-d", type=int, action="append", required=True, help="dataset id; may be given again")
    arguments.add_argument("-f", default="0", help="fold")
    arguments.add_argument("-p", default="samdpoPlans", help="plan")
    arguments.add_argument("--over", default=STAGES[0], choices=STAGES, help="stage that the others are compared with")
    args = arguments.parse_args()
    gains: dict[str, dict[str, list[float]]] = {}
    for dataset in args.d:
        for stage, of_cases in table(args, dataset).items():
            gains.setdefault(stage, {}).update({f"{dataset}/{case}": values for case, values in of_cases.items()})
    print()
    for stage, of_cases in gains.items():
        if of_cases:
            print(f"{stage} over {args.over}, {len(of_cases)} test cases: {bootstrapped(list(of_cases.values()))}")


def table(args: argparse.Namespace, dataset: int) -> dict[str, dict[str, list[float]]]:
    """Print a dataset's table; stage -> test case -> its gain in Dice over that of ``--over``, seed by seed."""
    files = {stage: [summary_file(folder, dataset, args.p, stage, args.f) for folder in args.results]
             for stage in STAGES}
    scores = {stage: [read_json(file)["foreground_mean"] if file else None for file in found]
              for stage, found in files.items()}
    if not any(scores[args.over]):
        sys.exit(f"No summary.json of dataset {dataset}, stage {args.over}, fold {args.f} in these folders.")
    print(f"Dataset {dataset}\n\n| stage | seeds | {' | '.join(METRICS)} | Dice over {args.over} | in each seed |")
    print("|---|---|" + "---|" * (len(METRICS) + 2))
    for stage, of_seeds in scores.items():
        there = [score for score in of_seeds if score]
        if there:
            cells = [mean_and_spread([score[metric] for score in there]) for metric in METRICS]
            gains = [a["Dice"] - b["Dice"] for a, b in zip(of_seeds, scores[args.over]) if a and b]
            print(f"| `{stage}` | {len(there)} | {' | '.join(cells)} | {mean_and_spread(gains, '+')} | "
                  f"{', '.join(f'{gain:+.3f}' for gain in gains)} |")
    print()
    for stage, found in files.items():
        for file in found:
            if file:
                print(f"{stage}: {file}: {read_json(file)['foreground_mean']['Dice']:.4f}")
    print()
    found_gains: dict[str, dict[str, list[float]]] = {}
    for stage in (one for one in STAGES if one != args.over):
        of_cases = found_gains.setdefault(stage, {})
        for file, first in zip(files[stage], files[args.over]):
            if file and first:
                before, after = dice_of_cases(first), dice_of_cases(file)
                for case in sorted(before.keys() & after.keys()):
                    of_cases.setdefault(case, []).append(after[case] - before[case])
    return found_gains


def dice_of_cases(file: Path) -> dict[str, float]:
    """Case -> mean Dice of its structures, those that have one."""
    found = {}
    for case in read_json(file)["metric_per_case"]:
        values = [one["Dice"] for one in case["metrics"].values() if one["Dice"] is not None]
        values = [value for value in values if value == value]
        if values:
            found[Path(case["reference_file"]).name] = statistics.mean(values)
    return found


def bootstrapped(gains: list[list[float]]) -> str:
    """Mean over cases, and 95% of the means of as many cases drawn with replacement."""
    of_cases = np.array([statistics.mean(values) for values in gains])
    rows = np.random.default_rng(0).integers(len(of_cases), size=(DRAWS, len(of_cases)))
    low, high = np.quantile(of_cases[rows].mean(1), [0.025, 0.975])
    return f"{of_cases.mean():+.3f}, 95% {low:+.3f} to {high:+.3f}"


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
