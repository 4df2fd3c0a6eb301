"""MedVInT-TD's published checkpoint: read without executing anything, LoRA merged, fitted to the network.

Layout of ``VQA_lora_PMC_LLaMA_PMCCLIP/{blank,choice}/checkpoint-*/pytorch_model.bin``, as the authors' code makes it:
``vision_model.*``, ``query_embed.weight``, ``decoder.*``, ``fc_l1.*``, ``fc_l2.*``, and the LLaMA with its LoRA under
``llamacasual.base_model.model.*``. PEFT has renamed its parts over time; all of its spellings are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from samdpo.errors import ConfigurationError

FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
PUBLISHED = "The repository xiaoman-zhang/PMC-VQA on GitHub"
_ALPHA = 32  # LoRA's scale over its rank; the weights do not tell
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight")
_PEFT = re.compile(r"^llamacasual\.base_model\.model\.")
_FREQUENCIES = "rotary_emb.inv_freq"  # transformers once saved what the LLaMA computes by itself


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
