import errno
from pathlib import Path

import pytest
import torch

from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.networks.registry import build_network
from samdpo.networks.weights import load_into, load_weights, save_weights
from samdpo.plans import NetworkPlan


def test_saved_weights_are_loaded_bit_for_bit(tiny, tmp_path):
    tiny.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_weights(tiny.state_dict(), tmp_path / "weights.safetensors")
    other = build_network(NetworkPlan(backbone="tiny_sam", text_dim=8))
    load_into(other, load_weights(tmp_path / "weights.safetensors"), "weights.safetensors")
    for (name, ours), theirs in zip(tiny.state_dict().items(), other.state_dict().values()):
        assert torch.equal(ours, theirs), name


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=r"final\.safetensors does not exist"):
        load_weights(tmp_path / "final.safetensors")


def test_a_truncated_file_is_named(tiny, tmp_path):
    file = tmp_path / "final.safetensors"
    save_weights(tiny.state_dict(), file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelFolderError, match=r"final\.safetensors is not a whole safetensors file"):
        load_weights(file)


def test_a_pickle_is_refused(tiny, tmp_path):
    torch.save(tiny.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ModelFolderError, match=r"weights\.pth is not a whole safetensors file"):
        load_weights(tmp_path / "weights.pth")


def test_weights_that_do_not_fit_say_which(tiny):
    state = dict(tiny.state_dict())
    state["extra.weight"] = state.pop("text_projection.bias")
    state["text_projection.weight"] = torch.zeros(64, 9)
    with pytest.raises(ModelFolderError) as error:
        load_into(tiny, state, "their.safetensors")
    text = str(error.value)
    assert "their.safetensors" in text
    assert "1 missing, first 'text_projection.bias'" in text
    assert "1 unexpected, first 'extra.weight'" in text
    assert "found (64, 9), expected (64, 8)" in text


def test_weights_that_do_not_fit_leave_the_network_as_it_was(tiny):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    with pytest.raises(ModelFolderError):
        load_into(tiny, {k: v + 1 for k, v in before.items() if k != "text_projection.bias"}, "x")
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


def test_a_full_disk_leaves_the_old_file(tiny, tmp_path, monkeypatch):
    file = tmp_path / "final.safetensors"
    file.write_bytes(b"old")

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        save_weights(tiny.state_dict(), file)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["final.safetensors"]
