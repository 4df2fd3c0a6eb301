"""MedVInT-TD (Zhang et al. 2023, PMC-VQA), the vision-language model of the paper (Sec. 3.1).

What an image shows becomes 32 tokens before a LLaMA's question. The published checkpoint is read without executing
anything. Its layout is that of ``VQA_lora_PMC_LLaMA_PMCCLIP/{blank,choice}/checkpoint-*/pytorch_model.bin``, as the
authors' code makes it: ``vision_model.*``, ``query_embed.weight``, ``decoder.*``, ``fc_l1.*``, ``fc_l2.*``, and the
LLaMA with its LoRA under ``llamacasual.base_model.model.*``. PEFT has renamed its parts over time; all of its
spellings are read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from samdpo.errors import ConfigurationError
from samdpo.networks.device import resolve_device, saying_what_to_make_smaller
from samdpo.networks.precision import has_bf16
from samdpo.prompting.wording import one_line

if TYPE_CHECKING:
    from transformers import LlamaConfig

log = logging.getLogger(__name__)

PROMPT = "Question: {question} The Answer is:"  # as it was trained
_SIDE = 512
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_PAD, _ENDS = 0, (1, 2)  # trained to end with LLaMA's token 1; 2 is LLaMA's own end
_HEAD_DIM = 128  # of every LLaMA of the first generation
_HEADS = 8  # of the query decoder; its weights do not tell
_DROPPED = 2  # last parts of PMC-CLIP's tower: its fourth stage and its attention pooling
_EXPANSION = 4  # of a bottleneck's channels
FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
PUBLISHED = "The repository xiaoman-zhang/PMC-VQA on GitHub"
_ALPHA = 32  # LoRA's scale over its rank; the weights do not tell
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight")
_PEFT = re.compile(r"^llamacasual\.base_model\.model\.")
_FREQUENCIES = "rotary_emb.inv_freq"  # transformers once saved what the LLaMA computes by itself


class MedVInT:
    """MedVInT-TD, resident; greedy answers.

    Args:
        folder: with ``pytorch_model.bin`` and LLaMA's tokenizer, here or in ``tokenizer/``. A ``config.json`` of LLaMA
            is read where there is one; else the sizes are those of the weights.
        device: ``auto`` is a GPU where there is one.
        max_new_tokens: longest answer.

    Raises:
        ConfigurationError: a file is missing, cannot be read, or holds other weights.
    """

    def __init__(self, folder: Path | str, device: torch.device | str = "auto", max_new_tokens: int = 50) -> None:
        folder = Path(folder).expanduser()
        self.device, self.max_new_tokens = resolve_device(device), max_new_tokens
        checkpoint = find_checkpoint(folder)
        self.tokenizer = _tokenizer(folder)  # before 14 GB are read
        self.network = build(read_checkpoint(checkpoint), folder)
        self.network.llamacasual.to(_precision(self.device, self.network.llamacasual.dtype))
        self.network.to(self.device)
        log.info("MedVInT-TD answers the structures' questions, on %s.", self.device)

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One answer for each pair of RGB image and question, in one batch.

        Raises:
            OutOfMemoryError: the batch does not fit into the device's memory.
        """
        pixels = torch.stack([_pixels(image) for image in images]).to(self.device)
        prompts = [self.tokenizer(PROMPT.format(question=question))["input_ids"] for question in questions]
        ids = [torch.tensor(prompt, device=self.device) for prompt in prompts]
        with saying_what_to_make_smaller(
            f"with {len(images)} questions to MedVInT-TD at once",
            "Lower 'prompting.vlm_batch_size' of the plan where it is above 1, or take a smaller model.",
        ):
            embeddings, mask = self.network.prefixed(pixels, ids)
            made = self.network.llamacasual.generate(
                inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=self.max_new_tokens, do_sample=False,
                pad_token_id=_PAD, eos_token_id=list(_ENDS),
            )
        texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        cut = [len(row) >= self.max_new_tokens and not set(row.tolist()) & set(_ENDS) for row in made]
        return [one_line(text, was_cut) for text, was_cut in zip(texts, cut)]


def build(state: Mapping[str, torch.Tensor], folder: Path) -> MedVIntNetwork:
    """The network of a checkpoint's sizes with its weights, in eval mode.

    Args:
        state: as :func:`samdpo.prompting.answers.medvint.merged` gives it.
        folder: of a ``config.json``, where there is one; and for messages.

    Raises:
        ConfigurationError: the weights are not MedVInT-TD's.
    """
    try:
        sizes, config = MedVIntSizes.of(state), _llama_config(state, folder)
    except KeyError as error:
        raise ConfigurationError(
            f"The weights in {folder} are not MedVInT-TD's: {error} is missing among {len(state)} keys."
        ) from error
    with torch.device("meta"):  # no second copy in memory
        network = MedVIntNetwork(sizes, config)
    check_fit(network.state_dict(), state, folder)
    network.load_state_dict(dict(state), assign=True)
    # What LLaMA computes by itself is not in the checkpoint, and so still without values.
    rotary = network.llamacasual.model.rotary_emb
    network.llamacasual.model.rotary_emb = type(rotary)(config)
    for part in (network.vision_model, network.query_embed, network.decoder, network.fc_l1, network.fc_l2):
        part.float()
    return network.eval().requires_grad_(False)


def _llama_config(state: Mapping[str, torch.Tensor], folder: Path) -> LlamaConfig:
    from transformers import LlamaConfig

    if (folder / "config.json").is_file():
        return LlamaConfig.from_pretrained(str(folder), local_files_only=True)
    vocabulary, hidden = state["llamacasual.model.embed_tokens.weight"].shape
    layer = "llamacasual.model.layers.0"
    layers = {key.split(".")[3] for key in state if key.startswith("llamacasual.model.layers.")}
    if hidden % _HEAD_DIM:
        raise ConfigurationError(
            f"The LLaMA in {folder} is {hidden} wide, which its weights alone do not explain. Put its config.json "
            "there."
        )
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=state[f"{layer}.mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=hidden // _HEAD_DIM,
        num_key_value_heads=state[f"{layer}.self_attn.k_proj.weight"].shape[0] // _HEAD_DIM,
        rms_norm_eps=1e-6,  # LLaMA, Touvron et al. 2023
    )


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    place = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    try:
        return AutoTokenizer.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(
            f"{place} has no tokenizer that can be read ({str(error).strip().splitlines()[0]}). Copy LLaMA's "
            "tokenizer.model (which needs: pip install sentencepiece) or tokenizer.json, and tokenizer_config.json, "
            "into it."
        ) from error


def _precision(device: torch.device, saved: torch.dtype) -> torch.dtype:
    """bfloat16 on a GPU that has it, float16 on another; on a CPU as saved, but not float16, which it hardly has."""
    if device.type == "cpu":
        return torch.bfloat16 if saved == torch.float16 else saved
    return torch.bfloat16 if has_bf16(device) else torch.float16


def _pixels(image: Image.Image) -> torch.Tensor:
    """RGB image -> (3, 512, 512), normalised."""
    resized = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), np.float32) / 255
    normalised = (resized - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))


@dataclass(frozen=True)
class MedVIntSizes:
    """Sizes of the visual part; the defaults are the published ones.

    Attributes:
        width: of the ResNet's stem; its third stage gives ``16 * width`` channels at a sixteenth of the image's side.
        blocks: bottlenecks of the three stages kept.
        queries: learned queries, one a visual token.
        layers: of the query decoder.
        feedforward: width of its feed-forward blocks.
    """

    width: int = 64
    blocks: tuple[int, int, int] = (3, 4, 6)
    queries: int = 32
    layers: int = 12
    feedforward: int = 1024

    @property
    def channels(self) -> int:
        """Of the image features and the queries."""
        return 4 * self.width * _EXPANSION

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor]) -> MedVIntSizes:
        """Sizes of a state dict; KeyError where it lacks a part."""
        return cls(
            width=state["vision_model.6.weight"].shape[0],
            blocks=tuple(_count(state, f"vision_model.{stage}.") for stage in (10, 11, 12)),  # type: ignore[arg-type]
            queries=state["query_embed.weight"].shape[0],
            layers=_count(state, "decoder.layers."),
            feedforward=state["decoder.layers.0.linear1.weight"].shape[0],
        )


class MedVIntNetwork(nn.Module):
    """PMC-CLIP's ResNet, a query decoder, two linear layers, a LLaMA; module names are those of the checkpoint.

    Args:
        sizes: of the visual part.
        config: of the LLaMA.
    """

    def __init__(self, sizes: MedVIntSizes, config: LlamaConfig) -> None:
        super().__init__()
        from transformers import LlamaForCausalLM

        self.vision_model = _visual_tower(sizes)
        self.query_embed = nn.Embedding(sizes.queries, sizes.channels)
        layer = nn.TransformerDecoderLayer(sizes.channels, _HEADS, sizes.feedforward, norm_first=True, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, sizes.layers, nn.LayerNorm(sizes.channels))
        self.fc_l1 = nn.Linear(sizes.channels, sizes.channels)
        self.fc_l2 = nn.Linear(sizes.channels, config.hidden_size)
        self.llamacasual = LlamaForCausalLM(config)

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, 512, 512) -> visual tokens (B, 32, LLaMA's width)."""
        features = self.vision_model(images).flatten(2).transpose(1, 2)  # (B, 32 * 32, 1024)
        queries = self.query_embed.weight.expand(len(images), -1, -1)
        return self.fc_l2(self.fc_l1(self.decoder(queries, features)).relu())

    def prefixed(
        self, images: torch.Tensor, questions: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input of the LLaMA: visual tokens, then the question; shorter rows are padded on the left.

        Args:
            images: (B, 3, 512, 512), normalised.
            questions: B vectors of token ids.

        Returns:
            embeddings (B, T, width); mask (B, T), 1 where there is a token.
        """
        embed = self.llamacasual.get_input_embeddings()
        seen = self.see(images).to(embed.weight.dtype)
        rows = [torch.cat([tokens, embed(ids)]) for tokens, ids in zip(seen, questions)]
        longest = max(map(len, rows))
        embeddings = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=embeddings.device)
        mask = torch.arange(longest, device=embeddings.device) >= longest - lengths[:, None]
        return embeddings, mask.long()


def _visual_tower(sizes: MedVIntSizes) -> nn.Sequential:
    from open_clip.modified_resnet import ModifiedResNet

    # The fourth stage and the pooling are made and thrown away: their sizes do not matter.
    tower = ModifiedResNet([*sizes.blocks, 1], output_dim=8, heads=1, image_size=32, width=sizes.width)
    return nn.Sequential(*list(tower.children())[:-_DROPPED])


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Numbered children under ``prefix``."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def find_checkpoint(folder: Path) -> Path:
    """The file of weights in ``folder``.

    Raises:
        ConfigurationError: there is no such folder, or no such file in it.
    """
    file = next((folder / name for name in FILE_NAMES if (folder / name).is_file()), None)
    if file is None:
        found = "is not a folder" if not folder.is_dir() else f"holds neither {' nor '.join(FILE_NAMES)}"
        raise ConfigurationError(
            f"'prompting.vlm' is {folder}, which {found}. {PUBLISHED} tells where MedVInT-TD is published; unpack it, "
            "and name the folder checkpoint-… that holds pytorch_model.bin. Put LLaMA's tokenizer files "
            "(tokenizer.model or tokenizer.json, tokenizer_config.json) beside it."
        )
    return file


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """The weights of a file, on the CPU, under the network's names.

    Raises:
        ConfigurationError: it holds something else than tensors.
    """
    return merged(_tensors(file))


def merged(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A published state dict under the network's names, LoRA merged: W + alpha / r * B A (Hu et al. 2022)."""
    named = {_PEFT.sub("llamacasual.", key): tensor for key, tensor in state.items() if _FREQUENCIES not in key}
    matrices: dict[str, dict[str, torch.Tensor]] = {}
    weights: dict[str, torch.Tensor] = {}
    for key, tensor in named.items():
        found = _LORA.fullmatch(key)
        if found:
            matrices.setdefault(found[1], {})[found[2]] = tensor.float()
        else:
            weights[key.replace(".base_layer.", ".")] = tensor
    for module, pair in matrices.items():
        key = f"{module}.weight"
        if set(pair) != {"A", "B"} or key not in weights:
            raise ConfigurationError(
                f"The checkpoint's LoRA of {module!r} is not whole: it has {', '.join(sorted(pair))} "
                f"{'and' if key in weights else 'but not'} the matrix it is added to."
            )
        update = _ALPHA / len(pair["A"]) * pair["B"] @ pair["A"]
        weights[key] = (weights[key].float() + update).to(weights[key].dtype)
    return weights


def check_fit(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Every name and shape must be the network's.

    Raises:
        ConfigurationError: names the first that is not.
    """
    problems = [f"{key!r} is missing" for key in expected if key not in state]
    problems += [f"{key!r} is not known" for key in state if key not in expected]
    problems += [
        f"{key!r} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected if key in state and state[key].shape != expected[key].shape
    ]
    if problems:
        raise ConfigurationError(
            f"The weights in {folder} are not MedVInT-TD's: {problems[0]} ({len(problems)} such keys of "
            f"{len(expected)})."
        )


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        # mmap: 14 GB need not be in memory twice.
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpicklers, zip readers and safetensors each raise their own kind
        raise ConfigurationError(
            f"{file} cannot be read as a file of tensors ({str(error).splitlines()[0]}). Nothing else is ever loaded "
            "from it. Download it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ConfigurationError(f"{file} must hold one dictionary of tensors, as MedVInT-TD's checkpoint does.")
    return state
