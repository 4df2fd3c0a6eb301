"""Images of one scene are found, joined in the splits, drawn, and let go again; others are not."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from samdpo.dataset.raw_dataset import RawDataset
from samdpo.errors import DatasetError
from samdpo.planning import near_duplicates
from samdpo.planning.fingerprint import load_case_groups
from samdpo.planning.near_duplicates import (
    LEAST,
    SCALES,
    SURE,
    Link,
    closest_links,
    find_near_duplicates,
    join_groups,
    load_near_duplicates,
    thumbnail,
    update_near_duplicates,
    what_to_compare,
)
from samdpo.planning.plan_and_preprocess import plan_and_preprocess, plan_experiment
from samdpo.planning.splits import load_splits

SIDE = SCALES[0][0]
FILE, PICTURE = near_duplicates.NEAR_DUPLICATES_FILE, near_duplicates.NEAR_DUPLICATES_PICTURE


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level(logging.INFO, "samdpo")
    return caplog


def again(image: np.ndarray) -> np.ndarray:
    """The scene once more: another frame, darker, with callipers."""
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    other = np.clip(image * 0.8 + noise, 0, 255).astype(np.uint8)
    other[40:42, 20:60] = 255
    return other


@pytest.fixture
def twins(tiny_dataset: Path) -> Path:
    """The tiny dataset where 001 is filmed again as 005, and 002 once more as the unlabelled 001, mirrored."""
    for name, other, where, mirrored in (("001", "005", "Tr", False), ("002", "001", "Ul", True)):
        image = again(iio.imread(tiny_dataset / "imagesTr" / f"xray_tr_{name}_0000.png"))
        file = tiny_dataset / f"images{where}" / f"xray_{where.lower()}_{other}_0000.png"
        iio.imwrite(file, image[:, ::-1] if mirrored else image)
    shutil.copyfile(tiny_dataset / "labelsTr" / "xray_tr_001.png", tiny_dataset / "labelsTr" / "xray_tr_005.png")
    return tiny_dataset


def plan(dataset: Path, **options) -> Path:
    """Of the preprocessed dataset."""
    plan_and_preprocess(dataset.name, preprocess=False, **options)
    return dataset.parents[1] / "nnUNet_preprocessed" / dataset.name


def test_images_of_one_scene_stay_on_one_side_and_the_log_says_where_to_look(
    twins: Path, said: pytest.LogCaptureFixture
) -> None:
    folder = plan(twins)
    groups = load_case_groups(folder)
    assert groups == {"xray_tr_001": "xray_tr_001", "xray_tr_005": "xray_tr_001",
                      "xray_tr_002": "xray_tr_002", "xray_ul_001": "xray_tr_002"}
    folds = load_splits(folder)
    for fold in folds:
        assert ("xray_tr_001" in fold.val) == ("xray_tr_005" in fold.val)
        assert ("xray_ul_001" in fold.unlabelled) == ("xray_tr_002" not in fold.val)
    assert "Near-duplicates: 4 images are of 2 scenes, at most 2 of one" in said.text
    assert str(folder / PICTURE) in said.text and "--no_near_duplicates" in said.text
    assert iio.imread(folder / PICTURE).shape[0] > 100
    assert not (twins / "case_groups.json").exists()


def test_they_are_let_go_and_taken_back_without_another_search(
    twins: Path, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plan(twins)
    joined = load_splits(folder)
    monkeypatch.setattr(near_duplicates, "find_near_duplicates", lambda *_: pytest.fail("searched again"))
    plan_experiment(twins.name, near_duplicates=False)
    assert load_case_groups(folder) == {}
    apart = load_splits(folder)
    assert apart != joined and all("xray_ul_001" in fold.unlabelled for fold in apart)
    assert "Near-duplicates no longer join groups" in said.text and "Splits rewritten" in said.text
    plan_experiment(twins.name)
    assert load_splits(folder) == joined


def test_where_they_are_not_wanted_nothing_is_searched(twins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "find_near_duplicates", lambda *_: pytest.fail("searched"))
    folder = plan(twins, near_duplicates=False)
    assert not (folder / FILE).exists() and load_near_duplicates(folder) == []


def test_the_commands_have_the_flag(twins: Path) -> None:
    from samdpo.cli.plan_and_preprocess import main, main_plan_experiment

    folder = twins.parents[1] / "nnUNet_preprocessed" / twins.name
    main(["-d", "901", "--no_pp", "-np", "1"])
    assert load_near_duplicates(folder)
    main_plan_experiment(["-d", "901", "--no_near_duplicates", "-np", "1"])
    assert not load_near_duplicates(folder)


def test_new_images_are_compared_again(twins: Path) -> None:
    folder = plan(twins)
    shutil.copyfile(twins / "imagesTr" / "xray_tr_003_0000.png", twins / "imagesUl" / "xray_ul_009_0000.png")
    plan(twins)
    assert {"xray_tr_003", "xray_ul_009"} in [set(link.cases) for link in load_near_duplicates(folder)]


def test_phantoms_of_different_patients_are_not_linked(tiny_dataset: Path, said: pytest.LogCaptureFixture) -> None:
    folder = plan(tiny_dataset)
    assert load_near_duplicates(folder) == [] and "Near-duplicates: none." in said.text
    assert not (folder / PICTURE).exists()


def test_a_link_that_is_taken_out_by_hand_stays_out(twins: Path) -> None:
    folder = plan(twins)
    content = json.loads((folder / FILE).read_text())
    content["links"] = [one for one in content["links"] if "xray_ul_001" in one["cases"]]
    (folder / FILE).write_text(json.dumps(content))
    (twins / "case_groups.json").write_text('{"xray_tr_003": "anna"}')  # other groups and labels change nothing
    shutil.copyfile(twins / "labelsTr" / "xray_tr_003.png", twins / "labelsTr" / "xray_tr_004.png")
    plan(twins)
    assert load_case_groups(folder).keys() == {"xray_tr_002", "xray_ul_001", "xray_tr_003"}


def test_patients_that_are_joined_are_named(twins: Path, said: pytest.LogCaptureFixture) -> None:
    given = {"xray_tr_001": "anna", "xray_tr_005": "bert", "xray_tr_003": "bert", "xray_tr_004": "cora"}
    (twins / "case_groups.json").write_text(json.dumps(given))
    folder = plan(twins)
    assert load_case_groups(folder) == {
        "xray_tr_001": "anna", "xray_tr_005": "anna", "xray_tr_003": "anna", "xray_tr_004": "cora",
        "xray_tr_002": "xray_tr_002", "xray_ul_001": "xray_tr_002",
    }
    assert "1 of the near-duplicates join groups of case_groups.json, for example xray_tr_001 (anna)" in said.text
    assert json.loads((twins / "case_groups.json").read_text()) == given


def test_what_one_patient_has_anyway_is_no_news(twins: Path, said: pytest.LogCaptureFixture) -> None:
    given = {"xray_tr_001": "anna", "xray_tr_005": "anna", "xray_tr_002": "bert", "xray_ul_001": "bert"}
    (twins / "case_groups.json").write_text(json.dumps(given))
    assert load_case_groups(plan(twins)) == given
    assert "Near-duplicates: none but within the groups that are given." in said.text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("[]", "must be an object"), ("{", "not valid JSON"), ('{"version": 1}', "'source' is missing"),
     ('{"version": 1, "source": "", "used": true, "threshold": 0, "links": [{"cases": ["a"], "similarity": 1}]}',
      r"links\[0\]\.cases")],
)
def test_a_damaged_file_is_told_and_left_alone(tiny_dataset: Path, content: str, sentence: str) -> None:
    folder = plan(tiny_dataset)
    (folder / FILE).write_text(content)
    for read in (load_case_groups, load_splits, lambda _: plan(tiny_dataset)):
        with pytest.raises(DatasetError, match=f"near_duplicates.json.*{sentence}.*delete it and plan again"):
            read(folder)
    assert (folder / FILE).read_text() == content


def test_volumes_are_not_compared(tiny_dataset: Path, tmp_path: Path) -> None:
    fingerprint = {"shapes": [[1, 8, 8], [5, 8, 8]], "groups": {}}
    update_near_duplicates(RawDataset.open(tiny_dataset), tmp_path, fingerprint)
    assert not (tmp_path / FILE).exists()


def test_a_thumbnail_knows_neither_brightness_nor_size_and_of_a_flat_image_nothing() -> None:
    image = np.random.default_rng(0).normal(size=(1, 200, 300)).cumsum(1).cumsum(2)
    for scale in SCALES:
        one = thumbnail(image, *scale).astype(np.float32)
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-2)
        assert one @ thumbnail(1000 - 3 * image, *scale) == pytest.approx(-1, abs=1e-2)
        assert one @ thumbnail(image.repeat(2, 1), *scale) == pytest.approx(1, abs=1e-2)
        assert not thumbnail(np.full((3, 50, 50), 7.0), *scale).any()


def test_links_are_a_forest_of_the_closest_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    scenes = generator.normal(size=(6, SIDE * SIDE))
    images = np.repeat(scenes, (1, 2, 3, 1, 4, 1), axis=0) + 0.4 * generator.normal(size=(12, SIDE * SIDE))
    images[11] = images[0].reshape(SIDE, SIDE)[:, ::-1].ravel()
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float16)
    found = closest_links(images, 0.5)
    assert [len({i, j} & set(range(*of))) for of in ((1, 3), (3, 6), (7, 11)) for i, j, _ in found].count(2) == 6
    assert {(i, j) for i, j, _ in found} >= {(0, 11), (1, 2)} and len(found) == 7
    assert [value for *_, value in found] == sorted(value for *_, value in found)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 3)
    assert [link[:2] for link in closest_links(images, 0.5)] == [link[:2] for link in found]


def test_images_that_are_alike_by_nature_must_be_more_alike_than_most() -> None:
    generator = np.random.default_rng(0)

    def unit(images: np.ndarray) -> np.ndarray:
        return images / np.linalg.norm(images, axis=1, keepdims=True)

    own, fine = (unit(generator.normal(size=(200, side**2))) for side, _ in SCALES)
    assert what_to_compare(own, fine) == (pytest.approx(own), LEAST)
    ribs = unit(own + generator.normal(1, 0.4, (200, 1)) * unit(generator.normal(size=(1, SIDE**2))))
    assert np.median(ribs @ ribs.T) > LEAST  # all are alike: the fine ones decide
    assert what_to_compare(ribs, fine) == (pytest.approx(fine), LEAST)
    alike = unit(fine + generator.normal(1, 0.4, (200, 1)) * unit(generator.normal(size=(1, fine.shape[1]))))
    compared, threshold = what_to_compare(ribs, alike)
    assert compared is alike and threshold == SURE
    assert what_to_compare(own[:19], fine[:19])[1] == SURE  # too few to know


def test_groups_are_called_as_the_first_that_was_joined_or_as_the_first_case() -> None:
    links = [Link(("d", "c"), 0.9), Link(("b", "a"), 0.9), Link(("x", "c"), 0.5), Link(("y", "x"), 0.4)]
    groups = {"a": "zoe", "x": "max", "y": "lea", "q": "alone"}
    assert join_groups(groups, links) == {
        "a": "zoe", "b": "zoe", "c": "lea", "d": "lea", "x": "lea", "y": "lea", "q": "alone",
    }
    assert join_groups({}, links[:1]) == {"c": "c", "d": "c"}
    assert join_groups({}, links[:1], unlabelled=["c"]) == {"c": "d", "d": "d"}, "images that are added rename nothing"
    assert join_groups(groups, []) == groups


@pytest.mark.shared
def test_clusters_of_busi_are_found_and_patients_of_bus_bra_stay_apart(real_data: Path) -> None:
    raw = RawDataset.open(real_data / "Dataset104_BreastUSBUSI")
    links, _ = find_near_duplicates(raw.labelled, raw)
    right = [raw.groups[link.cases[0]] == raw.groups[link.cases[1]] for link in links]
    assert len(links) > 90 and np.mean(right) > 0.88  # what the clusters lack was looked at, and shows one scene each
    raw = RawDataset.open(real_data / "Dataset105_BreastUSBUSBRA")
    assert find_near_duplicates(raw.labelled, raw)[0] == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ["Dataset101_LungXray", "Dataset108_LungXrayThreeHospitals"])
def test_chest_x_rays_of_different_people_are_not_linked(real_data: Path, name: str) -> None:
    raw = RawDataset.open(real_data / name)
    links, _ = find_near_duplicates(raw.labelled, raw)
    assert all(raw.groups.get(a, a) == raw.groups.get(b, b) for a, b in (link.cases for link in links))
