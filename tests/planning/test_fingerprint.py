"""The fingerprint: what the labelled cases are like."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samdpo.dataset.cases import Case
from samdpo.dataset.dataset_json import DatasetJson
from samdpo.errors import DatasetError
from samdpo.planning.case_measures import count_components, measure_case, slicing_axis
from samdpo.planning.fingerprint import extract_fingerprint, load_fingerprint, update_fingerprint

GREY = DatasetJson({"0": "X-ray"}, {"background": 0, "a": 1, "b": 2, "ignore": 3}, 1, ".png", 3)


def write(folder: Path, image: np.ndarray, label: np.ndarray) -> Case:
    Image.fromarray(image.astype(np.uint8)).save(folder / "x_0000.png")
    Image.fromarray(label.astype(np.uint8)).save(folder / "x.png")
    return Case("x", (folder / "x_0000.png",), folder / "x.png", "x")


def test_a_phantom_dataset_is_measured(tiny_dataset: Path) -> None:
    found = extract_fingerprint(tiny_dataset)
    assert len(found["cases"]) == len(found["spacings"]) == len(found["shapes_after_crop"]) == 8
    assert found["spacings"][0] == [999.0, 1.0, 1.0]
    assert found["shapes"][0] == [1, 96, 80]
    assert len(found["unlabelled_cases"]) == 4
    assert found["modality"] == "xray"
    lung = found["structures"]["lung"]
    assert lung["label"] == 1
    assert lung["share_of_slices"] == 1.0
    assert lung["components"]["median"] == 2
    assert 0 < lung["size_share"]["min"] <= lung["size_share"]["median"] <= lung["size_share"]["max"] < 1
    channel = found["foreground_intensity_properties_per_channel"]["0"]
    assert {"mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5"} <= channel.keys()
    json.dumps(found)


def test_processes_measure_the_same(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import samdpo.planning.fingerprint as module

    alone = extract_fingerprint(tiny_dataset, processes=1)
    original = module.map_cases
    monkeypatch.setattr(module, "map_cases", lambda f, items, n, text: original(f, items, n, text, per_process=1))
    assert extract_fingerprint(tiny_dataset, processes=2) == alone


def test_sizes_intensities_and_components_are_those_of_the_label(tmp_path: Path) -> None:
    image, label = np.full((10, 20), 5), np.zeros((10, 20))
    label[1:3, 1:3], label[6:8, 10:12], label[9, 19] = 1, 1, 3
    image[label == 1], image[label == 3] = 100, 200
    measure = measure_case(write(tmp_path, image, label), GREY)
    assert measure.structures.keys() == {"a"}
    assert measure.structures["a"].sizes == [8 / 200]
    assert measure.structures["a"].components == [2]
    assert set(measure.structures["a"].intensities.ravel()) == {100}
    assert set(measure.intensities.ravel()) == {100}, "the label 'ignore' is not foreground"


def test_specks_are_no_components() -> None:
    mask = np.zeros((50, 50), bool)
    mask[:20, :20] = mask[40, 40] = mask[30:40, 30:40] = True
    assert count_components(mask) == 2
    assert count_components(np.zeros((5, 5), bool)) == 0


def test_a_label_of_another_size_is_named(tmp_path: Path) -> None:
    case = write(tmp_path, np.eye(10) * 9, np.zeros((10, 11)))
    with pytest.raises(DatasetError, match=r"x\.png has the size 11 x 10.*has 10 x 10"):
        measure_case(case, GREY)


def test_a_label_value_outside_the_list_is_named(tmp_path: Path) -> None:
    case = write(tmp_path, np.eye(10) * 9, np.eye(10) * 255)
    with pytest.raises(DatasetError, match=r"x\.png holds the value\(s\) 255.*1 = a"):
        measure_case(case, GREY)


def test_an_all_black_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x_0000\.png is all black"):
        measure_case(write(tmp_path, np.zeros((10, 10)), np.eye(10)), GREY)


def test_masks_that_are_all_empty_are_refused(tiny_dataset: Path) -> None:
    for file in (tiny_dataset / "labelsTr").iterdir():
        Image.fromarray(np.zeros((96, 80), np.uint8)).save(file)
    with pytest.raises(DatasetError, match=r"All 8 masks .* are empty"):
        extract_fingerprint(tiny_dataset)


@pytest.mark.parametrize(
    ("modality", "spacing", "shape", "axis"),
    [
        ("ct", (1.0, 3.0, 1.0), (9, 9, 9), 0),
        ("mr", (1.0, 3.0, 1.0), (9, 9, 9), 1),
        ("mr", (1.0, 1.0, 4.0), (1, 9, 9), 0),
        ("other", (1.0, 1.0, 1.0), (9, 9, 9), 0),
    ],
)
def test_slices_are_cut_where_a_volume_is_coarsest(
    modality: str, spacing: tuple[float, ...], shape: tuple[int, ...], axis: int
) -> None:
    assert slicing_axis(modality, spacing, shape) == axis  # type: ignore[arg-type]


def test_groups_are_those_of_the_cases(tiny_dataset: Path) -> None:
    cases = extract_fingerprint(tiny_dataset)["cases"]
    (tiny_dataset / "case_groups.json").write_text(json.dumps({cases[0]: "p", cases[1]: "p", "gone": "p"}))
    assert extract_fingerprint(tiny_dataset)["groups"] == {cases[0]: "p", cases[1]: "p"}


def test_a_fingerprint_is_extracted_again_only_when_files_changed(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "preprocessed"
    update_fingerprint(tiny_dataset, folder)
    file = folder / "dataset_fingerprint.json"
    written = file.stat().st_mtime_ns
    assert load_fingerprint(folder) == update_fingerprint(tiny_dataset, folder)
    assert file.stat().st_mtime_ns == written
    label = sorted((tiny_dataset / "labelsTr").iterdir())[0]
    os.utime(label, (1, 1))
    update_fingerprint(tiny_dataset, folder)
    assert file.stat().st_mtime_ns > written


def test_a_foreign_or_missing_fingerprint_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="samdpo_extract_fingerprint"):
        load_fingerprint(tmp_path)
    (tmp_path / "dataset_fingerprint.json").write_text('{"spacings": []}')
    with pytest.raises(DatasetError, match="samdpo_extract_fingerprint"):
        load_fingerprint(tmp_path)
