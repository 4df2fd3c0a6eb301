"""``samdpo_benchmark``: every method on the same cases; the paper's tables and figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_processes, log, parser, run_command
from samdpo.paths import PLANS_NAME


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_benchmark``."""
    args = arguments().parse_args(argv)
    run_command(lambda: _run(args), go_on="type the same command again to go on where it stopped")


def arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = parser(
        "Train every method on the same cases, seed by seed, and write the paper's tables and figures. What is there "
        "already is kept; a run that was stopped goes on.",
        "Tables and figures of what is there: samdpo_benchmark -d 101 102 --only_collect",
    )
    command.add_argument("-d", nargs="+", required=True, metavar="DATASET", help="ids or names")
    command.add_argument("--methods", nargs="+", default=None, metavar="METHOD",
                         help="to compare; default: all that suit the data set")
    command.add_argument("--labelled", nargs="+", type=float, default=[0.1], metavar="SHARE",
                         help="of each fold's training cases, use these labels; several are several cells")
    command.add_argument("--seeds", type=int, default=3, metavar="N", help="how many: 12345, 1, 2, …")
    command.add_argument("--seed_list", nargs="+", type=int, default=None, metavar="SEED", help="these seeds instead")
    command.add_argument("-f", default="0", metavar="FOLD", help="a number, or all")
    command.add_argument("-o", type=Path, default=None, metavar="FOLDER",
                         help="of the benchmark; default: nnUNet_results/benchmark")
    command.add_argument("--minutes", type=float, default=3.0,
                         help="of computing for every training; 0: each as long as its plan says")
    command.add_argument("--epochs", type=int, default=None, metavar="N",
                         help="this many for every training, without a limit of minutes")
    command.add_argument("--ablations", nargs="*", default=None, metavar="GROUP",
                         help="run variants too: components, scoring, unlabelled, candidates, noise, beta, reduction, "
                         "loss, answers, random_answers; without a name, all of them")
    command.add_argument("--effort", action="store_true",
                         help="run the effort study: Dice against an annotator's minutes, for four kinds of answers; "
                         "without --methods, only these and what the figure shows beside them")
    command.add_argument("--plans", nargs="+", default=[PLANS_NAME], metavar="PLANS", help="names of plans")
    command.add_argument("-pl", default=None, metavar="PLANNER", help="that makes the plans; default: LitePlanner")
    command.add_argument("-backbone", default=None, metavar="NAME", help="network of the plans; default: the planner's")
    command.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    command.add_argument("--dask", default=None, metavar="SCHEDULER",
                         help="run on a Dask cluster, for example tcp://host:8786; its workers see the same folders")
    command.add_argument("--retry", action="store_true", help="also run again what failed before")
    command.add_argument("--only_collect", action="store_true", help="run nothing, write tables and figures")
    command.add_argument("--dry_run", "--dry-run", action="store_true",
                         help="only say what would be run, and how long it takes at most")
    add_processes(command)
    return command


def _run(args: argparse.Namespace) -> None:
    from samdpo.lab.benchmark.methods import EFFORT, EFFORT_METHODS, GROUPS, chosen_ablations, chosen_methods
    from samdpo.lab.benchmark.report import collect, write_report
    from samdpo.lab.benchmark.runner import check_networks, ndim_of_dataset, overview, run_here, run_on_dask
    from samdpo.lab.benchmark.settings import Settings, seeds_of
    from samdpo.lab.benchmark.steps import all_steps
    from samdpo.paths import dataset_name, raw_folder, results_root

    datasets = [dataset_name(dataset) for dataset in args.d]
    for dataset in datasets:
        raw_folder(dataset)
    methods = [*(args.methods or ()), *EFFORT_METHODS] if args.effort else args.methods
    settings = Settings(
        root=(args.o or results_root(writable=True) / "benchmark").resolve(), datasets=datasets,
        methods=chosen_methods(methods), labelled=args.labelled, seeds=seeds_of(args.seeds, args.seed_list),
        fold=args.f, minutes=args.minutes, epochs=args.epochs, plans=args.plans, planner=args.pl,
        backbone=args.backbone, device=args.device, processes=args.np,
    )
    ablations = chosen_ablations(GROUPS if args.ablations == [] else args.ablations or ())
    ablations += EFFORT if args.effort else ()
    check_networks(settings)
    ndims = {dataset: ndim_of_dataset(dataset, settings) for dataset in datasets}
    for dataset in [name for name, ndim in ndims.items() if args.effort and ndim == 3]:
        log.warning("%s: no effort study of volumes, whose align asks about pixels.", dataset)
    steps = all_steps(settings, ablations, ndims)
    for line in overview(steps, settings, args.retry):
        log.info("%s", line)
    if args.dry_run:
        return
    if not args.only_collect and args.dask:
        run_on_dask(steps, args.dask, args.retry)
    elif not args.only_collect:
        run_here(steps, args.retry)
    records = {plans: collect(settings, ablations, ndims, plans) for plans in settings.plans}
    files = write_report(settings, records)
    if files:
        log.info("Written:\n%s", "\n".join(f"  {file}" for file in files))
    log.info("%s", next_step(records, settings.root))


def next_step(records: dict, root: Path) -> str:
    """What a user would look at or type next."""
    runs = [record for of_plans in records.values() for record in of_plans]
    lost = sum(record.status == "failed" for record in runs)
    missing = sum(record.status == "missing" for record in runs)
    if missing == len(runs):
        return "Nothing was run, so there is no table. Next: type the same command without --only_collect."
    lines = ["Next:"]
    if lost:
        lines.append(f"  {lost} runs failed; table1.md says why, and their logs lie in {root}/labelled_*/seed_*/logs. "
                     "Type the same command with --retry once it is mended.")
    if missing:
        lines.append(f"  {missing} runs are missing; type the same command without --only_collect.")
    return "\n".join([*lines, f"  Look at {root / 'table1.md'}"])
