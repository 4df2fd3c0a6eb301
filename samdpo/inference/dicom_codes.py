"""The coded terms that a DICOM segmentation names its structures by (SNOMED CT where the name is known)."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from samdpo.files import hash_of

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

_PRIVATE = "99SAMDPO"  # the standard's form for schemes of one's own: 99 and a name
# Names of published data sets (AMOS, BUSI, MSD) that are no terms of the standard's lists.
_SYNONYMS = {
    "tumor": "neoplasm", "tumour": "neoplasm", "cancer": "neoplasm", "metastasis": "neoplasmsecondary",
    "nodules": "nodule", "lungs": "lung", "kidneys": "kidney", "postcava": "inferiorvenacava",
    "oesophagus": "esophagus", "urinarybladder": "bladder",
}


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
