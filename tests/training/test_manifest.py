"""A fold's files are only read together: whenever a run ends, the fold holds the old model, the new one, or says so."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trained_models import UNSEEN, copied

from samdpo.errors import ConfigurationError, ModelFolderError, TrainingError
from samdpo.files import locked, read_json, write_json, write_text
from samdpo.model import description
from samdpo.model.folder import read_plans
from samdpo.model.predictor import Predictor
from samdpo.networks.weights import load_weights, save_weights
from samdpo.plans import load_plans, save_plans
from samdpo.training import manifest
from samdpo.training.checkpoints import BEST, FINAL, LATEST

OLD, NEW = 1.0, 2.0


class Killed(BaseException):
    """Nothing catches it and nothing is tidied up after it, but in ``finally``."""


def write_model(fold: Path, value: float, best: bool = False) -> None:
    """What the end of a training does, with weights, settings and a plan that all say ``value``."""
    manifest.begin(fold, {"settings": {"seed": value}})
    if best:
        save_weights({"w": torch.tensor(value)}, fold / LATEST / BEST)
    with manifest.trained(fold, {"settings": {"seed": value}}) as folder:
        write_json(folder / "model.json", {"value": value})
        save_weights({"tower": torch.tensor(value)}, folder / "prompter" / "towers.safetensors")
        write_text(folder / "prompter" / f"only_{value:g}.json", "{}")
        save_weights({"w": torch.tensor(value)}, folder / FINAL)
        write_json(manifest.shared(folder) / "plans.json", {"value": value})
        write_json(folder / "plans.json", {"value": value})


def what_it_says(fold: Path) -> set[float]:
    """The values of all files that make the model."""
    found = {float(load_weights(fold / FINAL)["w"]), read_json(fold / "model.json")["value"],
             float(load_weights(fold / "prompter" / "towers.safetensors")["tower"]),
             read_json(fold / "plans.json")["value"], read_json(fold.parent / "plans.json")["value"]}
    found |= {float(file.stem.removeprefix("only_")) for file in fold.glob("prompter/only_*")}
    return found | ({float(load_weights(fold / BEST)["w"])} if (fold / BEST).is_file() else set())


CHANGES = ("replace", "unlink", "mkdir", "rename")


def killed_at(monkeypatch, number: int) -> None:
    """The process ends before the ``number``-th change of names on the disk: no later one happens either."""
    count = 0

    def counting(real):
        def change(*arguments, **named):
            nonlocal count
            count += 1
            if count >= number:
                raise Killed
            return real(*arguments, **named)
        return change

    for name in CHANGES:
        monkeypatch.setattr(os, name, counting(getattr(os, name)))


@pytest.mark.parametrize("over", ["nothing", "a finished fold", "a fold of an older version", "one killed likewise"])
def test_killed_at_any_change_on_the_disk_a_fold_is_whole_or_says_that_it_is_not(tmp_path, monkeypatch, over):
    number, ended = 0, False
    while not ended:
        number += 1
        fold = tmp_path / str(number) / "fold_0"
        if over != "nothing":
            write_model(fold, OLD, best=True)
        if over == "a fold of an older version":
            (fold / description.MANIFEST).unlink()
        tries = 2 if over == "one killed likewise" else 1
        for _ in range(tries):
            with monkeypatch.context() as patch:
                killed_at(patch, number)
                try:
                    write_model(fold, NEW)
                    ended = True
                except Killed:
                    pass
        assert over == "nothing" or (fold / FINAL).is_file(), "there is a model all the time"
        mixed = False
        if (fold / FINAL).is_file():
            try:
                description.check_fold(fold)
            except ModelFolderError as error:
                mixed = True
                assert "cut off" in str(error) and "--c" in str(error)
            else:
                settings = {read_json(fold / "model.json")["value"], float(load_weights(fold / FINAL)["w"])}
                assert len(settings) == 1, "weights are read with their own settings"
        assert not (mixed and manifest.is_finished(fold))
        # What training begins with:
        assert manifest.complete(fold) or not mixed, "a mixture is completed"
        if (fold / FINAL).is_file():
            (value,) = what_it_says(fold)
            assert value == OLD or manifest.is_finished(fold) or tries == 2
            assert value == NEW or not ended
    assert number > 8


def test_of_the_model_before_nothing_is_left(tmp_path):
    fold = tmp_path / "fold_0"
    write_model(fold, OLD, best=True)
    write_json(fold / "validation" / "summary.json", {})
    write_model(fold, NEW)
    assert what_it_says(fold) == {NEW}
    assert not (fold / BEST).exists() and not (fold / "validation" / "summary.json").exists()


def test_a_damaged_weight_is_refused_and_a_changed_setting_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    fold = tmp_path / "fold_0"
    write_model(fold, OLD)
    write_json(fold / "model.json", {"value": 3})
    description.check_fold(fold)
    assert "model.json has been changed" in caplog.text
    for name in ("prompter/towers.safetensors", FINAL):
        damage(fold / name)
        with pytest.raises(ModelFolderError, match=f"{Path(name).name} is not the one .*damaged"):
            description.check_fold(fold)
    with pytest.raises(ModelFolderError, match="damaged"):
        description.check_weights(fold / FINAL)
    (fold / FINAL).unlink()
    with pytest.raises(ModelFolderError, match=f"{FINAL} is missing"):
        description.check_fold(fold)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"files": [1]}', b'{"files": {"a": 1}}', b"\xff", b"{",
                                     b'{"files": {"../a": {"sha256": ""}}}',
                                     b'{"files": {"a\\u0000": {"sha256": ""}}}'])
def test_a_list_that_is_none_is_a_sentence(tmp_path, content):
    fold = tmp_path / "fold_0"
    write_model(fold, OLD)
    (fold / description.MANIFEST).write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"manifest\.json"):
        description.check_fold(fold)


def test_a_list_moves_no_file_from_or_to_outside(tmp_path):
    fold, thesis = tmp_path / "results" / "model" / "fold_0", tmp_path / "results" / "model" / "thesis"
    manifest.begin(fold, {})
    write_text(thesis, "mine")
    write_json(fold / LATEST / "trained" / description.MANIFEST, {"files": {"../../../thesis": {"sha256": ""}}})
    with pytest.raises(ModelFolderError, match=r"'\.\.', which is the name of a folder itself"):
        manifest.complete(fold)
    assert thesis.read_text() == "mine" and not (tmp_path / "thesis").exists()


def test_a_model_of_an_older_version_is_read_without_a_list(finetuned):
    (finetuned.finetuned / "fold_0" / description.MANIFEST).unlink()
    (finetuned.finetuned / "fold_0" / description.PLANS).unlink()
    Predictor.from_model_folder(finetuned.finetuned)


def test_a_finished_fold_trained_anew_and_killed_is_not_called_finished(finetuned, monkeypatch):
    """The old model predicts until the new one is whole, ``--c`` goes on with the new one, and neither is mixed."""
    fold = finetuned.finetuned / "fold_0"
    old, plans = (fold / FINAL).read_bytes(), (finetuned.finetuned / "plans.json").read_bytes()
    anew = ("epochs=2", "seed=77", "lr=1e-4")
    with monkeypatch.context() as patch:
        patch.setattr("samdpo.training.finetune.FinetuneTrainer.train_step", killed)
        with pytest.raises(Killed):
            finetuned.train("finetune", *anew)
    assert (fold / FINAL).read_bytes() == old and (finetuned.finetuned / "plans.json").read_bytes() == plans
    Predictor.from_model_folder(finetuned.finetuned)
    with pytest.raises(TrainingError, match="begun anew and has not finished"):
        validate_only(finetuned, *anew)
    trainer = finetuned.train("finetune", *anew, resume=True)
    assert len(trainer.run_log.history["loss"]) == 2 and (fold / FINAL).read_bytes() != old
    assert read_json(fold / "model.json")["seed"] == 77
    assert load_plans(finetuned.finetuned / "plans.json").stage("finetune").seed == 77
    assert not (fold / LATEST).exists()
    description.check_fold(fold)


def test_what_is_finished_with_other_settings_is_not_what_c_asks_for(finetuned):
    with pytest.raises(TrainingError, match=r"finished.*other settings \(lr\).*leaving out --c"):
        finetuned.train("finetune", "epochs=10", "lr=1e-5", resume=True)


def test_align_goes_on_only_from_the_weights_it_was_begun_with(finetuned, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("samdpo.align.trainer.AlignTrainer.train_step", killed)
        with pytest.raises(Killed):
            finetuned.train("align", UNSEEN)
    write_changed_weights(finetuned.finetuned / "fold_0" / FINAL)
    with pytest.raises(ModelFolderError, match="is not the one"):
        finetuned.train("align", UNSEEN, resume=True)
    (finetuned.finetuned / "fold_0" / description.MANIFEST).unlink()
    with pytest.raises(TrainingError, match="begun from other weights"):
        finetuned.train("align", UNSEEN, resume=True)


def test_one_fold_is_trained_by_one_process_at_a_time(finetuned):
    with locked(finetuned.finetuned / ".fold_0.lock"), pytest.raises(ConfigurationError, match="at this moment"):
        finetuned.train("finetune")
    finetuned.train("finetune", "epochs=10", resume=True)


def test_what_a_killed_run_left_in_a_fold_is_removed_by_the_next(finetuned):
    fold = finetuned.finetuned / "fold_0"
    from samdpo.files import temporary_beside

    left = temporary_beside(fold / "prompter" / "towers.safetensors")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", "-4194304-"))
    left.write_text("half")
    finetuned.train("finetune", "epochs=10", resume=True)
    assert not left.exists()


def test_folds_are_predicted_with_the_plan_they_were_trained_with(finetuned, tmp_path):
    """A later training of another fold writes plans.json of the model folder, which the first one does not follow."""
    model = copied(finetuned, tmp_path / "other").finetuned
    shared = load_plans(model / "plans.json")
    other = replace(shared, inference=replace(shared.inference, mirror=not shared.inference.mirror))
    (model / "fold_1").mkdir()
    for file in (model / "plans.json", model / "fold_1" / "plans.json"):
        save_plans(other, file)
    assert read_plans(model, ["0"]) == shared and read_plans(model, ["1"]) == other
    with pytest.raises(ModelFolderError, match=r"different plans \(inference\).*-f"):
        read_plans(model, ["0", "1"])
    edited = replace(other, kept_gib=1.0)
    save_plans(edited, model / "plans.json")  # by a person
    assert read_plans(model, ["0", "1"]) == edited


def test_a_fold_of_an_older_version_keeps_its_plan_when_another_one_is_trained_anew(tmp_path):
    write_model(tmp_path / "fold_0", OLD)
    for name in ("manifest.json", "plans.json"):  # which older versions do not write
        (tmp_path / "fold_0" / name).unlink()
    write_model(tmp_path / "fold_1", NEW)
    write_model(tmp_path / "fold_1", NEW)
    assert read_json(tmp_path / "fold_0" / "plans.json")["value"] == OLD
    assert read_json(tmp_path / "fold_1" / "plans.json")["value"] == NEW == read_json(tmp_path / "plans.json")["value"]


def killed(*_, **__):
    raise Killed


def damage(file: Path) -> None:
    """One bit, in a new file: a fixture's may be linked."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


def write_changed_weights(file: Path) -> None:
    save_weights({name: tensor + 1 if tensor.is_floating_point() else tensor
                  for name, tensor in load_weights(file).items()}, file)


def validate_only(phantoms, *settings: str) -> None:
    phantoms.trainer("finetune", *settings).train(only_validate=True)
