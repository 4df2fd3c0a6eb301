"""The nnU-Net baseline: what it may see, when it stops, and what it leaves in the fold."""

from __future__ import annotations

import copy
import importlib.util
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from trained_models import NUMBER, PHANTOMS, Phantoms, _as_current, copied

from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.errors import ConfigurationError, ModelFolderError, TrainingError
from samdpo.files import read_json, write_json
from samdpo.lab.baselines.nnunet import run_nnunet
from samdpo.lab.baselines.nnunet_files import RawForm, check_plans, check_preprocessed, read_checkpoint
from samdpo.model.predictor import Predictor
from samdpo.networks.weights import load_weights
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.planning.splits import load_splits
from samdpo.training import checkpoints
from samdpo.training.fold_data import data_hashes
from samdpo.training.get_trainer import get_trainer

MINUTES = 0.03


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    """10 phantoms of which fold 0 has 3 labelled ones to train on and 2 to validate; no prompts, nnU-Net takes none."""
    made = Phantoms(tmp_path_factory.mktemp("nnunet"))
    with _as_current(made):
        make_phantom_dataset("xray", made.raw, n_labelled=10, n_unlabelled=2, n_test=0, seed=0, size=(96, 112))
        plan_and_preprocess(NUMBER, labelled=0.4)
    return made


@pytest.fixture
def phantoms(original: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """The test's own copy."""
    with _as_current(copied(original, tmp_path / "roots")) as own:
        yield own


@pytest.fixture(scope="module")
def trained(original: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phantoms]:
    """Fold 0 after two seconds of nnU-Net's training."""
    with _as_current(copied(original, tmp_path_factory.mktemp("nnunet") / "roots")) as made:
        made.train("nnunet", "epochs=2", f"minutes={MINUTES}", processes=1)
        yield made


def fold_of(made: Phantoms) -> Path:
    return made.results / "NnUNetTrainer__samdpoPlans__nnunet" / "fold_0"


def names_below(folder: Path) -> set[str]:
    return {f.name.split(".")[0] for f in folder.rglob("*") if not f.is_dir()}


def test_nnunet_is_given_the_labelled_training_cases_and_no_other(trained):
    fold, nnunet = load_splits(trained.preprocessed)[0], fold_of(trained) / "nnunet"
    assert names_below(nnunet / "raw" / PHANTOMS / "imagesTr") == {f"{case}_0000" for case in fold.labelled}
    assert names_below(nnunet / "raw" / PHANTOMS / "labelsTr") == set(fold.labelled)
    split = read_json(nnunet / "preprocessed" / PHANTOMS / "splits_final.json")
    assert [sorted(part["train"]) for part in split] == [sorted(fold.labelled)]
    seen = names_below(nnunet / "raw") | names_below(nnunet / "preprocessed")
    assert not [name for name in seen for case in (*fold.val, *fold.unlabelled) if name.startswith(case)]


def test_the_minutes_stop_it_and_the_learning_rate_falls_with_them(trained):
    described, cost = (read_json(fold_of(trained) / name) for name in ("model.json", "cost.json"))
    assert 1 <= described["iterations"] < 2 * 250 and cost["train_minutes"] >= MINUTES == cost["minutes_allowed"]
    history = read_json(fold_of(trained) / "nnunet" / "result.json")["history"]
    spent = np.cumsum(history["seconds_an_iteration"]) / (60 * MINUTES)
    before = np.concatenate([[0], spent[:-1]])
    assert history["lr"][0] == 0.01
    if described["iterations"] == len(spent):  # a point an iteration
        assert history["lr"] == pytest.approx((0.01 * (1 - before) ** 0.9).tolist())
    assert spent[-1] >= 1 > before[-1], "no iteration begins after the end, and the one before begins in time"


def test_the_fold_is_described_as_every_other(trained):
    fold, described = load_splits(trained.preprocessed)[0], read_json(fold_of(trained) / "model.json")
    assert described["labelled_cases"] == sorted(fold.labelled) and described["data"] == data_hashes(fold)
    assert described["trainer"] == "samdpo.lab.baselines.nnunet:NnUNetTrainer"
    assert described["configuration"] == "2d"
    own = fold_of(trained)
    assert (own / "progress.png").is_file() and not (own / checkpoints.LATEST).exists()
    assert (own.parent / "plans.json").is_file() and (own.parent / "dataset.json").is_file()


def test_every_validation_case_is_predicted_in_its_native_size_and_evaluated(trained):
    fold, validation = load_splits(trained.preprocessed)[0], fold_of(trained) / "validation"
    entries = read_json(validation / "summary.json")["metric_per_case"]
    assert {Path(entry["prediction_file"]).stem for entry in entries} == set(fold.val)
    for case in fold.val:
        mask = read_label(validation / f"{case}.png")
        assert mask.shape == read_image(trained.raw / "imagesTr" / f"{case}_0000.png").data.shape[1:]
        assert set(np.unique(mask)) <= {0, 1}


def test_the_weights_are_those_with_which_nnunets_own_command_predicts(trained):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = fold_of(trained) / "nnunet" / "results" / PHANTOMS / "nnUNetTrainer__nnUNetPlans__2d"
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    theirs, ours = predictor.list_of_parameters[0], load_weights(fold_of(trained) / checkpoints.FINAL)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert {t.data_ptr() for t in predictor.network.state_dict().values()} == {
        predictor.network.state_dict()[name].data_ptr() for name in ours
    }, "every tensor of the network once"


def test_our_predictor_says_which_command_predicts(trained):
    with pytest.raises(ModelFolderError, match="nnUNetv2_predict_from_modelfolder -i"):
        Predictor.from_model_folder(fold_of(trained).parent, device="cpu")


class Harmful:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_checkpoint_that_holds_more_than_tensors_is_not_unpickled(trained, tmp_path, monkeypatch):
    """Neither where a training goes on nor where nnU-Net predicts with it."""
    monkeypatch.chdir(tmp_path)
    model = fold_of(trained) / "nnunet" / "results" / PHANTOMS / "nnUNetTrainer__nnUNetPlans__2d"
    final = model / "fold_0" / "checkpoint_final.pth"
    content, whole = read_checkpoint(final), final.read_bytes()
    trainer = trained.trainer("nnunet", "epochs=2", f"minutes={MINUTES}", processes=1)
    trainer.initialize()
    trainer.latest.parent.mkdir()
    try:
        for wrong in ({**content, "logging": Harmful()}, Harmful(), {**content, "trainer_name": "Another"}, [1]):
            for file in (final, trainer.latest):
                torch.save(wrong, file)
            with pytest.raises(ModelFolderError, match=r"checkpoint_latest\.pth .*Nothing of it was run"):
                trainer.load_checkpoint()
            with pytest.raises(ModelFolderError, match=r"checkpoint_final\.pth .*Nothing of it was run"):
                trainer.perform_actual_validation()
    finally:
        final.write_bytes(whole)
        shutil.rmtree(trainer.latest.parent)
    assert not (tmp_path / "ran").exists()


def test_nnunets_plans_name_networks_and_layers_of_its_own_libraries(trained, tmp_path):
    plans = fold_of(trained) / "nnunet" / "preprocessed" / PHANTOMS / "nnUNetPlans.json"
    check_plans(plans)
    content = read_json(plans)
    for wrong in ("os.system", "subprocess.Popen", "torch.nn.functional.torch.os.system", "torch.nn.Linear.x", 5):
        for key in ("network_class_name", "conv_op"):
            changed = copy.deepcopy(content)
            architecture = changed["configurations"]["2d"]["architecture"]
            (architecture if key in architecture else architecture["arch_kwargs"])[key] = wrong
            write_json(tmp_path / "plans.json", changed)
            with pytest.raises(ModelFolderError, match=r"plans\.json: 'configurations\.2d\.architecture' names"):
                check_plans(tmp_path / "plans.json")


def test_pickled_properties_of_its_cases_hold_arrays_alone(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preprocessed = fold_of(trained) / "nnunet" / "preprocessed"
    assert list(preprocessed.rglob("*.pkl"))
    check_preprocessed(preprocessed)
    (tmp_path / "case.pkl").write_bytes(pickle.dumps({"spacing": Harmful()}))
    with pytest.raises(TrainingError, match=r"case\.pkl holds something else.*names posix\.system"):
        check_preprocessed(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", [
    {}, {"ending": "/../x.png", "linked": True, "values": []}, {"ending": ".png", "linked": True, "values": 5},
    {"ending": ".png", "linked": True, "values": [["a", 1]]},
])
def test_a_form_that_is_none_is_a_sentence(form):
    with pytest.raises(ModelFolderError, match="nnU-Net was given"):
        RawForm.from_dict(form)


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on(phantoms):
    trainer = phantoms.trainer("nnunet", f"minutes={MINUTES}", processes=1)
    trainer.save_seconds = 0
    trainer.take_over = lambda: None  # as if killed before its end
    trainer.initialize()
    trainer.run_training()
    stopped = torch.load(trainer.latest, weights_only=False)["budget"]
    assert not (fold_of(phantoms) / checkpoints.FINAL).exists() and stopped["iterations"] > 0
    with pytest.raises(TrainingError, match="other settings \\(seed\\)"):
        phantoms.train("nnunet", "seed=1", resume=True)
    phantoms.train("nnunet", f"minutes={2 * MINUTES}", resume=True, processes=1)
    result = read_json(fold_of(phantoms) / "nnunet" / "result.json")
    assert result["iterations"] > stopped["iterations"] and result["seconds"] >= 2 * MINUTES * 60
    assert result["history"]["loss"][: len(stopped["history"]["loss"])] == stopped["history"]["loss"]
    assert not trainer.latest.exists()


def test_without_nnunet_it_says_what_to_install(phantoms, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "nnunetv2" else found(name, *a))
    with pytest.raises(ConfigurationError, match="pip install nnunetv2"):
        get_trainer(NUMBER, "nnunet", 0, device="cpu")


def test_a_raw_case_that_is_gone_is_named(phantoms):
    case = load_splits(phantoms.preprocessed)[0].val[0]
    (phantoms.raw / "imagesTr" / f"{case}_0000.png").unlink()
    (phantoms.raw / "labelsTr" / f"{case}.png").unlink()
    trainer = phantoms.trainer("nnunet")
    trainer.initialize()
    with pytest.raises(TrainingError, match=f"no case '{case}' any more"):
        trainer.run_training()


def test_what_nnunet_says_last_is_in_the_error(tmp_path):
    with pytest.raises(TrainingError, match="nnU-Net's learn ended with code 1: KeyError: 'learn'.*nnunet_log.txt"):
        run_nnunet("learn", tmp_path, {}, torch.device("cpu"), 1)
