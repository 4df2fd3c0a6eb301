import sys

import pytest
import torch
from small_backbones import build_small_vit

from samdpo.cli.weights import main
from samdpo.networks.published import catalogue, verification
from samdpo.networks.published.catalogue import PublishedFile
from samdpo.networks.published.folder import weights_folder
from samdpo.plans import NetworkPlan


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
    published = PublishedFile("small", "small.pth", "https://example.org/small")
    monkeypatch.setattr(catalogue, "CATALOGUE", {"small": published})
    monkeypatch.setitem(verification._NETWORKS, "small", {"backbone": "small_vit", "adapters": False})
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
    assert "Known: sam_med2d_b" in said
