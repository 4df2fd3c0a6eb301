import pickle

import pytest
import torch

from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.training import checkpoints

WEIGHTS = {"layer.weight": torch.arange(6.0).view(2, 3)}
STATE = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}}


def test_what_was_saved_is_loaded(tmp_path):
    checkpoints.save_latest(tmp_path, 3, WEIGHTS, STATE)
    weights, state = checkpoints.load_latest(tmp_path)
    assert torch.equal(weights["layer.weight"], WEIGHTS["layer.weight"])
    assert state["epoch"] == 3


def test_only_the_newest_is_kept(tmp_path):
    for epoch in (1, 2, 3):
        checkpoints.save_latest(tmp_path, epoch, WEIGHTS, {**STATE, "epoch": epoch})
    assert [p.name for p in (tmp_path / checkpoints.LATEST).iterdir()] == ["epoch_0003"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoints.save_latest(tmp_path, 1, WEIGHTS, {**STATE, "epoch": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        checkpoints.save_latest(tmp_path, 2, WEIGHTS, STATE)
    monkeypatch.undo()
    assert checkpoints.load_latest(tmp_path)[1]["epoch"] == 1
    assert [p.name for p in (tmp_path / checkpoints.LATEST).iterdir()] == ["epoch_0001"]


def test_a_checkpoint_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("a checkpoint ran code",))

    folder = checkpoints.save_latest(tmp_path, 1, WEIGHTS, STATE)
    with (folder / "state.pt").open("wb") as file:
        pickle.dump(Evil(), file)
    with pytest.raises(ModelFolderError, match=r"state\.pt cannot be read"):
        checkpoints.load_latest(tmp_path)


def test_a_truncated_checkpoint_is_named(tmp_path):
    folder = checkpoints.save_latest(tmp_path, 1, WEIGHTS, STATE)
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:20])
    with pytest.raises(ModelFolderError, match=r"weights\.safetensors"):
        checkpoints.load_latest(tmp_path)


def test_a_state_that_is_none_is_a_sentence(tmp_path):
    folder = checkpoints.save_latest(tmp_path, 1, WEIGHTS, STATE)
    torch.save([1, 2], folder / "state.pt")
    with pytest.raises(ModelFolderError, match=r"state\.pt holds a list .*without --c"):
        checkpoints.load_latest(tmp_path)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.load_latest(tmp_path) is None
