"""``samdpo_convert_*``: published data sets and folders of one's own into nnU-Net's raw layout."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_processes, parser, run_command

# Ids that none of nnU-Net's own conversions has; the names are not imported, since --help must be instant.
_COVID_QU_EX, _BUSI, _AMOS, _ACDC, _BTCV, _CHEST_XRAY = 201, 202, 203, 204, 205, 206
_MODALITIES = ("ct", "mr", "all")  # = samdpo.dataset.converters.amos.MODALITIES
_SPLITS = ("ssl4mis", "official")  # = samdpo.dataset.converters.acdc.SPLITS
_HOSPITALS = ("montgomery", "shenzhen", "jsrt")  # = samdpo.dataset.converters.chest_xray.HOSPITALS
_AS_IT_LIES = "The download as it lies on the disk: unpacked, a folder above it, or the archive. Stop and run again " \
    "as you like: what is written is kept."


def main_acdc(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_acdc``."""
    arguments = _parser(
        "ACDC (cardiac MR, 3 structures)", "the release, its folder or zip, or SSL4MIS's folder ACDC", _ACDC
    )
    arguments.add_argument(
        "--split", choices=_SPLITS, default="ssl4mis",
        help="ssl4mis: 70 patients for training, 10 for validation, 20 for testing, and files for --splits that say "
        "which are labelled; official: the release's two parts",
    )
    given = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.acdc import acdc

        _run(acdc(given.source, given.split), given.d, given.np)

    run_command(body)


def main_amos(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_amos``."""
    arguments = _parser("AMOS22 (abdominal CT and MR, 15 structures)", "amos22 or amos22.zip", _AMOS)
    arguments.add_argument("--modality", choices=_MODALITIES, default="ct", help="which images")
    arguments.add_argument(
        "--unlabelled", action="store_true", help="put the official test images, which have no labels, into imagesUl"
    )
    given = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.amos import amos

        _run(amos(given.source, given.modality, given.unlabelled), given.d, given.np)

    run_command(body)


def main_btcv(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_btcv``."""
    arguments = _parser(
        "BTCV, also called Synapse (abdominal CT, 13 structures)", "RawData, the averaged images and labels, or zips",
        _BTCV,
    )
    arguments.add_argument(
        "--unlabelled", action="store_true", help="put the testing images, which have no labels, into imagesUl"
    )
    given = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.btcv import btcv

        _run(btcv(given.source, given.unlabelled), given.d, given.np)

    run_command(body)


def main_busi(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_busi``."""
    arguments = _parser("BUSI (breast ultrasound, tumours)", "Dataset_BUSI_with_GT or its zip", _BUSI)
    arguments.add_argument(
        "--udiat", metavar="FOLDER", type=Path, default=None, help="add UDIAT (Dataset B): folder with original and GT"
    )
    arguments.add_argument("--without_normal", action="store_true", help="leave out the images without a tumour")
    given = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.busi import busi

        _run(busi(given.source, given.udiat, not given.without_normal), given.d, given.np)

    run_command(body)


def main_chest_xray(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_chest_xray``."""
    arguments = _parser(
        "chest X-rays of Montgomery, Shenzhen and JSRT (lungs)", "folder of their downloads, one or more", _CHEST_XRAY
    )
    arguments.add_argument(
        "--hospitals", nargs="+", choices=_HOSPITALS, default=[], help="only these; default: all that are found"
    )
    arguments.add_argument(
        "--unlabelled", action="store_true", help="put Shenzhen's images that have no mask into imagesUl"
    )
    given = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.chest_xray import chest_xray

        _run(chest_xray(given.source, given.hospitals, given.unlabelled), given.d, given.np)

    run_command(body)


def main_covid_qu_ex(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_covid_qu_ex``."""
    given = _parser(
        "COVID-QU-Ex (chest X-ray, lungs)", "the folder 'Lung Segmentation Data', one above it, or Kaggle's zip",
        _COVID_QU_EX,
    ).parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.covid_qu_ex import covid_qu_ex

        _run(covid_qu_ex(given.source), given.d, given.np)

    run_command(body)


def main_msd(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_msd``."""
    given = _parser(
        "a task of the Medical Segmentation Decathlon", "TaskXX_Name or TaskXX_Name.tar", None
    ).parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.msd import msd
        from samdpo.errors import ConfigurationError

        conversion, number = msd(given.source)
        identifier = number if given.d is None else given.d
        if identifier is None:
            raise ConfigurationError(f"{given.source} does not tell the task's number. Choose an id with -d.")
        _run(conversion, identifier, given.np)

    run_command(body)


def main_folder(argv: Sequence[str] | None = None) -> None:
    """``samdpo_convert_folder``."""
    arguments = parser(
        "Write a folder of images and a folder of masks as a raw dataset. Image and mask have the same name, or the "
        "mask ends with _mask, _label or _seg. A mask of 0 and 255 becomes 0 and 1. Formats may be mixed; JPEG is read "
        "for images, and for masks with --threshold. All masks are read before anything is written."
    )
    arguments.add_argument("images", metavar="IMAGES", type=Path, help="folder of images")
    arguments.add_argument("masks", metavar="MASKS", type=Path, help="folder of their masks, or the same folder")
    arguments.add_argument("-n", metavar="NAME", required=True, help="name of the dataset, such as ChestXray")
    arguments.add_argument("-d", metavar="ID", type=int, required=True, help="dataset id, 0 to 999")
    arguments.add_argument(
        "--labels", metavar="NAME", nargs="+", default=["background", "foreground"],
        help="names of the masks' values 0, 1, …; background first",
    )
    arguments.add_argument(
        "--threshold", metavar="N", type=float, default=None,
        help="grey masks of one structure, such as smoothed ones: values above N are foreground",
    )
    arguments.add_argument(
        "--colours", metavar="NAME=R,G,B", nargs="+", default=[],
        help="masks drawn in colours: which colour is which structure; black is background. In place of --labels",
    )
    arguments.add_argument(
        "--structures", metavar="NAME=WHERE", nargs="+", default=[],
        help="masks that show one structure a file: the folder of each, or what its files' names end with (lung=_lung);"
        " where two overlap the later one is taken. In place of --labels",
    )
    arguments.add_argument(
        "--channel", metavar="NAME", default=None,
        help="what the images show: X-ray, ultrasound, CT, MR …; decides the normalisation",
    )
    arguments.add_argument("--unlabelled", metavar="FOLDER", type=Path, help="images without masks, for imagesUl")
    arguments.add_argument("--test", metavar="FOLDER", type=Path, help="test images, for imagesTs")
    arguments.add_argument("--test_masks", metavar="FOLDER", type=Path, help="their masks, for labelsTs")
    add_processes(arguments)
    given = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.dataset.converters.folder import own_folder

        conversion = own_folder(
            given.images, given.masks, given.n, labels=given.labels, channel=given.channel,
            unlabelled=given.unlabelled, test=given.test, test_masks=given.test_masks, processes=given.np,
            threshold=given.threshold, colours=given.colours, structures=given.structures,
        )
        _run(conversion, given.d, given.np)

    run_command(body)


def _parser(what: str, source: str, identifier: int | None) -> argparse.ArgumentParser:
    result = parser(f"Write {what} as a raw dataset. {_AS_IT_LIES}")
    result.add_argument("source", metavar="SOURCE", type=Path, help=source)
    which = "dataset id; None is the task's number" if identifier is None else "dataset id, 0 to 999"
    result.add_argument("-d", metavar="ID", type=int, default=identifier, help=which)
    add_processes(result)
    return result


def _run(conversion, identifier: int, processes: int) -> None:
    from samdpo.dataset.converters.conversion import run_conversion

    run_conversion(conversion, identifier, processes)
