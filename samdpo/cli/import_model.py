"""``samdpo_import_model FILE.zip``: the models of a zip of ``samdpo_export_model`` into nnUNet_results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import log, parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_import_model``."""
    arguments = parser(
        "Unpack the models of a zip that samdpo_export_model wrote into nnUNet_results. Every file is checked first: "
        "of a zip that is damaged, or holds anything but the data of models, nothing is kept.",
    )
    arguments.add_argument("file", metavar="FILE", type=Path, help="the zip")
    arguments.add_argument("--overwrite", action="store_true", help="replace models of the same names, all their folds")
    args = arguments.parse_args(argv)
    run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    from samdpo.selection.model_zip import import_model, prediction_command

    models = import_model(args.file, args.overwrite)
    for model in models:
        log.info("%s is there now.", model)
    log.info("Next: %s", "\n      ".join(map(prediction_command, models)))
