"""BTCV (Landman et al. 2015), also called Synapse: abdominal CT with 13 structures, from Synapse's syn3193805."""

from __future__ import annotations

import re
from pathlib import Path

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.locate import find_files, warn_about_counts
from samdpo.dataset.converters.source import Member
from samdpo.errors import DatasetError

STRUCTURES = (  # ids 1 to 13, as in the data set; called as AMOS22's converter calls them, which has another order
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
)
PUBLISHED = {"training images": 30, "testing images": 20}
LAYOUT = (
    "RawData/Training/img/img0001.nii.gz and label/label0001.nii.gz, or averaged-training-images/DET0000101_avg.nii.gz "
    "and averaged-training-labels/DET0000101_avg_seg.nii.gz"
)
_FILE = re.compile(
    r"(?:(?P<kind>img|label)(?P<number>\d{4})|DET(?P<scan>\d{7})_avg(?P<truth>_seg)?)\.nii\.gz"
)
_TESTING = re.compile(r"(?:^|/)(?:averaged-)?test(?:ing)?(?:-images)?(?:/|$)", re.I)  # a folder of images alone


def btcv(source: Path, unlabelled: bool = False) -> Conversion:
    """What becomes of BTCV: Training for training, Testing, whose labels were kept back, for testing.

    Args:
        source: ``RawData`` or the folders ``averaged-…``, a folder above, or their zips.
        unlabelled: whether the testing images become imagesUl instead of imagesTs.

    Raises:
        DatasetError: another folder, both releases at once, an image without label.
    """
    images: dict[str, Member] = {}
    labels: dict[str, Member] = {}
    for member, match in find_files(source, _FILE, "BTCV", LAYOUT):
        case = f"btcv_{match['number']}" if match["number"] else f"btcv_DET{match['scan']}"
        to = labels if match["kind"] == "label" or match["truth"] else images
        other = to.setdefault(case, member)
        if other is not member:
            raise DatasetError(f"{other} and {member} have the same name. Name the folder of one of them.")
    averaged = {case for case in (*images, *labels) if case.startswith("btcv_DET")}
    if averaged and len(averaged) < len({*images, *labels}):
        raise DatasetError(
            f"{source} holds two releases of BTCV, RawData (img0001.nii.gz) and the averaged images "
            "(DET0000101_avg.nii.gz), which show the same patients. Name the folder of one of them."
        )
    testing = {case for case, member in images.items() if case not in labels and _TESTING.search(member.folder)}
    bare = sorted(images.keys() - labels.keys() - testing)
    alone = sorted(labels.keys() - images.keys())
    if bare or alone or not labels:
        parts = [f"{len(bare)} image(s) without a label, for example {images[bare[0]]}"] if bare else []
        parts += [f"{len(alone)} label(s) without an image, for example {labels[alone[0]]}"] if alone else []
        raise DatasetError(
            f"{source} holds {' and '.join(parts) or 'no label'}. Expected: {LAYOUT}. Download it again or add what is "
            "missing."
        )
    if not averaged:
        warn_about_counts(str(source), dict(zip(PUBLISHED, (len(labels), len(testing)))), PUBLISHED)
    tasks: list[Task] = []
    for case in sorted(labels):
        tasks.append(Task((images[case],), (f"imagesTr/{case}_0000.nii.gz",)))
        tasks.append(Task((labels[case],), (f"labelsTr/{case}.nii.gz",)))
    folder = "imagesUl" if unlabelled else "imagesTs"
    tasks += [Task((images[case],), (f"{folder}/{case}_0000.nii.gz",)) for case in sorted(testing)]
    return Conversion(
        command="samdpo_convert_btcv",
        name="BTCV",
        settings={"release": "averaged" if averaged else "RawData", "unlabelled": unlabelled},
        channel_names={"0": "CT"},
        labels={"background": 0, **{name: value for value, name in enumerate(STRUCTURES, 1)}},
        hints={name: hint(name, f"{name} in an abdominal CT", components=1, may_be_absent=True) for name in STRUCTURES},
        file_ending=".nii.gz",
        tasks=tasks,
        information={
            "description": "BTCV, multi-atlas labelling beyond the cranial vault: abdominal CT with 13 structures",
            "reference": "Landman et al. 2015, https://www.synapse.org/Synapse:syn3193805",
        },
    )
