"""``samdpo_annotate DATASET FOLD``: the page on which people rank candidates."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import log, parser, run_command
from samdpo.errors import ConfigurationError
from samdpo.paths import PLANS_NAME, number_of, plans_option


def arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = parser(
        "Make candidates for the unlabelled images of a fold with its finetuned model, where they are missing, and "
        "start a page on which people rank them in a browser. Ctrl-C ends it.",
        "Then: samdpo_train DATASET align FOLD --annotator recorded",
    )
    command.add_argument("dataset", help="id or name")
    command.add_argument("fold", help="0 to 4, or all")
    command.add_argument("--mode", choices=("ranking", "rating", "best"), default=None,
                         help="order the candidates, give each 1 to 4 stars, or choose the best; default: the plan's")
    command.add_argument("--stage", default="align", help="configuration of the plan that will learn from it")
    command.add_argument("-tr", default=None, help="trainer: a class name, module:Class, or an entry point")
    command.add_argument("-p", default=PLANS_NAME, help="plan")
    command.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
                         help="any key of the plan, for example candidates.kind=hypotheses")
    command.add_argument("--max_slices", type=int, default=None, metavar="N",
                         help="ask about the N slices whose candidates differ most")
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
    from samdpo.annotate.database.handing_out import OverlapRule
    from samdpo.annotate.database.locate import database_url
    from samdpo.annotate.page.settings import PageSettings, check_address, check_reachable, names_of
    from samdpo.annotate.page.start import Reception, run_page
    from samdpo.annotate.page.tokens import make_tokens
    from samdpo.paths import dataset_name, preprocessed_folder
    from samdpo.plans import load_plans

    dataset = dataset_name(args.dataset)
    plans = load_plans(preprocessed_folder(dataset) / f"{args.p}.json").with_overrides(args.stage, args.set)
    address, tokens = check_address(args.address), make_tokens(args.token, args.users)
    check_reachable(args.host, address, tokens)
    settings = PageSettings(
        mode=args.mode or plans.stage(args.stage).annotator.scoring,
        overlap=OverlapRule(args.overlap, args.overlap_people),
        lease_seconds=args.lease,
        host_names=names_of(args.host, address),
        address=address,
        next_command=training_command(args, number_of(dataset)),
    )
    reception = Reception.prepare(database_url(dataset, args.database), args.host, args.port, tokens)

    from samdpo.align.candidate_set import make_candidate_set

    stored = make_candidate_set(dataset, args.fold, args.stage, args.tr, args.p, args.device, args.set)
    log.info("%s", run_page(reception, stored, settings, args.max_slices, not args.no_browser, args.device))
    log.info("Next: %s", settings.next_command)


def training_command(args: argparse.Namespace, number: int) -> str:
    """The command that learns from what was stored."""
    words = f"samdpo_train {number} {args.stage} {args.fold} --annotator recorded{plans_option(args.p)}"
    words += f" -tr {args.tr}" if args.tr else ""
    words += " --database URL" if args.database else ""  # not the URL itself, which may hold a password
    return words + (f" --set {' '.join(args.set)}" if args.set else "")
