"""``samdpo_export_model -o FILE``: a trained model as one file, for samdpo elsewhere or for programs that know SAM."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import log, parser, run_command
from samdpo.errors import ConfigurationError


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_export_model``."""
    arguments = parser(
        "Write trained models into one file. As a zip they are for samdpo_import_model on another machine; as sam the "
        "network of one fold is written under SAM's names, for programs that take a person's prompts.",
    )
    arguments.add_argument("-o", type=Path, required=True, metavar="FILE", help="file.zip; of sam file.pth or "
                           "file.safetensors")
    arguments.add_argument("-m", type=Path, nargs="+", default=None, metavar="FOLDER", help="model folders")
    arguments.add_argument("-d", default=None, metavar="DATASET", help="dataset id or name, instead of -m")
    arguments.add_argument("-tr", default=None, help="trainer")
    arguments.add_argument("-p", default=None, help="plan")
    arguments.add_argument("-c", nargs="+", default=None, metavar="STAGE", help="stages; default: the latest")
    arguments.add_argument("-f", nargs="+", default=None, metavar="FOLD", help="folds; default: those trained")
    arguments.add_argument("--format", choices=("zip", "sam"), default="zip", help="what is written")
    args = arguments.parse_args(argv)
    run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    flags = {"-d": args.d, "-p": args.p, "-c": args.c}
    if args.m and any(flags.values()):
        raise ConfigurationError(f"-m names the models, so {' and '.join(f for f, v in flags.items() if v)} would do "
                                 "nothing. Leave one of them out.")
    from samdpo.model.folder import find_model

    models = args.m or [find_model(args.d, args.tr, args.p, stage) for stage in args.c or [None]]
    if args.format == "zip":
        from samdpo.selection.model_zip import export_model

        names = export_model(models, args.o, args.f)
        log.info("%d files of %s are in %s", len(names), ", ".join(model.name for model in models), args.o)
        log.info("On the other machine: samdpo_import_model %s", args.o.name)
    else:
        for sentence in _write_sam(models, args.f, args.o, args.tr):
            log.info("%s", sentence)


def _write_sam(models: list[Path], folds: list[str] | None, file: Path, trainer: str | None) -> list[str]:
    from samdpo.model.description import FINAL
    from samdpo.model.folder import load_fold, read_plans, trained_folds
    from samdpo.networks.published.writing import write_sam

    folds = folds or (trained_folds(models[0], FINAL) if len(models) == 1 else None)
    if folds is None or len(folds) != 1:
        raise ConfigurationError("--format sam writes one network. Name one model with -m or -d, and one of its folds "
                                 "with -f.")
    found = load_fold(models[0], folds[0], read_plans(models[0], folds), FINAL, trainer=trainer)
    return [f"Fold {folds[0]} of {models[0].name} is in {file}.", *write_sam(found.network, file)]
