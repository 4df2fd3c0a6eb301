"""PaperPlanner gives the configuration of the paper and its supplement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_lite_planner import XRAY, changed, dataset

from samdpo.extensions import find
from samdpo.planning.lite_planner import LitePlanner
from samdpo.planning.paper_planner import PaperPlanner
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.plans import Plans, load_plans
from samdpo.schema import from_dict, to_dict

OTHERS = ("unet", "nnunet", "sam_med3d")  # whose settings are not the paper's to give


def planner(fingerprint: dict[str, Any] = XRAY, device: str = "cpu", **settings: Any) -> PaperPlanner:
    settings = {"memory_gib": 8.0, **settings}
    return PaperPlanner(fingerprint, dataset(), "Dataset003_Lung", device=device, **settings)


@pytest.fixture
def plans() -> Plans:
    return planner(device="cuda", memory_gib=24.0, unlabelled_slices=50).plan()


def test_it_is_found_by_its_name_and_its_plan_survives_a_file(plans: Plans) -> None:
    assert find("planner", "PaperPlanner") is PaperPlanner
    assert plans.experiment_planner_used == "PaperPlanner"
    assert from_dict(Plans, json.loads(json.dumps(to_dict(plans)))) == plans


def test_the_networks_are_sam_med2d_with_adapters_and_biomedclip(plans: Plans) -> None:
    assert (plans.network.backbone, plans.network.adapters) == ("sam_med2d_b", True)
    assert (plans.network.train, plans.network.frozen_stages) == ("full", 0)
    prompting = plans.prompting
    assert (prompting.image_text_model, prompting.saliency) == ("biomedclip", "gscorecam")
    assert prompting.gscorecam_top_k == 300
    assert (prompting.text_encoder, plans.network.text_dim) == ("image_text_model", 512)
    assert prompting.crf.enabled and prompting.use_boxes and prompting.use_points
    assert prompting.use_answers and prompting.use_descriptions


def test_both_stages_have_the_epochs_and_rates_of_section_4(plans: Plans) -> None:
    assert plans.stage("finetune").epochs == 15
    for name, stage in plans.configurations.items():
        if name in OTHERS:
            continue
        assert stage.epochs == (15 if stage.previous_stage is None else 30)
        assert (stage.lr, stage.encoder_lr, stage.lr_halving_epochs) == (1e-4, 1e-4, 10)
        assert (stage.segmentation_loss.focal_weight, stage.segmentation_loss.dice_weight) == (20.0, 1.0)
        assert stage.slices_per_epoch == 0


def test_align_is_equation_5_on_candidates_by_threshold_and_sees_no_label(plans: Plans) -> None:
    stage = plans.stage("align")
    assert (stage.candidates.kind, stage.candidates.thresholds) == ("thresholds", (0.3, 0.4, 0.5, 0.6))
    assert stage.candidates.count == 4
    assert (stage.loss.type, stage.loss.reduction, stage.loss.beta1, stage.loss.beta2) == ("sigmoid", "sum", 1.0, 0.5)
    assert (stage.loss.anchor_weight, stage.labelled_per_step, stage.prompt_rounds) == (0.0, 0, 0)
    assert (stage.annotator.scoring, stage.annotator.rating_bins) == ("ranking", (0.4, 0.55, 0.7))


def test_what_others_are_compared_with_is_planned_as_without_the_paper(plans: Plans) -> None:
    lite = LitePlanner(XRAY, dataset(), "Dataset003_Lung", device="cuda", memory_gib=24.0, unlabelled_slices=50).plan()
    assert all(plans.stage(name) == lite.stage(name) for name in ("unet", "nnunet"))
    peer = plans.stage("fixmatch")  # which cannot do without labelled images
    assert (peer.epochs, peer.labelled_per_step, peer.loss.anchor_weight) == (30, 2, 1.0)


def test_nothing_is_added_that_the_paper_does_not_mention(plans: Plans) -> None:
    augmentation = plans.stage("finetune").augmentation
    assert not augmentation.flip
    assert not any(value for value in to_dict(augmentation).values())
    assert not plans.inference.choose_place and not plans.inference.mirror
    assert not plans.prompting.use_saliency


def test_the_machine_changes_nothing_of_it(plans: Plans) -> None:
    small = planner(memory_gib=2.0, unlabelled_slices=9000).plan()
    papers = [name for name in plans.configurations if name not in OTHERS]
    for name in papers:
        whole = plans.configurations[name]
        assert replace(small.configurations[name], inference_batch_size=whole.inference_batch_size) == whole
    assert small.network == plans.network


def test_structures_and_normalisation_are_planned_from_the_data(plans: Plans) -> None:
    assert plans.structures["lung"].components == 2
    assert plans.preprocessing.normalization[0].scheme == "percentile"
    assert planner(changed(shapes=[[30, 500, 400]] * 10)).plan().ndim == 3


def test_what_is_planned_and_what_must_be_downloaded_is_said() -> None:
    said = planner().describe()
    assert "SAM-Med2D" in said and "BiomedCLIP" in said and "samdpo_weights list" in said


def test_a_dataset_is_planned_without_any_download(tiny_dataset: Path, roots) -> None:
    plan_and_preprocess(901, planner="PaperPlanner")
    plans = load_plans(roots.preprocessed / tiny_dataset.name / "samdpoPlans.json")
    assert plans.network.backbone == "sam_med2d_b"
    assert (roots.preprocessed / tiny_dataset.name / plans.preprocessing.data_identifier).is_dir()
