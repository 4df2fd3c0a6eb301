"""A fold prompted by a pretrained image-text model from a local folder, trained on, and predicted from its folder."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from clip_folders import write_clip

from samdpo.dataset.images import read_label
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.errors import ConfigurationError, ModelFolderError, PlansError
from samdpo.files import read_json, write_json
from samdpo.model.predictor import Predictor
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.plans import Plans, load_plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting import making
from samdpo.prompting.frozen_features import FeatureExtractor
from samdpo.prompting.making import make_prompts, make_prompts_of, prompts_folder
from samdpo.prompting.open_clip_files import find_open_clip
from samdpo.prompting.open_clip_loading import shared_open_clip
from samdpo.prompting.open_clip_model import OpenClipModel
from samdpo.prompting.pretrained import SliceSaliency, calibrated_prompter
from samdpo.prompting.prompter import Prompter

EMBED_DIM = 48


@pytest.fixture(scope="module")
def _tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_clip(folder)
    return folder


@pytest.fixture
def model_folder(_tiny, tmp_path) -> Path:
    """A CLIP's folder of the test's own."""
    return Path(shutil.copytree(_tiny, tmp_path / "clip"))


@pytest.fixture
def with_clip(planned, model_folder):
    """Planned phantoms whose plan names the CLIP and its text tower."""
    file = planned.preprocessed / "samdpoPlans.json"
    content = read_json(file)
    content["prompting"] |= {
        "image_text_model": f"local-dir:{model_folder}", "saliency": "gscorecam", "gscorecam_top_k": 12,
        "text_encoder": "image_text_model",
    }
    content["network"]["text_dim"] = EMBED_DIM
    write_json(file, content)
    return planned


@pytest.fixture
def heard(monkeypatch, caplog):
    """caplog that hears the package."""
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level("INFO", "samdpo")
    return caplog


def plans_of(phantoms) -> Plans:
    return load_plans(phantoms.preprocessed / "samdpoPlans.json")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each slice whose saliency is computed."""
    slices, activations = [], OpenClipModel.channel_activations

    def count(self, view, texts):
        slices.append(len(texts))
        return activations(self, view, texts)

    monkeypatch.setattr(OpenClipModel, "channel_activations", count)
    return slices


def test_samdpo_prompt_prompts_a_whole_fold(with_clip, model_folder, monkeypatch):
    from samdpo.cli.prompt import main

    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    monkeypatch.setattr(sys, "argv", ["samdpo_prompt", "901", "0", "-device", "cpu", "--figure", "--figure_cases", "2"])
    slices = counted(monkeypatch)
    monkeypatch.setattr(FeatureExtractor, "__call__", None)  # the backbone is not needed
    main()
    plans = plans_of(with_clip)
    store = make_prompts(plans, 0, "cpu")
    split = read_json(with_clip.preprocessed / "splits_final.json")[0]
    assert store.cases() == sorted({*split["labelled"], *split["unlabelled"], *split["val"]})
    assert len(slices) == len(store.cases())  # calibrating on the labelled ones has cost nothing
    for case in store.cases():
        (prompt,) = store.get(case, 0)
        assert prompt.present and prompt.regions.any() and len(prompt.boxes) and len(prompt.points)
        assert prompt.text_embedding.shape == (EMBED_DIM,)
        assert abs(np.linalg.norm(prompt.text_embedding) - 1) < 1e-5
    assert len({store.get(case, 0)[0].saliency.tobytes() for case in store.cases()}) == len(store.cases())
    assert (store.folder / "prompts.png").is_file()


def test_the_prompters_folder_names_the_model_and_holds_no_weights_of_it(with_clip, model_folder):
    folder = make_prompts(plans_of(with_clip), 0, "cpu").prompter_folder
    settings = read_json(folder / "prompter.json")
    assert settings["prompting"]["image_text_model"] == f"local-dir:{model_folder}"
    assert settings["image_text_checksum"] == find_open_clip(f"local-dir:{model_folder}").checksum
    assert settings["calibrations"]["lung"]["least_area"] > 0
    assert Prompter.load(folder).model.clip.checksum == settings["image_text_checksum"]


def test_every_fold_has_the_same_saliency_which_is_computed_once(with_clip, monkeypatch):
    slices, plans = counted(monkeypatch), plans_of(with_clip)
    one, other = (make_prompts(plans, fold, "cpu") for fold in (0, 1))
    assert one.key != other.key
    assert len(slices) == len({*one.cases(), *other.cases()}) < len(one.cases()) + len(other.cases())


def test_other_weights_in_the_same_folder_give_other_prompts(with_clip, model_folder):
    plans = plans_of(with_clip)
    before = make_prompts(plans, 0, "cpu")
    maps = {case: before.get(case, 0)[0].saliency for case in before.cases()}
    write_clip(model_folder, seed=1)
    after = make_prompts(plans, 0, "cpu")
    assert after.key != before.key
    assert all((after.get(case, 0)[0].saliency != one).any() for case, one in maps.items())


def test_a_new_slice_is_prompted_as_the_kept_one_was(with_clip):
    plans = plans_of(with_clip)
    store = make_prompts(plans, 0, "cpu")
    slices = SliceStore(with_clip.preprocessed / plans.preprocessing.data_identifier)
    prompter = Prompter.load(store.prompter_folder)
    for case in store.cases()[:3]:
        (kept,), (new,) = store.get(case, 0), prompter.prompt(slices.image(case, 0))
        assert (kept.saliency == new.saliency).all() and (kept.boxes == new.boxes).all()
        assert (kept.points == new.points).all()


def test_training_and_prediction_from_the_model_folder(with_clip, model_folder):
    trainer = with_clip.train("finetune", "epochs=1")
    assert not (trainer.fold_folder / "prompter" / "towers.safetensors").exists()
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    for file in sorted((trainer.fold_folder / "validation").glob("*.png")):
        image = with_clip.raw / "imagesTr" / f"{file.stem}_0000.png"
        predictor.set_image(image)
        predicted = predictor.predict()
        np.testing.assert_array_equal(predicted.segmentation, read_label(file))
        (used,) = predicted.report["structures"]["lung"]["prompts"]
        assert used["boxes"] == trainer.data.prompts.get(file.stem, 0)[0].boxes.tolist()

    write_clip(model_folder, seed=1)
    shared_open_clip.cache_clear()  # as in another process
    changed = Predictor.from_model_folder(trainer.folder, device="cpu")
    with pytest.raises(ModelFolderError, match="SHA-256"):
        changed.set_image(image)
    shutil.rmtree(model_folder)
    with pytest.raises(ConfigurationError, match="that folder does not exist"):
        Predictor.from_model_folder(trainer.folder, device="cpu")


def test_align_does_not_refit_a_pretrained_model_and_says_so(with_clip, heard):
    one_component = "structures.lung.components=1"
    with_clip.train("finetune", one_component, "epochs=1")
    trainer = with_clip.trainer("align_preferences", one_component, "prompt_rounds=2")
    trainer.initialize()
    trainer.on_train_start()
    trainer.run_log.close()
    assert heard.text.count("is pretrained and is not refitted") == 1
    assert trainer.data.prompts.folder == prompts_folder(trainer.plans, 0)


def test_a_text_dimension_that_does_not_fit_is_a_sentence(with_clip):
    plans = plans_of(with_clip).with_overrides("finetune", ["network.text_dim=384"])
    with pytest.raises(PlansError, match="Set 'network.text_dim' to 48"):
        make_prompts(plans, 0, "cpu")


def test_a_clip_may_be_used_with_minilm(with_clip):
    plans = plans_of(with_clip).with_overrides(
        "finetune", ["prompting.text_encoder=minilm", "network.text_dim=384"]
    )
    store = make_prompts(plans, 0, "cpu")
    assert store.get(store.cases()[0], 0)[0].text_embedding.shape == (384,)
    assert prompts_folder(plans, 0) == store.folder


@pytest.mark.parametrize(("settings", "said"), [
    (["prompting.image_text_model=clip"], "expected lite_towers, biomedclip, hf-hub:OWNER/NAME or local-dir:FOLDER"),
    (["prompting.image_text_model=biomedclip"], "set 'saliency' to 'gscorecam'"),
    (["prompting.text_encoder=image_text_model"], "set 'text_encoder' to 'minilm'"),
])
def test_a_plan_that_does_not_fit_together_is_refused(planned, settings, said):
    with pytest.raises(PlansError, match=said):
        plans_of(planned).with_overrides("finetune", settings)


@pytest.fixture
def volumes_with_clip(model_folder, tmp_path, monkeypatch) -> Plans:
    """Five CT phantoms whose plan names the CLIP; its saliency is noise, since maps are of what labels show."""
    name = "Dataset904_PhantomCt"
    for root in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / root).mkdir()
        monkeypatch.setenv(root, str(tmp_path / root))
    make_phantom_dataset("ct", tmp_path / "nnUNet_raw" / name, 5, 0, 0, seed=0, size=(12, 48, 48))
    plan_and_preprocess(904, backbone="tiny_sam")
    file = tmp_path / "nnUNet_preprocessed" / name / "samdpoPlans.json"
    content = read_json(file)
    content["prompting"] |= {"image_text_model": f"local-dir:{model_folder}", "saliency": "gscorecam"}
    write_json(file, content)
    plans = load_plans(file)

    def noise(_: SliceSaliency, case: str, index: int) -> np.ndarray:
        shape = (len(plans.structures), 64, 64)
        return np.random.default_rng([index, *case.encode()]).normal(size=shape).astype(np.float32)

    monkeypatch.setattr(SliceSaliency, "__call__", noise)
    return plans


def store_of(plans: Plans, tmp_path: Path) -> SliceStore:
    return SliceStore(tmp_path / "nnUNet_preprocessed" / plans.dataset_name / plans.preprocessing.data_identifier)


def held_out_maps(plans: Plans, store: SliceStore, groups: dict[str, str], tmp_path: Path) -> dict[str, dict]:
    """By labelled case, where each structure lies on the map that decides what the case shows."""
    fitted = calibrated_prompter(plans, store, store.cases(), groups, tmp_path / "kept")
    maps = {case: fitted.for_case(case).settings.axial for case in store.cases()}
    return {case: {name: place.shown for name, place in found.places.items()} for case, found in maps.items()}


def test_two_volumes_of_one_patient_never_say_where_the_other_s_organs_are(volumes_with_clip, tmp_path, monkeypatch):
    plans, store = volumes_with_clip, store_of(volumes_with_clip, tmp_path)
    first, second, *others = store.cases()
    one_patient = {first: "one", second: "one"}
    together, apart = (held_out_maps(plans, store, groups, tmp_path) for groups in (one_patient, {}))
    assert together[first] == together[second] != apart[first] != apart[second]
    assert {case: together[case] for case in others} == {case: apart[case] for case in others}

    label, last = store.label, store.slices(second) - 1
    monkeypatch.setattr(store, "label", lambda case, index: label(case, last - index if case == second else index))
    changed, changed_apart = (held_out_maps(plans, store, groups, tmp_path) for groups in (one_patient, {}))
    assert changed[first] == together[first], "the other volume of the patient says nothing"
    assert changed_apart[first] != apart[first] and changed[others[0]] != together[others[0]]


def test_prompts_are_of_their_groups_only_where_some_volumes_are_of_one_patient(
    volumes_with_clip, tmp_path, monkeypatch
):
    cases = store_of(volumes_with_clip, tmp_path).cases()
    monkeypatch.setattr(making, "write_prompts", lambda *_: None)

    def made(presence: str, groups: dict[str, str]):
        monkeypatch.setattr(making, "load_case_groups", lambda _: groups)
        plans = volumes_with_clip.with_overrides("finetune", [f"prompting.presence={presence}"])
        return make_prompts_of(plans, tmp_path / "prompts", cases[:4], cases[4:], device="cpu")

    alone = made("volume", {})
    assert made("volume", {case: f"patient of {case}" for case in cases}).key == alone.key
    assert made("volume", {cases[3]: "new", cases[4]: "new"}).key == alone.key, "only one of them is labelled"
    together = made("volume", {cases[0]: "one", cases[1]: "one"})
    assert together.key != alone.key
    assert made("volume", {cases[1]: cases[0]}).key not in (alone.key, together.key), "as near-duplicates are"
    assert made("slice", {cases[0]: "one", cases[1]: "one"}).key == made("slice", {}).key
