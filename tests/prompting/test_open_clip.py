"""Pretrained image-text models load as published, or say in a sentence why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from clip_folders import ClipParts, make_parts, write_clip

from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.files import read_json, write_json
from samdpo.prompting.image_text import ImageTextModel
from samdpo.prompting.open_clip_files import CONFIG, TOKENIZER, find_open_clip, text_tower_folder
from samdpo.prompting.open_clip_loading import OpenClip, load_open_clip, shared_open_clip
from samdpo.prompting.open_clip_model import OpenClipModel

SENTENCES = ["the left lung is round.", "breast tumor"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, ClipParts]:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return folder, write_clip(folder)


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """The test's own copy of the tiny model."""
    return Path(shutil.copytree(tiny[0], tmp_path / "model"))


def loaded(folder: Path) -> OpenClip:
    return load_open_clip(find_open_clip(f"local-dir:{folder}"))


def assert_alike(clip: OpenClip, parts: ClipParts) -> None:
    """Both towers equal those of timm and transformers to 1e-5."""
    model = OpenClipModel(lambda: clip, precision="fp32")
    inputs = torch.rand(2, 3, *clip.size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.embed_images(inputs), parts.embed_images(inputs), atol=1e-5, rtol=0)
    ids = clip.tokenizer(SENTENCES)
    torch.testing.assert_close(model.embed_text(SENTENCES), parts.embed_ids(ids), atol=1e-5, rtol=0)
    expected = parts.logit_scale.exp() * parts.embed_images(inputs) @ parts.embed_ids(ids).T
    torch.testing.assert_close(model.image_scores(inputs, model.embed_text(SENTENCES)), expected, atol=1e-3, rtol=0)


def rewrite(folder: Path, **changes) -> dict:
    """Change keys of the text tower's configuration."""
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"].update(changes)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return config


# ---- as published ---------------------------------------------------------------------------------------------------


def test_the_towers_equal_those_of_timm_and_transformers(tiny):
    clip = loaded(tiny[0])
    assert isinstance(OpenClipModel(lambda: clip), ImageTextModel)
    assert clip.size == (160, 160) and clip.embed_dim == 48 and clip.tokenizer.context == 32
    assert_alike(clip, tiny[1])


def test_a_pytorch_file_of_tensors_loads_alike(folder, tiny):
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": tiny[1].state_dict()}, folder / "open_clip_pytorch_model.bin")
    assert_alike(loaded(folder), tiny[1])


@pytest.mark.slow
def test_biomedclip_at_full_size_equals_timm_and_transformers(tmp_path):
    parts = write_clip(tmp_path, "biomedclip")
    state = parts.state_dict()
    assert len(state) == 351 + 1 and state["text.transformer.embeddings.position_ids"].shape == (1, 512)
    assert state["visual.head.proj.weight"].shape == (512, 768)
    assert state["text.proj.0.weight"].shape == (640, 768) and state["text.proj.2.weight"].shape == (512, 640)
    assert not (tmp_path / "config.json").exists()
    clip = loaded(tmp_path)
    assert clip.size == (224, 224) and clip.embed_dim == 512 and clip.tokenizer.context == 256
    assert round(sum(p.numel() for p in clip.module.parameters()) / 1e6) == 196
    assert_alike(clip, parts)


def test_a_model_in_the_hubs_cache_needs_no_network(tiny, tmp_path, monkeypatch):
    offline(monkeypatch, tmp_path)
    repository = tmp_path / "models--owner--tiny"
    shutil.copytree(tiny[0], repository / "snapshots" / "0123")
    (repository / "snapshots" / "0123" / "open_clip_model.safetensors").unlink()
    torch.save(tiny[1].state_dict(), repository / "snapshots" / "0123" / "open_clip_pytorch_model.bin")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    files = find_open_clip("hf-hub:owner/tiny")
    assert files.folder == repository / "snapshots" / "0123"
    assert_alike(load_open_clip(files), tiny[1])


def test_a_model_in_the_weights_folder_needs_no_network(tiny, tmp_path, monkeypatch):
    offline(monkeypatch, tmp_path)
    folder = tmp_path / "weights" / "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    shutil.copytree(tiny[0], folder)
    files = find_open_clip("biomedclip")
    assert files.folder == folder and files.name.startswith("hf-hub:microsoft/BiomedCLIP")
    assert_alike(load_open_clip(files), tiny[1])


def test_folds_share_one_copy_of_a_model(tiny):
    name = f"local-dir:{tiny[0]}"
    assert shared_open_clip(name, "cpu") is shared_open_clip(name, "cpu")
    with pytest.raises(ModelFolderError, match="SHA-256 begins with .* expected abcdef"):
        shared_open_clip(name, "cpu", "abcdef")


def test_what_the_hub_lacks_is_not_asked_for_twice_and_the_weights_come_last(tiny, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def hub(repository: str, file: str) -> str:
        asked.append(file)
        if not (tiny[0] / file).is_file():
            raise EntryNotFoundError(file)
        return str(tiny[0] / file)

    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert find_open_clip("hf-hub:owner/tiny").weights == tiny[0] / "open_clip_model.safetensors"
    assert len(asked) == len(set(asked)) and asked[0] == "open_clip_config.json"
    assert asked[-1] == "open_clip_model.safetensors"


def test_what_only_a_model_folder_names_is_not_downloaded_but_biomedclip_is_known(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file: asked.append(repository))
    with pytest.raises(ConfigurationError, match="Prediction downloads nothing .* hf download owner/other"):
        find_open_clip("hf-hub:owner/other", may_download=False)
    assert not asked
    with pytest.raises(ConfigurationError, match="BiomedCLIP"):
        find_open_clip("biomedclip", may_download=False)
    assert set(asked) == {"microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"}


def test_a_tokenizer_that_a_folder_names_is_not_downloaded_for_it(tiny, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a: pytest.fail("the network was asked"))
    shutil.copytree(tiny[0], tmp_path / "clip")
    for file in TOKENIZER:
        (tmp_path / "clip" / file).unlink(missing_ok=True)
    config = read_json(tmp_path / "clip" / CONFIG)
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "owner/words"}
    write_json(tmp_path / "clip" / CONFIG, config)
    with pytest.raises(ConfigurationError, match=r"open_clip_config\.json names owner/words.* hf download owner/words"):
        load_open_clip(find_open_clip(f"local-dir:{tmp_path / 'clip'}", may_download=False))


@pytest.mark.parametrize(
    "name", ["hf-hub:../x", "hf-hub:/etc", "hf-hub:a/b/c", "hf-hub:", "hf-hub:a/..", "hf-hub:owner"]
)
def test_an_address_of_the_hub_is_an_owner_and_a_name(name):
    with pytest.raises(ConfigurationError, match="expected hf-hub:OWNER/NAME"):
        find_open_clip(name)


def test_a_text_tower_that_brings_its_own_code_is_refused_and_nobody_is_asked(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("somebody was asked"))
    shutil.copytree(tiny[0], tmp_path / "clip")
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "own.py").write_text("raise AssertionError('this was run')")
    write_json(tmp_path / "tower" / "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    config = read_json(tmp_path / "clip" / CONFIG)
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(tmp_path / "tower")
    write_json(tmp_path / "clip" / CONFIG, config)
    with pytest.raises(ConfigurationError, match=r"config\.json does not describe a text tower that open_clip knows"):
        load_open_clip(find_open_clip(f"local-dir:{tmp_path / 'clip'}"))


@pytest.mark.parametrize("name", ["hf-hub:owner/name", "local-dir:/x", "hf_hub:x", 5])
def test_an_image_tower_comes_from_nowhere_else(tiny, tmp_path, name):
    shutil.copytree(tiny[0], tmp_path / "clip")
    config = read_json(tmp_path / "clip" / CONFIG)
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = name
    write_json(tmp_path / "clip" / CONFIG, config)
    with pytest.raises(ConfigurationError, match="'timm_model_name' is .* expected the name of an architecture"):
        load_open_clip(find_open_clip(f"local-dir:{tmp_path / 'clip'}"))


def test_a_repository_that_holds_no_open_clip_model_is_a_sentence(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def hub(repository: str, file: str) -> str:
        raise EntryNotFoundError(file)

    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    with pytest.raises(ConfigurationError, match="owner/other holds no open_clip model: open_clip_config.json"):
        find_open_clip("hf-hub:owner/other")


# ---- the text tower's configuration ---------------------------------------------------------------------------------


def test_biomedclips_own_repository_lacks_the_towers_configuration_which_is_known(folder):
    (folder / "config.json").unlink()
    rewrite(folder, hf_model_name="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract")
    with text_tower_folder(find_open_clip(f"local-dir:{folder}")) as found:
        config = json.loads((found / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]) == (768, 12, 30522)


def test_the_configuration_may_point_at_a_folder(folder, tiny):
    (folder / "bert").mkdir()
    (folder / "config.json").rename(folder / "bert" / "config.json")
    rewrite(folder, hf_model_name="bert")
    assert_alike(loaded(folder), tiny[1])


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The hub's own offline mode, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("samdpo_weights", str(cache / "weights"))


def test_offline_the_sentence_names_model_home_layout_and_how_to_name_the_folder(tmp_path, monkeypatch):
    offline(monkeypatch, tmp_path)
    with pytest.raises(ConfigurationError) as stopped:
        find_open_clip("biomedclip")
    for said in (
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "https://huggingface.co/", "open_clip_config.json",
        "tokenizer.json", "config.json", "hf_model_name", "local-dir:FOLDER", str(tmp_path / "weights" / "BiomedCLIP"),
    ):
        assert said in str(stopped.value)


@pytest.mark.parametrize(("missing", "said"), [
    ("open_clip_config.json", "open_clip_config.json is missing"),
    ("open_clip_model.safetensors", "has no weights"),
])
def test_a_folder_that_lacks_a_file_says_which(folder, missing, said):
    (folder / missing).unlink()
    with pytest.raises(ConfigurationError, match=said):
        find_open_clip(f"local-dir:{folder}")


def test_a_folder_that_does_not_exist_or_is_not_a_model_is_a_sentence(folder):
    with pytest.raises(ConfigurationError, match="does not exist"):
        find_open_clip(f"local-dir:{folder}/elsewhere")
    (folder / "open_clip_config.json").write_text('{"architectures": ["Bert"]}')
    with pytest.raises(ConfigurationError, match="needs 'model_cfg'"):
        find_open_clip(f"local-dir:{folder}")


def test_a_text_tower_without_configuration_is_a_sentence(folder, tmp_path, monkeypatch):
    offline(monkeypatch, tmp_path / "cache")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigurationError, match="nobody/tiny-bert is not on this machine"):
        loaded(folder)


def test_a_tokenizer_that_is_not_there_is_a_sentence(folder, tmp_path, monkeypatch):
    offline(monkeypatch, tmp_path / "cache")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="nobody/tiny-bert is not on this machine"):
        loaded(folder)


def test_weights_that_do_not_fit_are_named(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    save_file({("other" if name == "visual.head.proj.weight" else name): w for name, w in state.items()}, file)
    with pytest.raises(ModelFolderError, match=r"first 'visual.head.proj.weight'; 1 unexpected, first 'other'"):
        loaded(folder)


class Harmful:
    """Unpickled, it would write a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_nothing_is_unpickled(folder, tmp_path):
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"a": torch.zeros(1), "b": Harmful(tmp_path / "harm")}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="_model.bin names .* has no place in a file of weights"):
        loaded(folder)
    assert not (tmp_path / "harm").exists()


def test_a_truncated_file_is_named(folder):
    file = folder / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelFolderError, match=file.name):
        loaded(folder)


# ---- texts and images -----------------------------------------------------------------------------------------------


def test_a_longer_text_is_cut_at_the_end_of_a_sentence_and_said_in_debug(tiny, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    clip = loaded(tiny[0])
    sentences = ["the left lung is round."] * 4
    text = " ".join([*sentences, "the heart is left of the liver."])
    with caplog.at_level("DEBUG", "samdpo"):
        cut = clip.tokenizer.cut(text)
    assert cut == " ".join(sentences) and clip.tokenizer.count(text) > 32 >= clip.tokenizer.count(cut)
    assert "cut to the first 4 of its 5 sentences" in caplog.text
    assert torch.equal(clip.tokenizer([text]), clip.tokenizer([cut]))
    assert clip.tokenizer(["lung " * 100]).shape == (1, 32)
    assert clip.tokenizer.cut(sentences[0]) == sentences[0]


def test_each_distinct_text_is_embedded_once(tiny, monkeypatch):
    clip = loaded(tiny[0])
    model, seen = OpenClipModel(lambda: clip), []
    forward = clip.module.encode_text
    monkeypatch.setattr(clip.module, "encode_text", lambda ids, **k: (seen.append(len(ids)), forward(ids, **k))[1])
    first = model.embed_text(["lung", "heart", "lung"])
    assert torch.equal(first[0], first[2]) and seen == [2]
    model.embed_text(["heart", "liver"])
    assert seen == [2, 1]
    assert model.text_encoder.encode([]).shape == (0, 48)


def test_images_are_squashed_and_not_cropped(tiny):
    clip = loaded(tiny[0])
    image = torch.zeros(3, 80, 240)
    image[:, :, :24] = 1  # would be outside of a centre crop
    inputs = OpenClipModel(lambda: clip).image_input(image)
    assert inputs.shape == (3, 160, 160)
    white = (1 - torch.tensor(clip.mean)) / torch.tensor(clip.std)
    black = -torch.tensor(clip.mean) / torch.tensor(clip.std)
    torch.testing.assert_close(inputs[:, 80, :12], white[:, None].expand(-1, 12), atol=0.01, rtol=0)
    torch.testing.assert_close(inputs[:, 80, 24:], black[:, None].expand(-1, 136), atol=0.01, rtol=0)


def test_a_file_of_other_weights_has_another_checksum(folder, tiny):
    from safetensors.torch import save_file

    before = find_open_clip(f"local-dir:{folder}").checksum
    assert before == find_open_clip(f"local-dir:{tiny[0]}").checksum
    other = {k: v.contiguous() for k, v in make_parts("tiny", seed=1).state_dict().items()}
    save_file(other, folder / "open_clip_model.safetensors")
    assert find_open_clip(f"local-dir:{folder}").checksum != before
