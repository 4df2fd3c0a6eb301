"""Volumes that differ: spacing, orientation, one slice, three far apart, organs removed; from files to scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from samdpo.dataset.phantom_ct import ORGANS
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.evaluation.summary import evaluate_folder
from samdpo.files import read_json, write_json
from samdpo.inference.predict_folder import predict_folder
from samdpo.model.predictor import Predictor
from samdpo.planning.plan_and_preprocess import plan_and_preprocess, preprocess_planned
from samdpo.plans import load_plans
from samdpo.preprocessing.store import SliceStore

NAME = "Dataset908_OtherHospitals"
FAR = 45.0  # mm
Change = Callable[[sitk.Image], sitk.Image]


def change(raw: Path, part: str, number: int, change: Change) -> None:
    """The same to an image and its label."""
    for file in raw.glob(f"*{part}/ct_{part.lower()}_{number:03d}*.nii.gz"):
        sitk.WriteImage(change(sitk.ReadImage(str(file))), str(file))


def turned(code: str) -> Change:
    return lambda image: sitk.DICOMOrient(image, code)


def stretched(step: float) -> Change:
    """As if the slices lay ``step`` mm apart."""

    def change(image: sitk.Image) -> sitk.Image:
        image.SetSpacing((*image.GetSpacing()[:2], step))
        return image

    return change


def three_far_apart(image: sitk.Image) -> sitk.Image:
    return stretched(FAR)(image[:, :, 6:9])


def one_slice(image: sitk.Image) -> sitk.Image:
    return image[:, :, 7:8]


def one_sagittal_slice(image: sitk.Image) -> sitk.Image:
    return sitk.DICOMOrient(image, "PIR")[:, :, 20:21]


def remove(raw: Path, part: str, number: int, organ: str) -> None:
    """What is drawn of an organ becomes fat, in the image too."""
    name = f"ct_{part.lower()}_{number:03d}"
    files = [raw / f"labels{part}" / f"{name}.nii.gz", raw / f"images{part}" / f"{name}_0000.nii.gz"]
    images = [sitk.ReadImage(str(file)) for file in files]
    label, image = map(sitk.GetArrayFromImage, images)
    where = label == ORGANS.index(organ) + 1
    label[where], image[where] = 0, -95
    for file, old, values in zip(files, images, (label, image)):
        new = sitk.GetImageFromArray(values)
        new.CopyInformation(old)
        sitk.WriteImage(new, str(file))


class Mixed:
    """Planned, trained for an epoch and predicted."""

    def __init__(self, root: Path) -> None:
        self.raw, self.folder = root / "nnUNet_raw" / NAME, root / "nnUNet_preprocessed" / NAME
        make_phantom_dataset("ct", self.raw, 7, 0, 6, seed=3, size=(14, 48, 48))
        change(self.raw, "Tr", 2, turned("PIR"))
        change(self.raw, "Tr", 3, stretched(9.0))
        change(self.raw, "Tr", 4, one_slice)
        change(self.raw, "Tr", 5, three_far_apart)
        remove(self.raw, "Tr", 6, "spleen")
        change(self.raw, "Ts", 2, turned("SAR"))
        change(self.raw, "Ts", 3, one_slice)
        change(self.raw, "Ts", 4, three_far_apart)
        remove(self.raw, "Ts", 5, "spleen")
        change(self.raw, "Ts", 6, one_sagittal_slice)
        plan_and_preprocess(908, backbone="tiny_sam", preprocess=False, verify=True)
        file = self.folder / "samdpoPlans.json"
        content = read_json(file)
        content["prompting"] |= {"tower_steps": 10, "n_points": 1, "cross_fit_folds": 2}
        content["preprocessing"]["neighbours"] = 10.0
        content["configurations"]["finetune"] |= {"epochs": 1, "slices_per_epoch": 6, "lr": 3e-3, "mask_cut": 0.05}
        write_json(file, content)
        preprocess_planned(908)
        self.plans = load_plans(file)
        self.store = SliceStore(self.folder / self.plans.preprocessing.data_identifier)
        splits = [{"train": self.store.cases()[:6], "val": self.store.cases()[6:]}] * 5
        write_json(self.folder / "splits_final.json", splits)
        from samdpo.training.get_trainer import get_trainer

        self.trainer = get_trainer(908, "finetune", 0, device="cpu")
        self.trainer.train()
        self.masks = predict_folder(self.raw / "imagesTs", root / "masks", self.trainer.folder, device="cpu")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    root = tmp_path_factory.mktemp("hospitals")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        yield Mixed(root)


def test_every_case_is_cut_into_axial_slices_of_one_orientation(mixed: Mixed) -> None:
    store = mixed.store
    assert [store.slices(case) for case in store.cases()] == [14, 14, 14, 1, 3, 14, 14]
    liver = mixed.plans.structures["liver"].label
    for case in store.cases():
        label = np.stack([store.label(case, index) for index in range(store.slices(case))])
        assert np.argwhere(label == liver)[:, 2].mean() < 128, "the liver is on the left of the slices"


def test_neighbours_are_seen_where_they_are_near_and_never_where_they_are_far(mixed: Mixed) -> None:
    first, *_ = mixed.store.cases()
    one, far = mixed.store.cases()[3:5]
    assert mixed.store.neighbours(first) == 1 and mixed.store.neighbours(far) == 0
    for case, index in ((one, 0), (far, 1)):
        seen = mixed.store.seen_image(case, index)
        np.testing.assert_array_equal(seen, mixed.store.image(case, index))
    predictor = Predictor.from_model_folder(mixed.trainer.folder, folds=[0], device="cpu")
    predictor.set_image(mixed.raw / "imagesTs" / "ct_ts_004_0000.nii.gz")
    np.testing.assert_array_equal(predictor._cut.seen_slice(1), predictor._cut.slice(1))


def test_all_of_them_are_prompted_and_masks_lie_as_their_images_do(mixed: Mixed) -> None:
    prompts = mixed.trainer.data.prompts
    assert {case: prompts.slices(case) for case in prompts.cases()} == {
        case: mixed.store.slices(case) for case in mixed.store.cases()}, "the odd ones, too"
    assert mixed.trainer.train_keys
    assert len(mixed.masks) == 6
    for mask in mixed.masks:
        written = sitk.ReadImage(str(mask))
        image = sitk.ReadImage(str(mixed.raw / "imagesTs" / mask.name.replace(".nii.gz", "_0000.nii.gz")))
        assert written.GetSize() == image.GetSize()
        for of in ("Spacing", "Origin", "Direction"):
            np.testing.assert_allclose(getattr(written, f"Get{of}")(), getattr(image, f"Get{of}")(), atol=1e-4)


def test_a_slice_that_lies_otherwise_is_one_picture_and_is_flagged(mixed: Mixed) -> None:
    reports = {mask.name: read_json(mask.with_name(mask.name.replace(".nii.gz", ".json"))) for mask in mixed.masks}
    axial, sagittal = reports["ct_ts_003.nii.gz"], reports["ct_ts_006.nii.gz"]
    for report in (axial, sagittal):
        assert any("single slice" in reason for reason in report["reasons"])
        assert report["structures"].keys() == set(ORGANS)
        assert all(len(entry["presence"]) == 1 for entry in report["structures"].values())
        assert all("presence_threshold" in entry for entry in report["structures"].values()), "its score decides"
    said = "the image is one sagittal slice, and those of training are axial"
    assert said in sagittal["reasons"] and said not in axial["reasons"]


def test_an_organ_that_is_in_neither_mask_counts_nowhere(mixed: Mixed) -> None:
    found = evaluate_folder(mixed.raw / "labelsTs", mixed.masks[0].parent, mixed.raw / "dataset.json")
    spleen = str(mixed.plans.structures["spleen"].label)
    entries = {Path(case["reference_file"]).name: case["metrics"][spleen] for case in found["metric_per_case"]}
    removed = entries["ct_ts_005.nii.gz"]
    assert removed["n_ref"] == 0
    assert math.isnan(removed["Dice"]) if removed["n_pred"] == 0 else removed["Dice"] == 0
    assert not math.isnan(entries["ct_ts_001.nii.gz"]["Dice"])
    assert found["samdpo"]["presence"][spleen]["cases_without"] == sum(not one["n_ref"] for one in entries.values())
