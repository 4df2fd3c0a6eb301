"""``samdpo_prompt DATASET FOLD``: make a fold's prompts ahead of training, and draw them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from samdpo.cli.common import add_dask, case_workers, parser, run_command
from samdpo.errors import ConfigurationError
from samdpo.paths import PLANS_NAME, is_fold

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = parser(
        "Make the prompts of a fold: saliency, coarse masks, boxes, points and sentences for its labelled, "
        "unlabelled and validation cases. Training does this where prompts are missing."
    )
    command.add_argument("dataset", help="dataset id or name, for example 3 or Dataset003_Liver")
    command.add_argument("fold", help="fold number, or 'all'")
    command.add_argument("-p", default=PLANS_NAME, metavar="PLANS", help="name of the plans file")
    command.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    command.add_argument("--figure", action="store_true", help="also draw the prompts of some cases")
    command.add_argument("--figure_cases", type=int, default=None, metavar="N",
                         help="cases in the figure; default: 6")
    add_dask(command)
    return command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_prompt``."""
    run_command(lambda: _run(arguments().parse_args(argv)))


def _run(args: argparse.Namespace) -> None:
    if not is_fold(args.fold):
        raise ConfigurationError(f"FOLD is {args.fold!r}; expected a number like 0, or 'all'.")
    if args.figure_cases is not None and not args.figure:
        raise ConfigurationError("--figure_cases belongs to --figure: give both, or neither.")
    if args.figure_cases is not None and args.figure_cases < 1:
        raise ConfigurationError(f"--figure_cases is {args.figure_cases}; expected at least 1.")
    from samdpo.paths import dataset_name, preprocessed_folder
    from samdpo.plans import load_plans
    from samdpo.prompting.making import make_prompts

    dataset = dataset_name(args.dataset)
    folder = preprocessed_folder(dataset)
    plans = load_plans(folder / f"{args.p}.json")
    with case_workers(args) as workers:
        prompts = make_prompts(plans, args.fold, args.device, workers if args.dask else None)
    log.info("Prompts of %d cases are in %s", len(prompts.cases()), prompts.folder)
    if args.figure:
        from samdpo.preprocessing.store import SliceStore
        from samdpo.prompting.figure import slices_to_show, write_prompt_figure

        store = SliceStore(folder / plans.preprocessing.data_identifier)
        path = prompts.folder / "prompts.png"
        write_prompt_figure(store, prompts, slices_to_show(store, prompts, args.figure_cases or 6), path)
        log.info("Figure: %s", path)


if __name__ == "__main__":
    main()
