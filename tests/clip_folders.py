"""Image-text models with random weights in the layout of open_clip's published ones: BiomedCLIP's, and a tiny one.

Their parts are put together by hand from timm's and transformers' modules, so that what the package loads has
something to be compared with.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = ("lung", "heart", "left", "right", "the", "is", "round", "liver", "tumor", "breast", "disc", "image", "of", ".")


@dataclass(frozen=True)
class ClipParts:
    """A CLIP of timm's ViT and transformers' BERT that knows nothing of open_clip."""

    trunk: nn.Module
    head: nn.Linear
    bert: nn.Module
    text_head: nn.Sequential
    logit_scale: torch.Tensor

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Names as published, the buffer that transformers no longer has included."""
        parts = {"visual.trunk": self.trunk, "visual.head.proj": self.head, "text.transformer": self.bert,
                 "text.proj": self.text_head}
        state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        context = self.bert.config.max_position_embeddings
        state["text.transformer.embeddings.position_ids"] = torch.arange(context)[None]
        return {**state, "logit_scale": self.logit_scale}

    @torch.no_grad()
    def embed_images(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalised inputs (B, 3, h, w) -> unit embeddings (B, D)."""
        return nn.functional.normalize(self.head(self.trunk.forward_features(inputs)[:, 0]), dim=-1)

    @torch.no_grad()
    def embed_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, N), 0 where padded -> unit embeddings (B, D)."""
        hidden = self.bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        return nn.functional.normalize(self.text_head(hidden[:, 0]), dim=-1)


def make_parts(size: str, seed: int = 0) -> ClipParts:
    """``biomedclip``: 196 million parameters, 351 tensors. ``tiny``: half a million, images of 160 pixels."""
    import timm
    from transformers import BertConfig, BertModel

    vit, width, embed_dim = ("vit_base_patch16_224", 768, 512) if size == "biomedclip" else ("test_vit", 64, 48)
    config = BertConfig() if size == "biomedclip" else BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = timm.create_model(vit, pretrained=False, num_classes=0)
        bert = BertModel(config, add_pooling_layer=False)
        middle = (config.hidden_size + embed_dim) // 2
        text_head = nn.Sequential(
            nn.Linear(config.hidden_size, middle, bias=False), nn.GELU(), nn.Linear(middle, embed_dim, bias=False)
        )
        for part, gain in ((trunk, 0.5), (bert, 3.0)):  # their own weights are so small that all inputs look alike
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=gain * parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.05)
        head = nn.Linear(width, embed_dim, bias=False)
    return ClipParts(trunk.eval(), head, bert.eval(), text_head, torch.tensor(4.4427))  # exp is 85


def write_clip(folder: Path, size: str = "tiny", seed: int = 0, **text_cfg: Any) -> ClipParts:
    """Write a model's folder: configuration, weights (safetensors), tokenizer, text tower's configuration.

    Args:
        folder: made where missing.
        size: see :func:`make_parts`.
        seed: of the weights.
        text_cfg: replaces keys of the text tower's part of the configuration.
    """
    from safetensors.torch import save_file

    parts = make_parts(size, seed)
    folder.mkdir(parents=True, exist_ok=True)
    tower = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract" if size == "biomedclip" else "nobody/tiny-bert"
    model_cfg = {
        "embed_dim": parts.head.out_features,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224" if size == "biomedclip" else "test_vit",
            "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
            "image_size": 224 if size == "biomedclip" else 160,
        },
        "text_cfg": {
            "hf_model_name": tower, "hf_tokenizer_name": tower, "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256 if size == "biomedclip" else 32,
            **text_cfg,
        },
    }
    preprocess_cfg = {  # OpenAI's
        "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
    }
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in parts.state_dict().items()}, folder / "open_clip_model.safetensors")
    write_tokenizer(folder)
    if size != "biomedclip":  # whose repository does not hold it
        parts.bert.config.save_pretrained(folder)
    return parts


def write_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer of a few words and of all letters."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *string.ascii_lowercase,
              *(f"##{letter}" for letter in string.ascii_lowercase)]
    tokenizer = BertWordPieceTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
