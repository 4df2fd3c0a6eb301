"""COVID-QU-Ex (Tahir et al. 2021): chest X-rays of three classes with lung masks, from Kaggle."""

from __future__ import annotations

import re
from pathlib import Path

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.locate import Download, find_download, pairs, warn_about_counts
from samdpo.dataset.converters.picture_files import write_binary_mask, write_grey_picture

CLASSES = {"COVID-19": "covid19", "Non-COVID": "noncovid", "Normal": "normal"}  # folder -> part of the case's name
PARTS = {"Train": "Tr", "Val": "Tr", "Test": "Ts"}
PUBLISHED = {"images": 33920, "Train and Val": 27132}
LAYOUT = "Lung Segmentation Data/{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/{images,lung masks}"


def covid_qu_ex(source: Path) -> Conversion:
    """What becomes of the part "Lung Segmentation Data": Train and Val for training, Test for testing.

    Args:
        source: the folder "Lung Segmentation Data", a folder above it, or Kaggle's zip.

    Raises:
        DatasetError: another folder, an image without mask.
    """
    download = find_download(source, "COVID-QU-Ex's lung segmentation data", ("Train", "Test"), LAYOUT, _is_lung_part)
    tasks: list[Task] = []
    counts = {"images": 0, "Train and Val": 0}
    for part, to in PARTS.items():
        for kind, short in CLASSES.items():
            place = f"{part}/{kind}"
            images = download.files(f"{place}/images")
            counts["images"] += len(images)
            counts["Train and Val"] += len(images) if to == "Tr" else 0
            for image, mask in pairs(images, download.files(f"{place}/lung masks"), f"{download}/{place}"):
                # Part and class keep names apart, and show the official split of Train and Val.
                case = f"{part.lower()}_{short}_{_plain(image.name)}"
                tasks.append(Task((image,), (f"images{to}/{case}_0000.png",), write_grey_picture))
                tasks.append(Task((mask,), (f"labels{to}/{case}.png",), write_binary_mask))
    warn_about_counts(str(download), counts, PUBLISHED)
    return Conversion(
        command="samdpo_convert_covid_qu_ex",
        name="COVIDQUEx",
        settings={},
        channel_names={"0": "X-ray"},
        labels={"background": 0, "lung": 1},
        hints={"lung": hint("lungs", "lungs in a chest X-ray", components=2, may_be_absent=False, plural=True)},
        file_ending=".png",
        tasks=tasks,
        information={
            "description": "COVID-QU-Ex, lung segmentation: chest X-rays with COVID-19, other infections, or neither",
            "reference": "Tahir et al. 2021, doi:10.1016/j.compbiomed.2021.105002",
        },
    )


def _is_lung_part(download: Download) -> bool:
    """The other part, "Infection Segmentation Data", has the same folders and infection masks beside."""
    folders = {member.folder.rpartition("/")[2] for member in download.members.values()}
    return "lung masks" in folders and "infection masks" not in folders


def _plain(name: str) -> str:
    """``non_COVID (12).png`` -> ``non_COVID_12``."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name.rpartition(".")[0]).strip("_")
