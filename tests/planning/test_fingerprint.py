"""The fingerprint: what the labelled cases are like."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samdpo.dataset.cases import Case
from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.raw_dataset import RawDataset
from samdpo.errors import DatasetError
from samdpo.planning.case_measures import count_components, measure_case, slicing_axis
from samdpo.planning.fingerprint import (
    extract_fingerprint,
    load_case_groups,
    load_fingerprint,
    update_fingerprint,
)
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.planning.splits import load_splits

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
    measure = measure_case(write(tmp_path, image, label), RawDataset(tmp_path, GREY))
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
        measure_case(case, RawDataset(tmp_path, GREY))


def test_a_label_value_outside_the_list_is_named(tmp_path: Path) -> None:
    case = write(tmp_path, np.eye(10) * 9, np.eye(10) * 255)
    with pytest.raises(DatasetError, match=r"x\.png holds the value\(s\) 255.*1 = a"):
        measure_case(case, RawDataset(tmp_path, GREY))


def test_an_all_black_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x_0000\.png is all black"):
        measure_case(write(tmp_path, np.zeros((10, 10)), np.eye(10)), RawDataset(tmp_path, GREY))


LABELS_OF_PICTURES = [
    ("benign and malignant exclude each other", ["a", "a", "b", "b"], ""),
    ("they do beside what every picture shows", ["ac", "ac", "bc", "bc"], ""),
    ("one picture shows both", ["ab", "a", "a", "b"], "a in 1 of 4 (25%), for example p3; b in 2 of 4 (50%)"),
    ("what others show everywhere is gone", ["ac", "bc", "a", "bc"], "c in 1 of 4 (25%), for example p2"),
    ("all show all", ["ab", "ab", "ab"], ""),
    ("an empty one says nothing of others", ["ab", "", "ab"], ""),
]


def pictures(root: Path, shown: list[str]) -> Path:
    """A dataset of pictures p0, p1, …, whose labels show the structures a, b, c of ``shown``."""
    folder = root / "Dataset905_Lesions"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number, structures in enumerate(shown):
        image, label = np.full((12, 12), 20 + number, np.uint8), np.zeros((12, 12), np.uint8)
        image[3:6] = 200
        for structure in structures:
            label["abc".index(structure) * 4, 2:8] = "abc".index(structure) + 1
        Image.fromarray(image).save(folder / "imagesTr" / f"p{number}_0000.png")
        Image.fromarray(label).save(folder / "labelsTr" / f"p{number}.png")
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "ultrasound"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
        "numTraining": len(shown), "file_ending": ".png",
    }))
    return folder


@pytest.mark.parametrize(("shown", "lacking"), [case[1:] for case in LABELS_OF_PICTURES],
                         ids=[case[0] for case in LABELS_OF_PICTURES])
def test_pictures_are_said_to_lack_a_structure_unless_they_show_what_excludes_it(
    roots, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, shown: list[str], lacking: str
) -> None:
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    extract_fingerprint(pictures(roots.raw, shown))
    said = [record.getMessage() for record in caplog.records if "other structures lack" in record.getMessage()]
    assert len(said) == bool(lacking) and all(f"lack {lacking}" in text for text in said)


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
        ("mr", (1.0, 1.0001, 1.05), (9, 9, 9), 0),
        ("mr", (1.0, 3.0, 1.0), (9, 9, 1), 2),
    ],
)
def test_slices_are_cut_where_a_volume_is_coarsest(
    modality: str, spacing: tuple[float, ...], shape: tuple[int, ...], axis: int
) -> None:
    assert slicing_axis(modality, spacing, shape)[0] == axis  # type: ignore[arg-type]


def test_an_isotropic_volume_is_cut_axially_however_its_axes_run() -> None:
    assert slicing_axis("mr", (1.0, 1.0, 1.001), (9, 9, 9), "PIR") == (
        1, "no axis is clearly coarser (1 x 1 x 1 mm), so it is cut axially; its axes run PIR")
    assert slicing_axis("mr", (4.0, 1.0, 1.0), (9, 9, 9), "PIR")[0] == 0, "sagittal slices stay so"


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


def test_a_label_replaced_by_one_of_the_same_size_and_time_is_measured_anew(tiny_dataset: Path, tmp_path: Path) -> None:
    label = sorted((tiny_dataset / "labelsTr").iterdir())[0]
    pixels = np.array(Image.open(label))
    sources, sizes = [], set()
    for values in (pixels, pixels[::-1]):
        Image.fromarray(values).save(label, compress_level=0)
        os.utime(label, (1, 1))
        sizes.add(label.stat().st_size)
        sources.append(update_fingerprint(tiny_dataset, tmp_path)["source"])
    assert len(sizes) == 1
    assert sources[0] != sources[1]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level(logging.WARNING, "samdpo")
    return caplog


def write_groups(raw: Path, groups: object) -> None:
    (raw / "case_groups.json").write_text(groups if isinstance(groups, str) else json.dumps(groups))


def test_names_of_groups_that_are_no_case_are_told_with_the_one_that_is_meant(
    tiny_dataset: Path, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    write_groups(tiny_dataset, {"xray_tr_001": "a", "xray_tr_002.png": "a"})
    for _ in range(2):
        said.clear()
        assert update_fingerprint(tiny_dataset, tmp_path)["groups"] == {"xray_tr_001": "a"}
    write_groups(tiny_dataset, {"xray_tr_001": "a", "xray_tr_003_0000.png": "a"})
    update_fingerprint(tiny_dataset, tmp_path)
    assert "names xray_tr_003_0000.png, which the dataset does not hold. Is xray_tr_003 meant?" in said.text


def test_groups_of_which_no_name_is_a_case_are_refused(tiny_dataset: Path) -> None:
    write_groups(tiny_dataset, {"xray_tr_001.png": "a", "xray_tr_002.png": "a"})
    with pytest.raises(DatasetError, match="Is xray_tr_001 meant.*Not one name in the file is a case"):
        extract_fingerprint(tiny_dataset)


@pytest.mark.parametrize("broken", ["[", '["a"]', '{"xray_tr_001": null}', '{"xray_tr_001": ["a"]}', "[" * 100_000])
def test_groups_that_break_after_planning_stop_whoever_needs_them(tiny_dataset: Path, roots, broken: str) -> None:
    write_groups(tiny_dataset, {"xray_tr_001": "a", "xray_tr_002": "a"})
    plan_and_preprocess(901, preprocess=False)
    folder = roots.preprocessed / tiny_dataset.name
    write_groups(tiny_dataset, broken)
    for read in (load_case_groups, load_splits):
        with pytest.raises(DatasetError, match=r"case_groups\.json"):
            read(folder)


def test_groups_are_those_of_planning_until_it_is_planned_again(
    tiny_dataset: Path, roots, said: pytest.LogCaptureFixture
) -> None:
    write_groups(tiny_dataset, {"xray_tr_001": "a", "xray_tr_002": "a"})
    plan_and_preprocess(901, preprocess=False)
    folder = roots.preprocessed / tiny_dataset.name
    assert load_case_groups(folder) == {"xray_tr_001": "a", "xray_tr_002": "a"}
    assert "is not what it was" not in said.text
    write_groups(tiny_dataset, {"xray_tr_001": "a", "xray_tr_003": "a"})
    assert load_case_groups(folder) == {"xray_tr_001": "a", "xray_tr_002": "a"}
    assert "case_groups.json is not what it was when the dataset was planned" in said.text
    plan_and_preprocess(901, preprocess=False)
    assert load_case_groups(folder) == {"xray_tr_001": "a", "xray_tr_003": "a"}


def test_groups_outlive_the_raw_images(tiny_dataset: Path, roots) -> None:
    write_groups(tiny_dataset, {"xray_tr_001": "a", "xray_tr_002": "a"})
    plan_and_preprocess(901, preprocess=False)
    tiny_dataset.rename(tiny_dataset.with_name("gone"))
    assert load_case_groups(roots.preprocessed / tiny_dataset.name) == {"xray_tr_001": "a", "xray_tr_002": "a"}


def test_without_a_fingerprint_of_ours_groups_are_those_of_the_raw_dataset(tiny_dataset: Path, roots) -> None:
    folder = roots.preprocessed / tiny_dataset.name
    folder.mkdir()
    write_groups(tiny_dataset, {"xray_tr_001": "a"})
    assert load_case_groups(folder) == {"xray_tr_001": "a"}
    (folder / "dataset_fingerprint.json").write_text('{"spacings": []}')  # as nnU-Net writes it
    assert load_case_groups(folder) == {"xray_tr_001": "a"}


@pytest.mark.parametrize("content", ['{"groups": ["a"]}', '{"groups": {"a": 3}}', "[3]", "{"])
def test_a_fingerprint_that_cannot_say_the_groups_is_an_error(tmp_path: Path, roots, content: str) -> None:
    (tmp_path / "dataset_fingerprint.json").write_text(content)
    with pytest.raises(DatasetError, match=r"dataset_fingerprint\.json.*samdpo_extract_fingerprint"):
        load_case_groups(tmp_path)


@pytest.mark.parametrize(("key", "wrong"), [
    ("spacings", "text"), ("spacings", [[1, 1, 1]]), ("orientations", None), ("shapes", [5]), ("groups", []),
    ("n_slices", {"other": 1}), ("value_range_per_channel", {"1": [0, 1]}), ("structures", {"lung": {"label": 1}}),
    ("modality", "smell"), ("images", 5), ("median_relative_size_after_cropping", float("nan")), ("cases", []),
    ("foreground_intensity_properties_per_channel", {"0": 3}), ("n_foreground_slices", None),
])
def test_a_fingerprint_of_other_kinds_is_named_where_it_is_read_and_measured_anew_where_it_is_made(
    tiny_dataset: Path, tmp_path: Path, key: str, wrong: object
) -> None:
    whole = update_fingerprint(tiny_dataset, tmp_path)
    file = tmp_path / "dataset_fingerprint.json"
    for content in (whole | {key: wrong}, {k: v for k, v in whole.items() if k != key}):
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(DatasetError, match=r"dataset_fingerprint.json.* Type: samdpo_extract_fingerprint -d"):
            load_fingerprint(tmp_path)
    assert update_fingerprint(tiny_dataset, tmp_path) == whole == load_fingerprint(tmp_path)
