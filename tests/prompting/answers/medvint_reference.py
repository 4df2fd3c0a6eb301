"""MedVInT-TD written down once more from its description, small, with PEFT's own LoRA: what ours must equal."""

from __future__ import annotations

from pathlib import Path

import torch
from open_clip.modified_resnet import ModifiedResNet
from tiny_models import word_tokenizer
from torch import nn

WIDTH, BLOCKS, QUERIES, LAYERS, FEEDFORWARD, HIDDEN, RANK = 8, (2, 1, 1), 4, 2, 48, 256, 8


class DecoderLayer(nn.Module):
    """A pre-norm decoder layer on (T, B, C), as DETR writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, 8)
        self.multihead_attn = nn.MultiheadAttention(width, 8)
        self.linear1, self.linear2 = nn.Linear(width, FEEDFORWARD), nn.Linear(FEEDFORWARD, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.self_attn(normed, normed, normed)[0]
        tokens = tokens + self.multihead_attn(self.norm2(tokens), memory, memory)[0]
        return tokens + self.linear2(self.linear1(self.norm3(tokens)).relu())


class Decoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            tokens = layer(tokens, memory)
        return self.norm(tokens)


class Reference(nn.Module):
    """Its state dict has the published names, in PEFT's present spelling."""

    def __init__(self) -> None:
        super().__init__()
        from peft import LoraConfig, TaskType, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(1)
        tower, width = ModifiedResNet([*BLOCKS, 1], 8, 1, 32, WIDTH), 16 * WIDTH
        self.vision_model = nn.Sequential(*list(tower.children())[:-2])
        self.query_embed = nn.Embedding(QUERIES, width)
        self.decoder = Decoder(width)
        self.fc_l1, self.fc_l2 = nn.Linear(width, width), nn.Linear(width, HIDDEN)
        llama = LlamaConfig(
            vocab_size=len(word_tokenizer()), hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=HIDDEN // 128, rms_norm_eps=1e-6, initializer_range=0.2,
        )
        lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=32, target_modules=["q_proj", "v_proj"])
        self.llamacasual = get_peft_model(LlamaForCausalLM(llama), lora)
        for name, value in self.named_parameters():
            if "lora_B" in name:  # zero at the start: it would change nothing
                nn.init.normal_(value, std=0.1)
        for name, value in self.named_buffers():
            if "running" in name:
                value.copy_(torch.rand_like(value) + 0.5)
        self.eval()

    @torch.inference_mode()
    def logits(self, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Image (1, 3, 512, 512), normalised, and token ids (T,) -> (1, 4 + T, vocabulary)."""
        memory = self.vision_model(image).flatten(2).permute(2, 0, 1)
        seen = self.decoder(self.query_embed.weight[:, None], memory).transpose(0, 1)
        seen = self.fc_l2(self.fc_l1(seen).relu())
        words = self.llamacasual.get_input_embeddings()(ids)[None]
        return self.llamacasual(inputs_embeds=torch.cat([seen, words], dim=1)).logits


def published_state(reference: Reference) -> dict[str, torch.Tensor]:
    """The state dict as the published file spells it: PEFT of early 2023, and rotary frequencies saved."""
    state = {
        key.replace(".base_layer.", ".").replace(".default.", "."): value.detach().clone()
        for key, value in reference.state_dict().items()
    }
    for layer in range(2):
        state[f"llamacasual.base_model.model.model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(64)
    return state


def save_medvint(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """Checkpoint and tokenizer in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")
    word_tokenizer().save_pretrained(folder)
    return folder
