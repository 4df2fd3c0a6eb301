"""Which model is meant, and what is wrong with one that cannot be used."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samdpo.errors import ConfigurationError, ModelFolderError, SamdpoError
from samdpo.files import read_json, write_json
from samdpo.model.description import read_description
from samdpo.model.folder import find_model, read_plans, trained_folds
from samdpo.model.predictor import Predictor
from samdpo.plans import load_plans, save_plans
from samdpo.prompting.prompter import Prompter
from samdpo.schema import merge, to_dict

FILES = ("checkpoint_final.safetensors", "model.json", "prompter/prompter.json", "prompter/towers.safetensors")


def load(model):
    return Predictor.from_model_folder(model, device="cpu")


def test_the_latest_stage_of_the_only_dataset_is_meant(aligned):
    assert find_model(None, None, None, None) == aligned.aligned
    assert find_model(901, None, None, "finetune") == aligned.finetuned
    assert find_model("901", "AlignTrainer", "samdpoPlans", None) == aligned.aligned


def test_a_finetuned_model_is_taken_where_nothing_is_aligned(finetuned):
    assert find_model(None, None, None, None) == finetuned.finetuned


def test_a_stage_that_has_not_ended_does_not_count(aligned):
    (aligned.aligned / "fold_0" / FILES[0]).unlink()
    assert find_model(None, None, None, None) == aligned.finetuned


def test_several_models_are_listed_with_the_flags_that_tell_them_apart(aligned):
    other = aligned.results.parent / "Dataset007_Other"
    shutil.copytree(aligned.results, other)
    with pytest.raises(ConfigurationError, match="Several trained models fit") as error:
        find_model(None, None, None, None)
    for model in ("Dataset007_Other/AlignTrainer__samdpoPlans__align", "Dataset901_PhantomXray/FinetuneTrainer"):
        assert model in str(error.value)
    assert find_model(7, None, None, None).parent == other
    shutil.copytree(aligned.aligned, aligned.results / "MineTrainer__samdpoPlans__align")
    with pytest.raises(ConfigurationError, match=r"(?s)-tr TRAINER.*MineTrainer__samdpoPlans__align"):
        find_model(901, None, None, None)
    assert find_model(901, "MineTrainer", None, None).name.startswith("MineTrainer")


def test_a_dataset_may_have_brackets_in_its_name(aligned):
    mine = aligned.results.rename(aligned.results.with_name("Dataset901_X[ray]"))
    assert find_model(mine.name, None, None, None).parent == mine


def test_a_plan_may_have_two_underscores_in_its_name(aligned):
    mine = aligned.finetuned.rename(aligned.results / "FinetuneTrainer__my__plan__finetune")
    assert find_model(901, None, "my__plan", None) == mine
    assert find_model(901, "FinetuneTrainer", None, "finetune") == mine
    assert find_model(901, None, None, None) == aligned.aligned


def test_where_no_model_fits_those_there_are_are_listed(planned):
    with pytest.raises(ConfigurationError, match=r"No model is trained yet.*samdpo_train DATASET finetune 0"):
        find_model(None, None, None, None)
    planned.train("finetune", "epochs=1")
    with pytest.raises(ConfigurationError, match=r"(?s)No trained model fits.*Trainer__samdpoPlans__finetune"):
        find_model(None, None, None, "align")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_named(finetuned, name):
    file = finetuned.finetuned / "fold_0" / name
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFolderError, match=name.split("/")[-1].replace(".", r"\.")):
        load(finetuned.finetuned)
    file.unlink()
    with pytest.raises(ModelFolderError, match=name.split("/")[-1].replace(".", r"\.")):
        load(finetuned.finetuned)


def test_a_folder_that_is_no_model_is_told_so(finetuned, tmp_path):
    with pytest.raises(ModelFolderError, match="is not a folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFolderError, match=r"plans\.json is missing"):
        load(tmp_path / "empty")
    (finetuned.finetuned / "plans.json").unlink()
    write_json(finetuned.finetuned / "plans.json", {"plans_name": "x"})
    with pytest.raises(Exception, match=r"plans\.json"):
        load(finetuned.finetuned)


def test_a_key_missing_in_model_json_is_named(finetuned):
    (finetuned.finetuned / "fold_0" / "model.json").unlink()
    write_json(finetuned.finetuned / "fold_0" / "model.json", {"stage": "finetune"})
    with pytest.raises(ModelFolderError, match=r"model\.json has no .*mask_cut"):
        load(finetuned.finetuned)


def test_a_fold_that_is_not_trained_is_told_with_those_that_are(finetuned):
    assert trained_folds(finetuned.finetuned, FILES[0]) == ["0"]
    with pytest.raises(ModelFolderError, match=r"fold_3.*trained folds: 0"):
        Predictor.from_model_folder(finetuned.finetuned, folds=[3])
    with pytest.raises(ModelFolderError, match=r"checkpoint_best\.safetensors"):
        Predictor.from_model_folder(finetuned.finetuned, checkpoint="checkpoint_best")


# ---- a model folder is data ------------------------------------------------------------------------------------------

HOSTILE = """
from pathlib import Path
from samdpo.training.finetune import FinetuneTrainer

Path("{marker}").touch()

class Evil(FinetuneTrainer):
    @staticmethod
    def build_network_architecture(plan):
        return FinetuneTrainer.build_network_architecture(plan)
"""


@pytest.fixture
def hostile(finetuned, tmp_path, monkeypatch) -> Path:
    """The folder of a model that brings a module of its own; ``ran`` beside it tells whether that was run."""
    model = finetuned.finetuned.rename(tmp_path / "downloaded")
    (model / "helper_of_model.py").write_text(HOSTILE.format(marker=tmp_path / "ran"))
    (model / "__init__.py").write_text(HOSTILE.format(marker=tmp_path / "ran"))
    (model / "announced-1.0.dist-info").mkdir()
    (model / "announced-1.0.dist-info" / "METADATA").write_text("Name: announced\nVersion: 1.0\n")
    (model / "announced-1.0.dist-info" / "entry_points.txt").write_text(
        "[samdpo.trainers]\nEvil = helper_of_model:Evil\n[samdpo.planners]\nEvil = helper_of_model:Evil\n"
        "[samdpo.backbones]\nEvil = helper_of_model:Evil\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return model


def says(model: Path, **changes: Any) -> Path:
    file = model / "fold_0" / "model.json"
    write_json(file, {**read_json(file), **changes})
    return model


@pytest.mark.parametrize("on_path", [False, True])
@pytest.mark.parametrize("trainer", [
    "helper_of_model:Evil", "downloaded.helper_of_model:Evil", "downloaded:Evil", "this:X", "antigravity:X", "Evil",
    "samdpo_ext_helper_of_model:Evil", "os:system", "../helper_of_model:Evil",
])
def test_no_module_is_imported_because_a_model_folder_names_it(hostile, monkeypatch, trainer, on_path):
    says(hostile, trainer=trainer, custom_architecture=True)
    for place in (hostile, hostile.parent):
        monkeypatch.chdir(place)
        if on_path:  # as with python -m
            sys.path.insert(0, str(place))
        with pytest.raises(ConfigurationError, match=r"is not run for it\. If you have it and trust it"):
            load(hostile)
    assert not (hostile.parent / "ran").exists()
    assert not {"helper_of_model", "downloaded", "this", "antigravity"} & set(sys.modules)


@pytest.mark.parametrize("backbone", ["Evil", "helper_of_model:Evil", "os:system"])
def test_no_backbone_is_taken_from_a_model_folder_or_by_its_modules_name(hostile, monkeypatch, backbone):
    plans = read_json(hostile / "plans.json")
    write_json(hostile / "plans.json", merge(plans, {"network": {"backbone": backbone}}))
    monkeypatch.syspath_prepend(str(hostile))  # even where Python would find it
    with pytest.raises(SamdpoError, match=r"'network\.backbone' is"):
        load(hostile)
    assert not (hostile.parent / "ran").exists()


@pytest.mark.parametrize("typed", ["helper_of_model:Evil", "downloaded.helper_of_model:Evil", "downloaded:Evil"])
def test_nothing_below_the_model_folder_is_run_even_where_it_is_typed(hostile, monkeypatch, typed):
    says(hostile, trainer=typed, custom_architecture=True)
    for place in (hostile, hostile.parent):
        monkeypatch.chdir(place)
        with pytest.raises(ConfigurationError, match=r"is data: nothing in it is run|cannot be imported"):
            Predictor.from_model_folder(hostile, device="cpu", trainer=typed)
    monkeypatch.setenv("nnUNet_extTrainer", str(hostile.parent))
    with pytest.raises(ConfigurationError, match="There is no trainer 'Evil'"):
        Predictor.from_model_folder(hostile, device="cpu", trainer="Evil")
    assert not (hostile.parent / "ran").exists()


def test_a_trainer_of_ones_own_is_run_where_it_is_typed_and_refused_with_what_to_type_where_not(
    hostile, monkeypatch, predict, fails, finetuned
):
    source = hostile.parent / "mine"
    source.mkdir()
    (hostile / "helper_of_model.py").rename(source / "own_trainers.py")
    says(hostile, trainer="own_trainers:Evil", custom_architecture=True)
    image = finetuned.raw / "imagesTs" / "xray_ts_001_0000.png"
    monkeypatch.chdir(source)
    words = ("-i", image, "-o", hostile.parent / "masks", "-m", hostile)
    assert "-tr own_trainers:Evil" in fails(*words)
    assert not (hostile.parent / "ran").exists()
    assert "own_trainers:Evil', but -tr names the class 'FinetuneTrainer'" in fails(*words, "-tr", "FinetuneTrainer")
    predict(*words, "-tr", "own_trainers:Evil")
    assert (hostile.parent / "ran").exists() and (hostile.parent / "masks" / "xray_ts_001.png").is_file()
    monkeypatch.delitem(sys.modules, "own_trainers")


def test_a_built_in_trainer_with_another_architecture_needs_no_word(hostile):
    says(hostile, trainer="samdpo.training.finetune:FinetuneTrainer", custom_architecture=True)
    assert load(hostile).plans.plans_name == "samdpoPlans"


WRONG_KINDS = {
    "trainer": [5, None, [], {}], "stage": [5, None, "nowhere"], "mask_cut": ["a", None, [0.5], float("nan"), 7],
    "custom_architecture": ["yes", 1], "confidence_threshold": [5, {"lung": "a"}, {"lung": float("inf")}, ["lung"]],
    "clicks": [5, {"lung": [1.0]}, {"lung": [0.0, 0.0, 9.0]}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG_KINDS.items() for value in values])
def test_a_key_of_model_json_of_a_wrong_kind_is_named(finetuned, key, value):
    says(finetuned.finetuned, **{key: value})
    with pytest.raises(SamdpoError, match=r"model\.json.*" + key if key != "stage" or value != "nowhere" else value):
        load(finetuned.finetuned)


@pytest.mark.parametrize("trainer", [":", "", "a:", "a b:c"])
def test_a_trainer_that_is_no_name_is_told_so(finetuned, trainer):
    says(finetuned.finetuned, trainer=trainer, custom_architecture=True)
    with pytest.raises(ConfigurationError, match=r"model\.json names the trainer"):
        load(finetuned.finetuned)


def test_keys_that_other_versions_write_are_passed_over(finetuned):
    says(finetuned.finetuned, of_a_newer_version={"deep": [1]}, held_back_dice=float("nan"))
    assert load(finetuned.finetuned).mask_cut == 0.5


def test_prompts_of_other_structures_than_the_plans_are_refused(finetuned):
    file = finetuned.finetuned / "fold_0" / "prompter" / "prompter.json"
    content = read_json(file)
    content["structures"]["lung"]["label"] = 2
    write_json(file, content)
    with pytest.raises(ModelFolderError, match=r"prompts for the structures \{'lung': 2\}.*has \{'lung': 1\}"):
        load(finetuned.finetuned)


DEEP = json.loads("[" * 300 + "]" * 300)
ODD = ("../../x", "/abs/x", ".", "", "os:system", DEEP, 10**400, float("nan"), None, [], {}, True, -1, 10**9)


def places(content: Any, *at: Any) -> list[tuple[Any, ...]]:
    """Paths of all values of nested JSON."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [at] * bool(at) + [place for key, value in inner for place in places(value, *at, key)]


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


READERS = {
    "plans.json": lambda model: read_plans(model),
    "fold_0/model.json": lambda model: read_description(model / "fold_0" / "model.json"),
    "fold_0/prompter/prompter.json": lambda model: Prompter.load(model / "fold_0" / "prompter", may_download=False),
}


@pytest.mark.parametrize("name", READERS)
def test_whatever_stands_in_a_file_of_a_model_it_is_read_or_a_sentence(finetuned, name):
    """Each value in turn replaced by some of other kinds, by names that are paths, and by names of code."""
    file, before = finetuned.finetuned / name, sorted(finetuned.root.rglob("*"))
    content, refused = read_json(file), 0
    if "configurations" in content:
        content["configurations"] = {"finetune": content["configurations"]["finetune"]}  # a second's worth of a plan
    odd = itertools.cycle(ODD)
    for place in places(content):
        for value in itertools.islice(odd, 3):
            write_json(file, changed(content, place, value))
            try:
                READERS[name](finetuned.finetuned)
            except SamdpoError as error:
                refused += 1
                assert name.split("/")[-1] in str(error)
    assert refused > len(places(content)) and sorted(finetuned.root.rglob("*")) == before


def test_a_file_of_a_model_that_is_nested_without_end_is_a_sentence(finetuned):
    for name in READERS:
        file = finetuned.finetuned / name
        whole = file.read_text()
        file.unlink()
        file.write_text("[" * 100_000)
        with pytest.raises(SamdpoError, match=r"nested too deeply"):
            load(finetuned.finetuned)
        file.write_text(whole)


def test_prediction_downloads_nothing_that_only_a_model_folder_names(finetuned, tmp_path, monkeypatch):
    import huggingface_hub

    def asked(*words, **more):
        raise AssertionError(f"the network was asked for {words}")

    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    monkeypatch.setattr(huggingface_hub, "model_info", asked)
    file = finetuned.finetuned / "fold_0" / "prompter" / "prompter.json"
    content = read_json(file)
    write_json(file, merge(content, {"prompting": {"image_text_model": "hf-hub:owner/tiny", "saliency": "gscorecam"}}))
    with pytest.raises(ConfigurationError, match="fetch it first: hf download owner/tiny"):
        load(finetuned.finetuned)
    write_json(file, merge(content, {"prompting": {"answers": "vlm", "vlm": "owner/vlm-that-is-nowhere"}}))
    predictor = load(finetuned.finetuned)
    with pytest.raises(ConfigurationError, match="fetch it first: hf download owner/vlm-that-is-nowhere"):
        predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")


def test_a_model_says_every_value_of_its_own_stage_and_nothing_of_others(aligned):
    """So that no default of a later version, and no edit of the dataset's plan, changes what was trained."""
    planned = load_plans(aligned.preprocessed / "samdpoPlans.json")
    for model, stage in ((aligned.finetuned, "finetune"), (aligned.aligned, "align")):
        for file in (model / "plans.json", model / "fold_0" / "plans.json"):
            content = read_json(file)
            own = read_plans(model).stage(stage)
            assert content["configurations"] == {stage: to_dict(own)}
            assert content == to_dict(read_plans(model))
            assert own.objective == planned.stage(stage).objective


def test_a_model_of_an_older_version_with_a_whole_plan_is_the_same_model(aligned):
    short, planned = read_plans(aligned.aligned), load_plans(aligned.preprocessed / "samdpoPlans.json")
    image = (np.random.default_rng(1).random((64, 64)) * 255).astype(np.float32)

    def probabilities():
        predictor = load(aligned.aligned)
        predictor.set_image(image)
        return predictor.predict().probabilities

    before = probabilities()
    whole = replace(short, configurations={**planned.configurations, **short.configurations})
    for file in (aligned.aligned / "plans.json", aligned.aligned / "fold_0" / "plans.json"):
        save_plans(whole, file)
    assert len(read_plans(aligned.aligned).configurations) > 2
    assert (probabilities() == before).all()
