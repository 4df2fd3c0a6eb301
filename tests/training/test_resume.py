"""Stop at any moment and go on: killed, interrupted, with a full disk, with other settings."""

from __future__ import annotations

import errno
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from trained_models import FITS_SHORTLY, REFIT, UNSEEN, Phantoms, _as_current, copied, interrupt, short_fits

from samdpo.cli.train import main
from samdpo.errors import ConfigurationError, ModelFolderError, TrainingError
from samdpo.files import read_json
from samdpo.schema import to_dict
from samdpo.training import checkpoints
from samdpo.training.checkpoints import FINAL

ONE_LUNG = ("structures.lung.components=1",)  # stage 2 with a judge that chooses the place
ROUNDS = (*ONE_LUNG, "prompt_rounds=1")  # or with refitted prompts


@pytest.fixture(scope="module")
def _stopped(_planned: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    with _as_current(copied(_planned, tmp_path_factory.mktemp("stopped") / "roots")) as made:
        interrupt(made, "finetune", "epochs=3", after=1)
    return made


@pytest.fixture
def stopped(_stopped: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """A finetuning of 3 epochs that was stopped after the first."""
    with _as_current(copied(_stopped, tmp_path / "roots")) as own:
        yield own


@pytest.mark.parametrize(("stage", "more"), [
    ("finetune", ()), ("align", (UNSEEN,)), ("align", (*ONE_LUNG, UNSEEN, REFIT)), ("align_preferences", ROUNDS),
])
def test_a_killed_training_that_is_continued_ends_with_the_same_bytes(located, tmp_path, monkeypatch, stage, more):
    short_fits(monkeypatch)
    settings = ("epochs=3", *more)
    fold = located.trainer(stage, *more).fold_folder
    (fold / FINAL).unlink(missing_ok=True)
    other = copied(located, tmp_path / "other")
    code, said = located.stopped(fold, signal.SIGKILL, "901", stage, "0", "-device", "cpu", "--set", *settings,
                                 before=FITS_SHORTLY)
    assert code == -signal.SIGKILL, said
    assert not (fold / FINAL).is_file() and checkpoints.load_latest(fold)[1]["epoch"] >= 2
    located.train(stage, *settings, resume=True)
    for name, value in other.environment().items():
        monkeypatch.setenv(name, value)
    uninterrupted = other.train(stage, *settings)
    assert uninterrupted.fold_folder != fold
    assert (fold / FINAL).read_bytes() == (uninterrupted.fold_folder / FINAL).read_bytes()
    assert read_json(fold / "model.json") == read_json(uninterrupted.fold_folder / "model.json")


def test_the_rates_rise_over_the_first_steps_also_of_a_training_that_was_stopped_meanwhile(planned, monkeypatch):
    settings, rates, step = ("epochs=3", "lr_warm_up_steps=5"), [], torch.optim.Adam.step

    def noted(self, *arguments, **named):
        rates.append([group["lr"] / group["initial_lr"] for group in self.param_groups])
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    whole = planned.train("finetune", *settings)
    wanted = [[min(1.0, n / 5)] * 2 for n in range(1, len(rates) + 1)]
    assert len(rates) > 5
    np.testing.assert_allclose(rates, wanted)
    assert whole.run_log.history["lr"] == [whole.stage.lr] * 3, "what is logged is the whole rate"
    expected = (whole.fold_folder / FINAL).read_bytes()
    rates.clear()
    interrupt(planned, "finetune", *settings, after=1)
    with pytest.raises(TrainingError, match=r"other settings \(lr_warm_up_steps\)"):
        planned.train("finetune", "epochs=3", resume=True)
    planned.train("finetune", *settings, resume=True)
    np.testing.assert_allclose(rates, wanted)
    assert (whole.fold_folder / FINAL).read_bytes() == expected


def test_ctrl_c_ends_with_a_sentence_and_c_continues(planned):
    fold = planned.finetuned / "fold_0"
    code, said = planned.stopped(fold, signal.SIGINT, "901", "finetune", "0", "-device", "cpu", "--epochs", "4")
    assert code == 130 and "Traceback" not in said
    assert "--c" in said.splitlines()[-1], said
    trainer = planned.train("finetune", "epochs=4", resume=True)
    assert len(trainer.run_log.history["loss"]) == 4 and (fold / FINAL).is_file()


def test_the_history_goes_on_where_it_stopped(planned):
    interrupt(planned, "finetune", "epochs=4", after=2)
    trainer = planned.train("finetune", "epochs=4", resume=True)
    assert len(trainer.run_log.history["loss"]) == 4


def test_a_finished_run_is_not_trained_again(finetuned, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    final = finetuned.finetuned / "fold_0" / FINAL
    before = final.stat().st_mtime_ns
    with caplog.at_level("INFO", "samdpo"):
        finetuned.train("finetune", resume=True)
    assert "finished already" in caplog.text and final.stat().st_mtime_ns == before


def test_training_anew_over_a_finished_run_can_be_continued_too(finetuned):
    interrupt(finetuned, "finetune", "epochs=4", after=2)
    trainer = finetuned.train("finetune", "epochs=4", resume=True)
    assert len(trainer.run_log.history["loss"]) == 4


def test_a_run_killed_while_it_writes_the_end_is_not_taken_for_finished(planned, monkeypatch):
    monkeypatch.setattr("samdpo.training.trainer.Trainer.describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        planned.train("finetune")
    monkeypatch.undo()
    for name, value in planned.environment().items():
        monkeypatch.setenv(name, value)
    assert not (planned.finetuned / "fold_0" / FINAL).is_file()
    planned.train("finetune", resume=True)
    assert (planned.finetuned / "fold_0" / "model.json").is_file()


@pytest.mark.parametrize(
    ("changed", "key"), [("lr=0.5", "lr"), ("batch_size=1", "batch_size"), ("network.frozen_stages=2", "network"),
                         ("prompting.use_points=false", "prompting")],
)
def test_other_settings_cannot_continue_a_run(stopped, changed, key):
    with pytest.raises(TrainingError, match=f"other settings.*{key}.*without --c"):
        stopped.train("finetune", "epochs=3", changed, resume=True)


def test_a_longer_training_goes_on_under_the_rates_of_its_length_alone(planned):
    kept = planned.trainer("finetune", "epochs=2", "lr_halving_epochs=1").settings()
    assert planned.trainer("finetune", "epochs=4", "lr_halving_epochs=2").changed_settings(kept) == []
    assert planned.trainer("finetune", "epochs=2", "lr_halving_epochs=2").changed_settings(kept) == [
        "lr_halving_epochs"]


def test_settings_that_the_stage_does_not_read_are_no_other_settings(planned):
    trainer = planned.trainer("unet")
    kept = {**trainer.settings(), "augmentation": to_dict(trainer.stage.augmentation)}  # as an older version wrote them
    assert "box_jitter" in kept["augmentation"] and "box_jitter" not in trainer.settings()["augmentation"]
    assert trainer.changed_settings(kept) == []
    kept["augmentation"]["rotation"] += 1
    assert trainer.changed_settings(kept) == ["augmentation"]


def test_a_run_of_a_version_that_knew_fewer_keys_of_the_prompts_and_the_network_goes_on(planned):
    trainer = planned.trainer("finetune", "prompting.tower_grid=0")
    kept = trainer.settings()
    for section, key in (("prompting", "tower_grid"), ("prompting", "presence"), ("network", "adapters")):
        assert kept[section].pop(key, None) is not None
    assert trainer.changed_settings(kept) == []
    assert planned.trainer("finetune", "prompting.tower_grid=48").changed_settings(kept) == ["prompting"]


@pytest.mark.parametrize("change", [
    lambda state: state.pop("settings"), lambda state: state.update(settings=[]), lambda state: state.update(history=1),
    lambda state: state.update(optimizer={}), lambda state: state.pop("epoch"),
])
def test_a_state_that_is_not_this_training_s_is_a_sentence(stopped, change):
    import torch

    (file,) = (stopped.finetuned / "fold_0").glob("checkpoint_latest/epoch_*/state.pt")
    state = torch.load(file, weights_only=True)
    change(state)
    file.unlink()
    torch.save(state, file)
    with pytest.raises((ModelFolderError, TrainingError), match="without --c"):
        stopped.train("finetune", "epochs=3", resume=True)


def test_more_epochs_are_no_other_settings(planned):
    interrupt(planned, "finetune", "epochs=3", after=2)
    trainer = planned.train("finetune", "epochs=4", resume=True)
    assert len(trainer.run_log.history["loss"]) == 4


def test_c_without_a_checkpoint_starts_at_the_beginning(planned):
    assert len(planned.train("finetune", resume=True).run_log.history["loss"]) == 2


@pytest.mark.parametrize("of", ["samdpo.networks.weights.atomic_path", "torch.save"])
def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays(stopped, monkeypatch, of):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(of, full)
    with pytest.raises(ConfigurationError, match="disk is full.*--c"):
        stopped.train("finetune", "epochs=3", resume=True)
    assert checkpoints.load_latest(stopped.finetuned / "fold_0")[1]["epoch"] == 1


def test_the_command_says_errors_in_a_sentence(planned, monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["samdpo_train", "901", "align", "0"])
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "samdpo_train 901 finetune 0" in caplog.text


def interrupted(*_, **__):
    raise KeyboardInterrupt
