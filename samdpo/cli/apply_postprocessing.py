"""``samdpo_apply_postprocessing -i IN -o OUT -pp_file FILE``: keep largest parts where that helped on validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_processes, parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_apply_postprocessing``."""
    arguments = parser(
        "Remove all but the largest part of the structures for which that raised the Dice of the validation cases, as "
        "samdpo_find_best_configuration found out."
    )
    arguments.add_argument("-i", type=Path, required=True, help="folder of masks")
    arguments.add_argument("-o", type=Path, required=True, help="folder for the cleaned masks")
    arguments.add_argument("-pp_file", type=Path, required=True, help="the postprocessing.json that was written")
    add_processes(arguments)
    args = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.selection.postprocessing import apply_postprocessing

        apply_postprocessing(args.i, args.o, args.pp_file, args.np)

    run_command(body)
