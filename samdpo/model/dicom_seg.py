"""A prediction as a DICOM segmentation (SEG), which archives and viewers show on the images it was made from.

Structures are named by coded terms: SNOMED CT where the name is known.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import samdpo
from samdpo.dataset.dicom import slices_of
from samdpo.errors import DatasetError
from samdpo.files import atomic_path, hash_of
from samdpo.plans import StructurePlan

if TYPE_CHECKING:
    import highdicom
    import pydicom
    from pydicom.sr.coding import Code

# Far from a scanner's own numbers, so that viewers list the result after the images.
_SERIES_NUMBER = 9000
# The standard wants these, though empty where unknown; tools that remove names often remove them altogether.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)
_PRIVATE = "99SAMDPO"  # the standard's form for schemes of one's own: 99 and a name
# Names of published data sets (AMOS, BUSI, MSD) that are no terms of the standard's lists.
_SYNONYMS = {
    "tumor": "neoplasm", "tumour": "neoplasm", "cancer": "neoplasm", "metastasis": "neoplasmsecondary",
    "nodules": "nodule", "lungs": "lung", "kidneys": "kidney", "postcava": "inferiorvenacava",
    "oesophagus": "esophagus", "urinarybladder": "bladder",
}


def write_dicom_seg(
    segmentation: np.ndarray, sources: Sequence[Path | str], structures: dict[str, StructurePlan], path: Path
) -> Path:
    """Write a BINARY segmentation that refers to the series' images.

    Every structure the model knows is described, as segment 1, 2, … in the order of their labels, so that a segment's
    number means the same in every case. Only frames that show something are written; a structure that was not found is
    a segment without frames. Where nothing at all was found, each segment has one empty frame, on the first slice:
    the standard wants at least one.

    Args:
        segmentation: (Z, Y, X) label ids.
        sources: the files of the slices, in the order of Z.
        structures: of the plan.
        path: ending in .dcm.

    Raises:
        DatasetError: the images lack what a segmentation must repeat.
    """
    result = _build(segmentation, sources, structures)
    with atomic_path(path) as temporary:
        result.save_as(temporary)
    return path


def check_dicom_seg(series: Sequence[Path], structures: dict[str, StructurePlan]) -> None:
    """Build an empty segmentation on one slice of each series, so that what is missing is known before predicting.

    Raises:
        DatasetError: a sentence for each series that no segmentation can refer to.
    """
    problems = []
    for path in series:
        try:
            first = slices_of(path)[0]
            _build(np.zeros((1, *first.size), np.int16), [first.file], structures)
        except DatasetError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError("\n".join(problems[:20]))


def _build(
    segmentation: np.ndarray, sources: Sequence[Path | str], structures: dict[str, StructurePlan]
) -> highdicom.seg.Segmentation:
    import highdicom as hd
    import pydicom

    ordered = sorted(structures, key=lambda name: structures[name].label)
    labels = [structures[name].label for name in ordered]
    numbers = np.zeros(max(labels) + 1, np.uint8 if len(labels) < 256 else np.uint16)
    numbers[labels] = np.arange(1, len(labels) + 1)
    mask = numbers[segmentation]
    found = bool(mask.any())
    used = len(sources) if found else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values of the source images that break the standard harmlessly
        try:
            images = [pydicom.dcmread(file, stop_before_pixels=True) for file in sources]
            _complete(images)
            return hd.seg.Segmentation(
                source_images=images[:used],
                further_source_images=images[used:] or None,
                pixel_array=mask[:used],
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[
                    _describe(number, name, structures[name].label) for number, name in enumerate(ordered, start=1)
                ],
                series_instance_uid=hd.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="samdpo",
                manufacturer_model_name="samdpo",
                software_versions=samdpo.__version__,
                device_serial_number="none",  # a program has none; the standard wants one
                series_description="samdpo segmentation",
                content_description="Predicted by samdpo; not checked by a person",
                omit_empty_frames=found,
                specific_character_set="ISO_IR 192",  # UTF-8: structures have any name, and so have patients
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"No DICOM segmentation can refer to {sources[0]}, which lacks or breaks what it must repeat: {error} "
                "Use the images as they left the scanner, or leave --dicom_seg out."
            ) from error


def _complete(images: list[pydicom.Dataset]) -> None:
    """Fill in, in memory, what highdicom copies and the images may lack."""
    for image in images:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in image:
                setattr(image, keyword, "")
    if images[0].get("SliceThickness") is None and "PixelSpacing" in images[0]:
        # Readers want both or neither. X-rays have no thickness: 1 mm, as SimpleITK takes it.
        two = [np.array(image.ImagePositionPatient, float) for image in images[:2] if "ImagePositionPatient" in image]
        images[0].SliceThickness = f"{np.linalg.norm(two[1] - two[0]):.8g}" if len(two) > 1 else "1"


def _describe(number: int, name: str, label: int) -> highdicom.seg.SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    category, kind, side = codes_of(name)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],  # DICOM's length of a label
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="samdpo", family=codes.DCM.ArtificialIntelligence, version=samdpo.__version__
        ),
    )
    description.SegmentDescription = f"label {label} of dataset.json"
    if side is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            hd.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
        ]
    return description


def codes_of(structure: str) -> tuple[Code, Code, Code | None]:
    """(category, type, side) of a structure by its name in dataset.json.

    ``liver`` is looked up in the standard's list of anatomical structures (CID 7192), ``breast tumor`` by its last word
    in that of abnormal ones (CID 7159); ``left_kidney`` is a kidney with a side. What is in neither gets a code of the
    scheme 99SAMDPO, with the name as its meaning.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    words = re.findall(r"[a-z]+", structure.lower())
    sides = {"left": codes.SCT.Left, "right": codes.SCT.Right}
    side = next((sides[w] for w in words if w in sides), None)
    words = [w for w in words if w not in sides]
    for key, category in ((_term("".join(words)), codes.SCT.AnatomicalStructure),
                          (_term("".join(words[-1:])), codes.SCT.MorphologicallyAbnormalStructure)):
        known = _terms(7192) if category == codes.SCT.AnatomicalStructure else _terms(7159)
        if key in known:
            return category, known[key], side
    meaning = structure[:64]  # DICOM's length of a meaning
    return codes.SCT.AnatomicalStructure, Code(hash_of(structure.lower()), _PRIVATE, meaning), None


def _term(words: str) -> str:
    return _SYNONYMS.get(words, words)


@cache
def _terms(context_group: int) -> dict[str, Code]:
    from pydicom.sr.codedict import codes

    group = getattr(codes, f"cid{context_group}")
    return {keyword.lower(): getattr(group, keyword) for keyword in group.dir()}
