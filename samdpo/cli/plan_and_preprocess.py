"""``samdpo_plan_and_preprocess`` and its steps apart; flags are nnU-Net's where it has them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from samdpo.cli.common import add_dask, add_processes, case_workers, log, parser, run_command

if TYPE_CHECKING:
    from samdpo.dataset.raw_dataset import RawDataset
    from samdpo.parallel import Workers


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_plan_and_preprocess``."""
    command = parser(
        "Fingerprint, plan, splits and slices of one or more datasets: everything before training.",
        "Simulate scarce labels on a labelled dataset: samdpo_plan_and_preprocess -d 3 --labelled 0.1 --unlabelled 0.4",
    )
    _add_datasets(command)
    _add_verify(command)
    _add_planning(command)
    add_processes(command)
    add_dask(command)
    command.add_argument("--no_pp", action="store_true", help="plan only, cut no slices")
    command.add_argument("--clean", action="store_true", help="make fingerprint and slices anew")
    _add_configurations(command)
    args = command.parse_args(argv)

    def step(dataset: RawDataset, workers: Workers) -> None:
        from samdpo.planning.plan_and_preprocess import plan_and_preprocess

        plan_and_preprocess(
            dataset, processes=workers, verify=args.verify_dataset_integrity, preprocess=not args.no_pp,
            clean=args.clean, **_planning(args),
        )

    _run(args, step, lambda dataset: f"samdpo_preprocess -d {dataset}" if args.no_pp else _train(dataset, args))


def main_extract_fingerprint(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_extract_fingerprint``."""
    command = parser("Measure the labelled cases of one or more datasets: dataset_fingerprint.json.")
    _add_datasets(command)
    _add_verify(command)
    add_processes(command)
    add_dask(command)
    command.add_argument("--clean", action="store_true", help="measure anew even if nothing has changed")
    args = command.parse_args(argv)

    def step(dataset: RawDataset, workers: Workers) -> None:
        from samdpo.planning.plan_and_preprocess import extract

        extract(dataset, workers, args.verify_dataset_integrity, args.clean)

    _run(args, step, lambda dataset: f"samdpo_plan_experiment -d {dataset}")


def main_plan_experiment(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_plan_experiment``."""
    command = parser("Write the plan and the splits of one or more datasets that have a fingerprint.")
    _add_datasets(command)
    _add_planning(command)
    add_processes(command)
    args = command.parse_args(argv)

    def step(dataset: RawDataset, workers: Workers) -> None:
        from samdpo.planning.plan_and_preprocess import plan_experiment

        plan_experiment(dataset, processes=workers, **_planning(args))

    _run(args, step, lambda dataset: f"samdpo_preprocess -d {dataset}" + _plans_flag("-plans_name", args))


def main_preprocess(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_preprocess``."""
    command = parser("Cut the slices of one or more planned datasets. Cases that are done are skipped.")
    _add_datasets(command)
    command.add_argument("-plans_name", metavar="PLANS", default=None, help="plan to use; default samdpoPlans")
    add_processes(command)
    add_dask(command)
    command.add_argument("--clean", action="store_true", help="throw away the slices that are there")
    _add_configurations(command)
    args = command.parse_args(argv)

    def step(dataset: RawDataset, workers: Workers) -> None:
        from samdpo.paths import PLANS_NAME
        from samdpo.planning.plan_and_preprocess import preprocess_planned

        preprocess_planned(dataset, args.plans_name or PLANS_NAME, workers, args.clean)

    _run(args, step, lambda dataset: _train(dataset, args))


def _add_datasets(command: argparse.ArgumentParser) -> None:
    command.add_argument("-d", nargs="+", required=True, metavar="DATASET", help="ids or names")


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--verify_dataset_integrity", action="store_true", help="first read every file and list all that is wrong"
    )


def _add_planning(command: argparse.ArgumentParser) -> None:
    command.add_argument("-pl", default="LitePlanner", metavar="PLANNER", help="planner: a name, or module:Class")
    command.add_argument(
        "-overwrite_plans_name", default=None, metavar="PLANS", help="name of the plan; default samdpoPlans"
    )
    command.add_argument("-backbone", default=None, metavar="NAME", help="network, for example mobile_sam; default: "
                         "the planner's")
    command.add_argument(
        "-gpu_memory_target", type=float, default=None, metavar="GIB", help="plan for this memory; default: look"
    )
    command.add_argument(
        "--labelled", type=float, default=1.0, metavar="SHARE", help="of each fold's training cases, use these labels"
    )
    command.add_argument(
        "--unlabelled", type=float, default=None, metavar="SHARE",
        help="of each fold's training cases, take these as unlabelled; default: all the rest. imagesUl/ always counts",
    )
    command.add_argument(
        "--splits", default=None, metavar="FILE",
        help="take folds and labelled cases from this file, here or in the raw dataset's folder, such as published ones"
    )
    command.add_argument("--seed", type=int, default=12345, help="of the choice of labelled cases and of training")
    command.add_argument(
        "--no_near_duplicates", action="store_true",
        help="do not look for pictures of one scene, which are kept on one side of every split otherwise",
    )
    command.add_argument("--explain", action="store_true", help="print every decision of the plan and why it was made")


def _add_configurations(command: argparse.ArgumentParser) -> None:
    command.add_argument("-c", nargs="+", default=None, metavar="CONFIG", help="not needed: stages share slices")


def _planning(args: argparse.Namespace) -> dict:
    return {
        "planner": args.pl,
        "plans_name": args.overwrite_plans_name,
        "labelled": args.labelled,
        "unlabelled": args.unlabelled,
        "seed": args.seed,
        "memory_gib": args.gpu_memory_target,
        "backbone": args.backbone,
        "explain": args.explain,
        "splits": args.splits,
        "near_duplicates": not args.no_near_duplicates,
    }


def _train(dataset: str, args: argparse.Namespace) -> str:
    return f"samdpo_train {dataset} finetune 0" + _plans_flag("-p", args)


def _plans_flag(flag: str, args: argparse.Namespace) -> str:
    name = getattr(args, "overwrite_plans_name", None) or getattr(args, "plans_name", None)
    return f" {flag} {name}" if name else ""


def _run(args: argparse.Namespace, step: Callable[[RawDataset, Workers], None], then: Callable[[str], str]) -> None:
    """Do ``step`` for every dataset, wrong names being found before any work; end with what to type next."""

    def body() -> None:
        from samdpo.dataset.raw_dataset import RawDataset
        from samdpo.paths import preprocessed_root, results_root

        datasets = [RawDataset.open(dataset) for dataset in args.d]
        preprocessed_root(writable=True)
        results_root(writable=True)  # training would need it: better told now
        if getattr(args, "c", None):
            log.info("-c %s is not needed: all stages of samdpo share the same slices.", " ".join(args.c))
        with case_workers(args) as workers:
            for dataset in datasets:
                log.info("== %s ==", dataset.name)
                step(dataset, workers)
        log.info("Next: %s", "\n      ".join(then(str(dataset.number)) for dataset in datasets))

    run_command(body)
