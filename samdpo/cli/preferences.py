"""``samdpo_preferences``: people's judgements as a file, from a file, and in numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samdpo.cli.common import parser, run_command
from samdpo.errors import ConfigurationError

_SHOWN = 64  # characters of a name, in the report
_MOST_PAIRS = 50  # of people, in the report


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_preferences``."""
    arguments = build_parser().parse_args(argv)
    run_command(lambda: _run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = parser(
        "The judgements of the people who ranked candidates: 'export' writes them to a file of JSON lines, 'import' "
        "adds those of such a file, 'report' prints counts, times and agreement."
    )
    result.add_argument("action", choices=("export", "import", "report"))
    result.add_argument("dataset", help="id or name")
    result.add_argument("file", type=Path, nargs="?", default=None, help="JSON lines, for export and import")
    result.add_argument("--database", metavar="URL", default=None,
                        help="instead of preferences.sqlite in the dataset's results")
    result.add_argument("--json", type=Path, metavar="FILE", default=None, help="also write the report as JSON")
    return result


def _run(args: argparse.Namespace) -> None:
    if (args.file is None) != (args.action == "report"):
        expected = "no FILE; --json FILE writes it" if args.action == "report" else "a FILE of JSON lines"
        raise ConfigurationError(f"samdpo_preferences {args.action} expects {expected}.")
    if args.json is not None and args.action != "report":
        raise ConfigurationError(f"--json belongs to report; samdpo_preferences {args.action} has no report to write.")
    from samdpo.annotate.database.database import PreferenceDatabase
    from samdpo.annotate.database.locate import database_url
    from samdpo.paths import dataset_name

    dataset = dataset_name(args.dataset)
    url = database_url(dataset, args.database)
    writes = args.action == "import"
    database = PreferenceDatabase.open(url, create=writes, only_read=not writes)
    try:
        {"export": _export, "import": _import, "report": _report}[args.action](database, dataset, args)
    finally:
        database.close()


def _export(database: Any, dataset: str, args: argparse.Namespace) -> None:
    from samdpo.annotate.database.exchange import export_jsonl

    sets = [one for one in database.candidate_sets() if one.dataset == dataset]
    count = export_jsonl(database, args.file, sets)
    print(f"Wrote {count} judgements of {len(sets)} candidate sets to {args.file}")


def _import(database: Any, dataset: str, args: argparse.Namespace) -> None:
    from samdpo.annotate.database.exchange import import_jsonl

    done = import_jsonl(database, args.file, dataset)
    print(f"Imported {done.new} judgements into {database.url}; {done.known} were there, {done.refused} left out")


def _report(database: Any, dataset: str, args: argparse.Namespace) -> None:
    from samdpo.annotate.report import report, write_report

    reports = report(database, dataset)
    if not reports:
        print(f"{database.url} has no candidates of {dataset}.")
    for one in reports:
        print_report(one)
    if args.json is not None:
        write_report(reports, args.json)
        print(f"Wrote {args.json}")


def print_report(one: dict[str, Any]) -> None:
    """One row a person, then what they agree on."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=escape(f"fold {one['fold']}, {one['stage']}: {one['judged_items']} of {one['items']} items judged "
                     f"(candidates {one['candidate_set']})"), title_justify="left",
    )
    columns = ("ranked", "accepted", "none acceptable", "skipped", "median s", "tau with virtual", "same best")
    for name in ("annotator", *columns):
        table.add_column(name, justify="left" if name == "annotator" else "right")
    for name, person in one["annotators"].items():
        table.add_row(
            Text(_shown(name)), str(person["ranked"]), str(person["accepted"]), str(person["none_acceptable"]),
            str(person["skipped"]), _text(person["median_seconds"], "{:.1f}"), _text(person["virtual_tau"]),
            _text(person["virtual_best"], "{:.0%}"),
        )
    console = Console()
    console.print(table)
    for pair in one["pairs"][:_MOST_PAIRS]:
        first, second = map(_shown, pair["annotators"])
        console.print(f"{first} and {second}: Kendall's tau {pair['tau']:.2f} over {pair['items']} items", markup=False)
    if len(one["pairs"]) > _MOST_PAIRS:
        console.print(f"… and {len(one['pairs']) - _MOST_PAIRS} more pairs; --json FILE writes them", markup=False)
    console.print(f"All: Kendall's tau {_text(one['tau'])}, Krippendorff's alpha {_text(one['alpha'])}", markup=False)


def _shown(name: str) -> str:
    """A name that an older version has let in may be anything."""
    short = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def _text(value: float | None, form: str = "{:.2f}") -> str:
    return "–" if value is None else form.format(value)


if __name__ == "__main__":
    main()
