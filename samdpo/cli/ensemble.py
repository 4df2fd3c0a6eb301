"""``samdpo_ensemble -i FOLDER FOLDER … -o OUT``: average several models' predictions of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_processes, parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_ensemble``."""
    arguments = parser(
        "Average the probabilities that samdpo_predict --save_probabilities wrote for several models, and write masks "
        "and reports as samdpo_predict does. Folds of one model are averaged by samdpo_predict itself."
    )
    arguments.add_argument("-i", type=Path, nargs="+", required=True, metavar="FOLDER",
                           help="folders of predictions of the same images")
    arguments.add_argument("-o", type=Path, required=True, help="folder for masks and reports")
    arguments.add_argument("--npz", "--save_npz", action="store_true", help="also write the averaged probabilities")
    add_processes(arguments)
    args = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.selection.ensemble import ensemble_folders

        ensemble_folders(args.i, args.o, args.npz, args.np)

    run_command(body)
