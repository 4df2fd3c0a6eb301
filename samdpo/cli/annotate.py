"""``samdpo_annotate DATASET FOLD``: the page on which people are asked; ``--review PREDICTIONS``: mend predictions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samdpo.cli.common import log, parser, run_command
from samdpo.errors import ConfigurationError
from samdpo.paths import PLANS_NAME, number_of, plans_option

if TYPE_CHECKING:
    from samdpo.annotate.page.settings import PageSettings
    from samdpo.annotate.page.start import Reception
    from samdpo.preferences.records import Mode


def arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = parser(
        "Make candidates for the unlabelled images of a fold with its finetuned model, where they are missing, and "
        "start a page on which people say in a browser which is right, which is better, or where the structure is. "
        "With --review, look at predictions instead. Ctrl-C ends it.",
        "Then: samdpo_train DATASET align FOLD --annotator recorded",
    )
    command.add_argument("dataset", nargs="?", default=None, help="id or name")
    command.add_argument("fold", nargs="?", default=None, help="0 to 4, or all")
    command.add_argument("--mode", choices=("ranking", "rating", "best"), default=None,
                         help="order the candidates, give each 1 to 4 stars, or choose the best; default: the plan's")
    command.add_argument("--stage", default="align", help="configuration of the plan that will learn from it")
    command.add_argument("-tr", default=None, help="trainer: a class name, module:Class, or an entry point")
    command.add_argument("-p", default=PLANS_NAME, help="plan")
    command.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
                         help="any key of the plan, for example candidates.kind=hypotheses")
    command.add_argument("--max_slices", type=int, default=None, metavar="N",
                         help="ask about the N slices whose candidates differ most; in a review about N slices of a "
                         "structure of a volume at most")
    review = command.add_argument_group("review, in place of DATASET and FOLD")
    review.add_argument("--review", type=Path, default=None, metavar="PREDICTIONS",
                        help="folder that samdpo_predict wrote: look at the cases that it flagged, accept or mend them")
    review.add_argument("-i", type=Path, default=None, metavar="IMAGES", help="where the images are now")
    review.add_argument("-m", type=Path, default=None, metavar="MODEL", help="folder of the model that mends; default: "
                        "the one that predicted")
    people = command.add_argument_group("people")
    people.add_argument("--users", type=Path, default=None, metavar="FILE",
                        help="lines 'name token': who may sign in; default: anybody who has the token")
    people.add_argument("--token", default=None, help="instead of a new one; other users of this machine can see it")
    people.add_argument("--overlap", type=float, default=0.0, metavar="SHARE",
                        help="share of the items that several people judge")
    people.add_argument("--overlap_people", type=int, default=2, metavar="K", help="how many people those get")
    people.add_argument("--lease", type=float, default=900.0, metavar="SECONDS",
                        help="how long an item waits for the person who sees it; a week at most")
    server = command.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for the whole network")
    server.add_argument("--port", type=int, default=8765, help="port to listen on")
    server.add_argument("--address", default=None, metavar="URL",
                        help="what people type where a proxy leads to the page: https://annotate.example.org")
    server.add_argument("--database", default=None, metavar="URL",
                        help="instead of preferences.sqlite in the dataset's results: postgresql+psycopg://USER@HOST/DB")
    server.add_argument("--no_browser", action="store_true", help="do not open the page on this machine")
    return command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_annotate``."""
    run_command(lambda: _run(arguments().parse_args(argv)))


def _run(args: argparse.Namespace) -> None:
    if args.max_slices is not None and args.max_slices < 1:
        raise ConfigurationError(f"--max_slices is {args.max_slices}; expected at least 1.")
    if not args.lease > 0:
        raise ConfigurationError(f"--lease is {args.lease}; expected seconds above 0, a week at most.")
    if args.review is not None:
        _check_review(args)
        _review(args)
        return
    if args.dataset is None or args.fold is None:
        raise ConfigurationError(
            "samdpo_annotate expects DATASET and FOLD, as in samdpo_annotate 3 0, or --review PREDICTIONS."
        )
    for flag, value in (("-i", args.i), ("-m", args.m)):
        if value is not None:
            raise ConfigurationError(f"{flag} {value} belongs to --review PREDICTIONS, which is not given.")
    from samdpo.annotate.database.locate import database_url
    from samdpo.annotate.page.start import run_page
    from samdpo.paths import dataset_name, preprocessed_folder
    from samdpo.plans import load_plans

    dataset = dataset_name(args.dataset)
    plans = load_plans(preprocessed_folder(dataset) / f"{args.p}.json").with_overrides(args.stage, args.set)
    mode = args.mode or plans.stage(args.stage).annotator.scoring
    settings, reception = _prepare(args, database_url(dataset, args.database), mode,
                                   training_command(args, number_of(dataset)))

    from samdpo.align.candidate_set import make_candidate_set

    stored = make_candidate_set(dataset, args.fold, args.stage, args.tr, args.p, args.device, args.set)
    log.info("%s", run_page(reception, stored, settings, args.max_slices, not args.no_browser, args.device))
    log.info("Next: %s", settings.next_command)


def _prepare(
    args: argparse.Namespace, url: str, mode: Mode, next_command: str = ""
) -> tuple[PageSettings, Reception]:
    """What can be refused before any work."""
    from samdpo.annotate.database.handing_out import OverlapRule
    from samdpo.annotate.page.settings import PageSettings, check_address, check_reachable, names_of
    from samdpo.annotate.page.start import Reception
    from samdpo.annotate.page.tokens import make_tokens

    address, tokens = check_address(args.address), make_tokens(args.token, args.users)
    check_reachable(args.host, address, tokens)
    settings = PageSettings(
        mode=mode,
        overlap=OverlapRule(args.overlap, args.overlap_people),
        lease_seconds=args.lease,
        host_names=names_of(args.host, address),
        address=address,
        next_command=next_command,
    )
    return settings, Reception.prepare(url, args.host, args.port, tokens)


def _check_review(args: argparse.Namespace) -> None:
    others = {"DATASET": args.dataset, "--mode": args.mode, "--set": args.set or None,
              "--overlap": args.overlap or None}
    for name, value in others.items():
        if value is not None:
            raise ConfigurationError(f"{name} ({value}) means nothing beside --review PREDICTIONS; leave it out.")
    if not args.review.is_dir():
        raise ConfigurationError(f"--review {args.review} is not a folder; expected one that samdpo_predict wrote.")


def _review(args: argparse.Namespace) -> None:
    from samdpo.annotate.page.start import run_review
    from samdpo.annotate.review import ANSWERS, REVIEW, Predictions, asked_of

    folder = args.review.absolute()
    asked_of(folder)  # before anything is written into it
    settings, reception = _prepare(args, args.database or f"sqlite:///{folder / REVIEW / ANSWERS}", "best")
    predictions = Predictions.open(folder, args.i, args.m, args.device, args.tr)
    log.info("%s", run_review(reception, predictions, settings, args.max_slices, not args.no_browser))


def training_command(args: argparse.Namespace, number: int) -> str:
    """The command that learns from what was stored."""
    words = f"samdpo_train {number} {args.stage} {args.fold} --annotator recorded{plans_option(args.p)}"
    words += f" -tr {args.tr}" if args.tr else ""
    words += " --database URL" if args.database else ""  # not the URL itself, which may hold a password
    return words + (f" --set {' '.join(args.set)}" if args.set else "")
