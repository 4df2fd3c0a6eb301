"""MedVInT-TD: its published layout loads exactly, and computes what its parts say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from medvint_reference import Reference, published_state, save_medvint
from PIL import Image
from transformers import LlamaConfig

from samdpo.errors import ConfigurationError
from samdpo.prompting.answers.medvint import PROMPT, MedVInT, MedVIntNetwork, MedVIntSizes, build, merged

QUESTIONS = ["What is the shape of the lung and where is it located?", "Where is the liver?"]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def folder(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_medvint(tmp_path_factory.mktemp("medvint") / "checkpoint-4", published_state(reference))


@pytest.fixture(scope="module")
def medvint(folder: Path) -> MedVInT:
    return MedVInT(folder, "cpu", max_new_tokens=6)


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (256, 256, 3), np.uint8)) for _ in QUESTIONS]


def pixels(image: Image.Image) -> torch.Tensor:
    values = np.asarray(image.resize((512, 512), Image.Resampling.BICUBIC), np.float32) / 255
    values = (values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]


def test_the_published_layout_computes_what_the_parts_with_pefts_own_lora_compute(medvint, reference):
    for image, question in zip(pictures(), QUESTIONS):
        ids = torch.tensor(medvint.tokenizer(PROMPT.format(question=question))["input_ids"])
        with torch.inference_mode():
            embeddings, mask = medvint.network.prefixed(pixels(image), [ids])
            ours = medvint.network.llamacasual(inputs_embeds=embeddings, attention_mask=mask).logits
        expected = reference.logits(pixels(image), ids)
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


def test_an_answer_is_the_reference_s_greedy_continuation(medvint, reference):
    image, question = pictures()[0], QUESTIONS[0]
    ids = medvint.tokenizer(PROMPT.format(question=question))["input_ids"]
    said: list[int] = []
    for _ in range(6):
        said.append(int(reference.logits(pixels(image), torch.tensor([*ids, *said]))[0, -1].argmax()))
        if said[-1] in (1, 2):
            break
    assert medvint.answer([image], [question]) == [medvint.tokenizer.decode(said, skip_special_tokens=True)]
    assert said[0] not in (1, 2)


def test_a_batch_answers_as_one_by_one(medvint):
    together = medvint.answer(pictures(), QUESTIONS)
    assert together == [medvint.answer([i], [q])[0] for i, q in zip(pictures(), QUESTIONS)]
    assert together[0] != together[1]


@pytest.mark.parametrize("spelling", ["2023", "with adapter names", "present"])
def test_every_spelling_of_peft_is_read(reference, spelling):
    state = {"2023": published_state(reference), "present": reference.state_dict()}.get(spelling)
    if state is None:
        state = {key.replace(".base_layer.", "."): value for key, value in reference.state_dict().items()}
    read, expected = merged(state), merged(published_state(reference))
    assert read.keys() == expected.keys() and all(torch.equal(read[key], expected[key]) for key in read)
    assert not any("lora" in key or "base" in key for key in read)


def test_lora_moves_the_weights_by_alpha_over_rank(reference):
    state = published_state(reference)
    module = "llamacasual.base_model.model.model.layers.0.self_attn.q_proj"
    expected = state[f"{module}.weight"] + 32 / 8 * state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]
    torch.testing.assert_close(merged(state)["llamacasual.model.layers.0.self_attn.q_proj.weight"], expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("fc_l2.bias"), "'fc_l2.bias' is missing"),
        (lambda state: state.pop("query_embed.weight"), "'query_embed.weight' is missing"),
        (lambda state: state.update({"head.weight": torch.zeros(1)}), "'head.weight' is not known"),
        (lambda state: state.update({"fc_l1.bias": torch.zeros(3)}), r"'fc_l1.bias' is \(3,\), expected \(128,\)"),
        (
            lambda state: state.pop("llamacasual.base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"),
            "LoRA of .* is not whole",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(reference, tmp_path, change, said):
    state = published_state(reference)
    change(state)
    with pytest.raises(ConfigurationError, match=said):
        build(merged(state), tmp_path)


def test_a_pickle_in_the_checkpoint_is_not_executed(tmp_path, reference):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    save_medvint(tmp_path, {**published_state(reference), "trainer": Harmful()})
    with pytest.raises(ConfigurationError, match=r"pytorch_model\.bin cannot be read as a file of tensors"):
        MedVInT(tmp_path, "cpu")
    assert not (tmp_path / "executed").exists()


def test_missing_files_are_named_with_where_they_are_published(tmp_path, folder):
    with pytest.raises(ConfigurationError, match="nowhere, which is not a folder"):
        MedVInT(tmp_path / "nowhere", "cpu")
    (tmp_path / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes())
    with pytest.raises(ConfigurationError, match="has no tokenizer that can be read"):
        MedVInT(tmp_path, "cpu")
    for file in folder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigurationError, match="xiaoman-zhang/PMC-VQA"):
        MedVInT(tmp_path, "cpu")


def test_the_published_sizes_give_the_published_shapes():
    llama = LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                        num_attention_heads=32)
    with torch.device("meta"):
        state = MedVIntNetwork(MedVIntSizes(), llama).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["vision_model.6.weight"] == (64, 32, 3, 3)
    assert shapes["vision_model.12.5.conv3.weight"] == (1024, 256, 1, 1)
    assert shapes["query_embed.weight"] == (32, 1024)
    assert shapes["decoder.layers.11.multihead_attn.in_proj_weight"] == (3072, 1024)
    assert shapes["fc_l2.weight"] == (4096, 1024)
    assert shapes["llamacasual.model.layers.31.self_attn.v_proj.weight"] == (4096, 4096)
    llm = sum(value.numel() for key, value in state.items() if key.startswith("llamacasual."))
    assert llm == 6_738_415_616  # LLaMA-7B
    assert MedVIntSizes.of(state) == MedVIntSizes()
    with torch.device("meta"):
        features = MedVIntNetwork(MedVIntSizes(), llama).vision_model(torch.zeros(1, 3, 512, 512))
    assert features.shape == (1, 1024, 32, 32)
