"""Vision-language models of a few thousand random weights, saved as their published namesakes are."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = (
    "what", "is", "the", "shape", "of", "lung", "liver", "breast", "tumor", "and", "where", "it", "located", "?",
    "question", ":", "answer", "user", "assistant", "round", "oval", "upper", "left", "right", "lower", "middle",
    "image", ".", ",", "in", "a",
)
SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")


def word_tokenizer(image_token: str = "<image>"):
    """One token a word; LLaMA's first three ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": image_token},
    )


CHAT = (
    "{% for message in messages %}user : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def save_llava(folder: Path, chat_template: str | None = CHAT) -> Path:
    """A LLaVA of two layers with its processor, as ``save_pretrained`` lays them out."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=4, initializer_range=0.5,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, image_token_id=3)
    model = LlavaForConditionalGeneration(config)
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=chat_template,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


QWEN_SPECIAL = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
QWEN_CHAT = CHAT.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")


def save_qwen(folder: Path) -> Path:
    """A Qwen2-VL, whose number of image tokens depends on the image and whose positions are three-dimensional."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    torch.manual_seed(0)
    tokenizer = word_tokenizer(QWEN_SPECIAL[1])
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_SPECIAL)})
    start, image, end, video = tokenizer.convert_tokens_to_ids(list(QWEN_SPECIAL))
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.5, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 4,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        },
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 14,
                       "initializer_range": 0.5},
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )
    sizes = {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(size=sizes), tokenizer, Qwen2VLVideoProcessor(size=sizes), chat_template=QWEN_CHAT
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
