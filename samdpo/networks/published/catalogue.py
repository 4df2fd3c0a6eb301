"""The published files: where each comes from, and what is known to check it by.

Sizes and sums are those that the publishers or several independent projects state. Where none is stated, a file is
checked by its structure: every name and shape in it must be the network's.
"""

from __future__ import annotations

from dataclasses import dataclass

from samdpo.errors import ConfigurationError

_SAM = "https://dl.fbaipublicfiles.com/segment_anything"


@dataclass(frozen=True)
class PublishedFile:
    """One file of published weights.

    Attributes:
        name: by which commands and backbones call it.
        file: its name as published.
        home: page that publishes it.
        url: direct download; empty where its home gives none that a program could use.
        size: bytes; 0 where it is not stated.
        digest: ``sha256:…`` or ``md5:…``; empty where none is stated.
        licence: of the weights.
        unused: beginnings of names in the file that the network has no use for.
    """

    name: str
    file: str
    home: str
    url: str = ""
    size: int = 0
    digest: str = ""
    licence: str = "Apache-2.0"
    unused: tuple[str, ...] = ()


# The six digits in the names of SAM's files are the beginning of their MD5.
_FILES = (
    PublishedFile(
        "sam_med2d_b",
        "sam-med2d_b.pth",
        "https://github.com/OpenGVLab/SAM-Med2D (table of results: the link 'SAM-Med2D' leads to Google Drive)",
    ),
    PublishedFile(
        "ft_sam_b",
        "ft-sam_b.pth",
        "https://github.com/OpenGVLab/SAM-Med2D (table of results: the link 'FT-SAM' leads to Google Drive)",
    ),
    PublishedFile(
        "sam_vit_b",
        "sam_vit_b_01ec64.pth",
        "https://github.com/facebookresearch/segment-anything",
        f"{_SAM}/sam_vit_b_01ec64.pth",
        375_042_383,
        "sha256:ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    PublishedFile(
        "sam_vit_l",
        "sam_vit_l_0b3195.pth",
        "https://github.com/facebookresearch/segment-anything",
        f"{_SAM}/sam_vit_l_0b3195.pth",
        1_249_524_607,
        "sha256:3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    PublishedFile(
        "sam_vit_h",
        "sam_vit_h_4b8939.pth",
        "https://github.com/facebookresearch/segment-anything",
        f"{_SAM}/sam_vit_h_4b8939.pth",
        2_564_550_879,
        "sha256:a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    PublishedFile(
        "medsam_vit_b",
        "medsam_vit_b.pth",
        "https://github.com/bowang-lab/MedSAM (Google Drive), and https://zenodo.org/records/10689643",
        "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        375_049_145,
        "md5:3bb6db55bd0c9ca30b61248bca72f8d6",
    ),
    PublishedFile(
        "mobile_sam",
        "mobile_sam.pt",
        "https://github.com/ChaoningZhang/MobileSAM",
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        40_728_226,
        "sha256:6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        unused=("image_encoder.norm_head.", "image_encoder.head."),  # of the classifier it was before
    ),
    PublishedFile(
        "sam_med3d_turbo",
        "sam_med3d_turbo.pth",
        "https://github.com/uni-medical/SAM-Med3D (section Checkpoint: the link behind 'SAM-Med3D-turbo')",
    ),
)
CATALOGUE = {published.name: published for published in _FILES}


def published_file(name: str) -> PublishedFile:
    """The published file of this name.

    Raises:
        ConfigurationError: there is none; the message lists the names.
    """
    if name not in CATALOGUE:
        raise ConfigurationError(f"There are no published weights {name!r}. Known: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]
