"""``samdpo_make_phantoms``: datasets of phantoms to try everything on, without anyone's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import log, parser, run_command

_KINDS = ("xray", "ultrasound", "ct")  # = samdpo.dataset.phantoms.KINDS, not imported: --help must be instant


def main(argv: Sequence[str] | None = None) -> None:
    """Console script."""
    arguments = parser(
        "Draw phantom datasets in nnU-Net's raw layout: chest-X-ray-like (lung), breast-ultrasound-like (tumour) and "
        "CT-like volumes (spleen, liver, kidneys, aorta). The same seed gives the same images.",
    )
    arguments.add_argument(
        "kinds", nargs="+", choices=_KINDS, metavar="KIND", help="one or more of xray, ultrasound, ct"
    )
    arguments.add_argument("-o", metavar="FOLDER", type=Path, help="write into this folder instead of nnUNet_raw")
    arguments.add_argument("-d", metavar="ID", type=int, default=901, help="dataset id; further kinds count on from it")
    arguments.add_argument("--labelled", metavar="N", type=int, default=24, help="images with label")
    arguments.add_argument("--unlabelled", metavar="N", type=int, default=0, help="images without label (imagesUl)")
    arguments.add_argument("--test", metavar="N", type=int, default=0, help="test images (imagesTs) with their truth")
    arguments.add_argument("--seed", metavar="S", type=int, default=0, help="seed of all random draws")
    arguments.add_argument(
        "--size",
        metavar="N",
        type=int,
        nargs="+",
        help="rows columns (ct: slices rows columns); default: the kind's own",
    )
    given = arguments.parse_args(argv)
    run_command(lambda: _make(given))


def _make(given) -> None:
    import shlex

    from samdpo import paths
    from samdpo.dataset.phantoms import make_phantom_dataset, phantom_kind
    from samdpo.errors import ConfigurationError, DatasetError

    if not 0 <= given.d <= 999 or given.d + len(given.kinds) > 1000:
        raise ConfigurationError(f"-d is {given.d}; dataset ids have three digits: choose one from 0 to 999.")
    if len(set(given.kinds)) < len(given.kinds):
        raise ConfigurationError(
            f"A kind is named twice: {' '.join(given.kinds)}. Name each once, or type two commands."
        )
    if given.seed < 0:
        raise ConfigurationError(f"--seed is {given.seed}; choose 0 or more.")
    root = given.o or paths.raw_root()
    datasets = {}
    for offset, kind in enumerate(given.kinds):
        number = given.d + offset
        folder = root / f"Dataset{number:03d}_{phantom_kind(kind).name}"
        others = [f.name for f in root.glob(f"Dataset{number:03d}_*") if f != folder]
        if others:
            raise ConfigurationError(f"{root} holds {others[0]} already. Choose another id with -d.")
        if folder.is_dir() and any(folder.iterdir()):
            raise DatasetError(
                f"{folder} exists and is not empty. Choose another id with -d, or delete that folder first."
            )
        datasets[kind] = (number, folder)
    for kind, (_, folder) in datasets.items():
        make_phantom_dataset(
            kind,
            folder,
            given.labelled,
            given.unlabelled,
            given.test,
            given.seed,
            tuple(given.size) if given.size else None,
            progress=True,
        )
        log.info("%s: %d labelled, %d unlabelled, %d test.", folder, given.labelled, given.unlabelled, given.test)
    if given.o:
        log.info("Point nnU-Net's variable there: export nnUNet_raw=%s", shlex.quote(str(root.resolve())))
    for number, _ in datasets.values():
        log.info("Next: samdpo_plan_and_preprocess -d %d --verify_dataset_integrity", number)


if __name__ == "__main__":
    main()
