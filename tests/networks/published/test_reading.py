import collections
import io
import os
import pickle

import pytest
import torch
from torch import nn

from samdpo.errors import ModelFolderError
from samdpo.networks.published.reading import _OnlyTensors, read_checkpoint
from samdpo.networks.weights import save_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


class Attack:
    """Makes a file when it is unpickled by the ordinary unpickler."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def assert_weights(state):
    assert set(state) == set(WEIGHTS)
    assert all(torch.equal(state[name], tensor) for name, tensor in WEIGHTS.items())


def trained_adam():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


def test_safetensors_are_read(tmp_path):
    save_weights(WEIGHTS, tmp_path / "w.safetensors")
    assert_weights(read_checkpoint(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read_in_the_old_and_the_new_format_of_torch(tmp_path, zipped):
    torch.save(collections.OrderedDict(WEIGHTS), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_weights(read_checkpoint(tmp_path / "w.pth"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_of_a_file_with_an_optimiser_only_the_tensors_of_the_model_are_kept(tmp_path, wrapper, zipped):
    file = tmp_path / "sam-med2d_b.pth"
    torch.save({wrapper: WEIGHTS, "optimizer": trained_adam()}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):  # what torch's own safe loader says of such a file
        torch.load(file, weights_only=True)
    assert_weights(read_checkpoint(file))


def test_parameters_become_plain_tensors(tmp_path):
    torch.save({name: nn.Parameter(tensor) for name, tensor in WEIGHTS.items()}, tmp_path / "w.pth")
    state = read_checkpoint(tmp_path / "w.pth")
    assert_weights(state)
    assert not any(isinstance(tensor, nn.Parameter) or tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", [False, True])
def test_what_a_malicious_file_calls_is_not_run(tmp_path, beside, zipped):
    marker, file = tmp_path / "was_run", tmp_path / "w.pth"
    attack = Attack(marker)
    content = {"model": WEIGHTS, "optimizer": trained_adam(), "extra": attack} if beside else attack
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFolderError, match=r"w\.pth names \w+\.system, .* Nothing of it was run"):
        read_checkpoint(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the attack must be one"


@pytest.mark.parametrize("module", ["torch.optim", "torch.optim.adam"])
def test_nothing_is_reached_through_the_name_of_an_optimiser(tmp_path, module):
    # torch.optim.adam has no os.system, but a pickle may ask for any name of any module.
    marker = tmp_path / "was_run"
    call = f"c{module}\nos.system\n(S'touch {marker}'\ntR.".encode()
    dropped = _OnlyTensors.load(io.BytesIO(call))
    assert not marker.exists()
    assert vars(dropped) == {}


def test_a_program_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pth")
    with pytest.raises(ModelFolderError, match="TorchScript program"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_named(tmp_path, zipped):
    file = tmp_path / "w.pth"
    torch.save({"a": torch.randn(200, 200)}, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(ModelFolderError, match=r"w\.pth is not a whole file"):
        read_checkpoint(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=r"w\.pth does not exist"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [([1, 2], "holds a list"), ({}, "expected a state dict"), ({**WEIGHTS, "epoch": 3}, "first 'epoch'")],
)
def test_something_else_than_weights_is_said(tmp_path, content, said):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelFolderError, match=said):
        read_checkpoint(tmp_path / "w.pth")
