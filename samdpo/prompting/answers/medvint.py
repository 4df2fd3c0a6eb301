"""MedVInT-TD answers: the vision-language model of the paper (Sec. 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from samdpo.errors import ConfigurationError
from samdpo.networks.device import resolve_device
from samdpo.networks.precision import has_bf16
from samdpo.prompting.answers.medvint_network import MedVIntNetwork, MedVIntSizes
from samdpo.prompting.answers.medvint_weights import check_fit, find_checkpoint, read_checkpoint
from samdpo.prompting.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import LlamaConfig

log = logging.getLogger(__name__)

PROMPT = "Question: {question} The Answer is:"  # as it was trained
_SIDE = 512
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_PAD, _ENDS = 0, (1, 2)  # trained to end with LLaMA's token 1; 2 is LLaMA's own end
_HEAD_DIM = 128  # of every LLaMA of the first generation


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
            ConfigurationError: the batch does not fit the device's memory.
        """
        pixels = torch.stack([_pixels(image) for image in images]).to(self.device)
        prompts = [self.tokenizer(PROMPT.format(question=question))["input_ids"] for question in questions]
        ids = [torch.tensor(prompt, device=self.device) for prompt in prompts]
        try:
            embeddings, mask = self.network.prefixed(pixels, ids)
            made = self.network.llamacasual.generate(
                inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=self.max_new_tokens, do_sample=False,
                pad_token_id=_PAD, eos_token_id=list(_ENDS),
            )
        except torch.OutOfMemoryError as error:
            raise ConfigurationError(
                f"MedVInT-TD runs out of memory on {self.device} with {len(images)} questions at once. Lower "
                "'prompting.vlm_batch_size' of the plan."
            ) from error
        texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        cut = [len(row) >= self.max_new_tokens and not set(row.tolist()) & set(_ENDS) for row in made]
        return [one_line(text, was_cut) for text, was_cut in zip(texts, cut)]


def build(state: Mapping[str, torch.Tensor], folder: Path) -> MedVIntNetwork:
    """The network of a checkpoint's sizes with its weights, in eval mode.

    Args:
        state: as :func:`samdpo.prompting.answers.medvint_weights.merged` gives it.
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
