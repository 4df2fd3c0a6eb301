"""Preprocessing a dataset: every case once, resumable, the same slices as for a new image."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from test_slicing import native_label

from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.dataset.raw_dataset import RawDataset
from samdpo.errors import ConfigurationError, DatasetError, PlansError
from samdpo.paths import preprocessed_folder
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.plans import Plans
from samdpo.preprocessing import preprocess as module
from samdpo.preprocessing.preprocess import prepare_slices, preprocess_dataset
from samdpo.preprocessing.store import SliceStore

TINY = "Dataset901_TinyXray"


@pytest.fixture
def plans(tiny_dataset: Path) -> Plans:
    return plan_and_preprocess(901, preprocess=False)


@pytest.fixture
def store(plans: Plans) -> SliceStore:
    return preprocess_dataset(901, plans)


def times(store: SliceStore) -> dict[str, int]:
    return {case: store.image_file(case).stat().st_mtime_ns for case in store.cases()}


def test_labelled_and_unlabelled_cases_are_there(store: SliceStore) -> None:
    assert len(store.cases()) == 12
    assert sum(store.has_label(case) for case in store.cases()) == 8
    for case in store.cases():
        assert store.n_slices(case) == 1
        assert store.image(case, 0).shape == (3, 256, 256)


def test_a_case_says_where_it_comes_from_and_what_it_shows(store: SliceStore, tiny_dataset: Path) -> None:
    case = next(c for c in store.cases() if store.has_label(c))
    properties = store.properties(case)
    assert Path(properties["label_file"]).parent == tiny_dataset / "labelsTr"
    assert properties["slices_of"] == {"lung": [0]}
    assert properties["spacing"] == [999.0, 1.0, 1.0]
    assert store.geometry(case).native_shape == (1, 96, 80)


def test_colour_pictures_of_8_and_of_16_bits_in_one_dataset_are_the_same(tiny_dataset: Path) -> None:
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    content["channel_names"] = {"0": "R", "1": "G", "2": "B"}
    (tiny_dataset / "dataset.json").write_text(json.dumps(content))
    first, second = sorted((tiny_dataset / "imagesTr").iterdir())[:2]
    coloured = np.stack([np.array(Image.open(first))] * 3, -1)
    for file in tiny_dataset.glob("images*/*.png"):
        Image.fromarray(coloured).save(file)
    second.write_bytes(imagecodecs.png_encode(coloured.astype(np.uint16) * 257))
    plans = plan_and_preprocess(901)
    assert plans.preprocessing.normalization[0].upper == 65535
    store = SliceStore(preprocessed_folder(901) / plans.preprocessing.data_identifier)
    eight, sixteen = (store.image(file.name.removesuffix("_0000.png"), 0) for file in (first, second))
    assert eight.max() > 0.5
    np.testing.assert_allclose(eight, sixteen, atol=1e-3)


def test_stored_slices_are_those_of_a_new_image(store: SliceStore, plans: Plans, tiny_dataset: Path) -> None:
    case = RawDataset.open(tiny_dataset).labelled[0]
    slices, geometry = prepare_slices(read_image(case.images).data, plans)
    assert slices.shape == (1, 3, 256, 256)
    assert np.abs(slices[0] - store.image(case.identifier, 0)).max() < 5e-4
    assert geometry == store.geometry(case.identifier)


def test_the_label_finds_its_way_back(store: SliceStore, tiny_dataset: Path) -> None:
    case = RawDataset.open(tiny_dataset).labelled[0]
    native = native_label(store.geometry(case.identifier), store.label(case.identifier, 0)[None])
    assert np.array_equal(native, read_label(case.label))


def test_evaluation_finds_the_truth_and_the_dataset_describes_itself(store: SliceStore, tiny_dataset: Path) -> None:
    folder = store.folder.parent
    truths = sorted(f.name for f in (folder / "gt_segmentations").iterdir())
    assert truths == sorted(f.name for f in (tiny_dataset / "labelsTr").iterdir())
    assert (folder / "dataset.json").read_text() == (tiny_dataset / "dataset.json").read_text()


def test_a_second_run_does_nothing(store: SliceStore, plans: Plans) -> None:
    before = times(store)
    assert times(preprocess_dataset(901, plans)) == before


def test_clean_does_everything_again(store: SliceStore, plans: Plans) -> None:
    before = times(store)
    after = times(preprocess_dataset(901, plans, clean=True))
    assert all(after[case] > before[case] for case in before)


def test_only_a_case_whose_files_changed_is_done_again(store: SliceStore, plans: Plans, tiny_dataset: Path) -> None:
    before, case = times(store), next(c for c in store.cases() if store.has_label(c))
    label = tiny_dataset / "labelsTr" / f"{case}.png"
    pixels = np.asarray(Image.open(label)).copy()
    pixels[:5, :5] = 1
    Image.fromarray(pixels).save(label)
    store = preprocess_dataset(901, plans)
    assert {c for c, t in times(store).items() if t != before[c]} == {case}
    assert store.label(case, 0)[0, 0] == 1
    assert read_label(store.folder.parent / "gt_segmentations" / f"{case}.png")[0, 0, 0] == 1


def test_a_case_that_is_gone_from_the_raw_images_is_removed(
    store: SliceStore, plans: Plans, tiny_dataset: Path
) -> None:
    next((tiny_dataset / "imagesUl").iterdir()).unlink()
    assert len(preprocess_dataset(901, plans).cases()) == len(store.cases()) == 11


def test_after_ctrl_c_the_rest_is_done_and_what_was_finished_is_kept(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, done = SliceStore.put, []

    def stop_at_the_fourth(self: SliceStore, case: str, *rest: object) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        put(self, case, *rest)
        done.append(case)

    with monkeypatch.context() as patch:
        patch.setattr(SliceStore, "put", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            preprocess_dataset(901, plans)
    store = SliceStore(module.preprocessed_folder(901) / plans.preprocessing.data_identifier)
    before = times(store)
    assert sorted(before) == sorted(done)
    after = times(preprocess_dataset(901, plans))
    assert len(after) == 12
    assert {case: after[case] for case in done} == before


def test_a_process_killed_between_slices_and_json_leaves_a_case_to_do_again(store: SliceStore, plans: Plans) -> None:
    case = store.cases()[0]
    (store.folder / f"{case}.json").unlink()
    (store.folder / f".tmp123_{case}.json").write_text("{")
    assert case not in store.cases()
    assert len(preprocess_dataset(901, plans).cases()) == 12


def test_processes_give_the_same_slices(store: SliceStore, plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {case: store.image(case, 0) for case in store.cases()}
    original = module.map_cases
    monkeypatch.setattr(
        module, "map_cases", lambda f, items, n, text, per_process: original(f, items, n, text, per_process=1)
    )
    again = preprocess_dataset(901, plans, processes=2, clean=True)
    assert all(np.array_equal(again.image(case, 0), image) for case, image in before.items())


def test_an_unreadable_case_is_named_and_the_others_stay(plans: Plans, tiny_dataset: Path) -> None:
    file = sorted((tiny_dataset / "imagesTr").iterdir())[-1]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DatasetError, match=file.name):
        preprocess_dataset(901, plans)
    store = SliceStore(module.preprocessed_folder(901) / plans.preprocessing.data_identifier)
    assert len(store.cases()) == 7


def test_a_full_disk_leaves_no_half_case(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import blosc2

    def full(*_: object, urlpath: str, **__: object) -> None:
        Path(urlpath).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blosc2, "asarray", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        preprocess_dataset(901, plans)
    store = module.preprocessed_folder(901) / plans.preprocessing.data_identifier
    assert list(store.iterdir()) == []


def test_a_volume_is_cut_into_slices(roots) -> None:
    raw = roots.raw / "Dataset903_TinyCT"
    make_phantom_dataset("ct", raw, n_labelled=2, n_unlabelled=1, n_test=0, seed=0, size=(12, 48, 56))
    plans = plan_and_preprocess(903)
    assert plans.ndim == 3
    store = SliceStore(roots.preprocessed / raw.name / plans.preprocessing.data_identifier)
    case = next(c for c in store.cases() if store.has_label(c))
    assert store.n_slices(case) == 12
    cut = np.stack([store.label(case, i) for i in range(12)])
    native = read_label(store.properties(case)["label_file"])
    assert np.array_equal(native_label(store.geometry(case), cut), native)
    for name, slices in store.properties(case)["slices_of"].items():
        assert slices == [i for i in range(12) if (native[i] == plans.structures[name].label).any()]


def test_labels_named_by_the_dataset_key_are_found(tiny_dataset: Path) -> None:
    file = tiny_dataset / "dataset.json"
    content = json.loads(file.read_text())
    elsewhere = tiny_dataset / "masks"
    (tiny_dataset / "labelsTr").rename(elsewhere)
    content["dataset"] = {
        f"renamed_{i}": {"images": [f"imagesTr/{f.stem}_0000.png"], "label": f"masks/{f.name}"}
        for i, f in enumerate(sorted(elsewhere.iterdir()))
    }
    file.write_text(json.dumps(content))
    store = preprocess_dataset(901, plan_and_preprocess(901, preprocess=False))
    assert "renamed_0" in store.cases()
    assert (store.folder.parent / "gt_segmentations" / "renamed_7.png").is_file()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level(logging.INFO, "samdpo")
    return caplog


def with_folder(plans: Plans, name: str) -> Plans:
    found = replace(plans.preprocessing)
    object.__setattr__(found, "data_identifier", name)  # as a plan that was not read by us may hold it
    return replace(plans, preprocessing=found)


@pytest.mark.parametrize("name", [".", "..", "", "../elsewhere", "a/b", "/tmp/x", ".hidden", "gt_segmentations"])
@pytest.mark.parametrize("clean", [False, True])
def test_slices_go_into_a_folder_of_their_own_below_the_dataset(
    plans: Plans, roots, name: str, clean: bool
) -> None:
    folder = roots.preprocessed / TINY
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(PlansError, match="'preprocessing.data_identifier' is"):
        preprocess_dataset(901, with_folder(plans, name), clean=clean)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("clean", [False, True])
def test_a_folder_of_the_users_is_neither_filled_nor_emptied(plans: Plans, roots, clean: bool) -> None:
    mine = roots.preprocessed / TINY / "bystander"
    mine.mkdir()
    (mine / "thesis.json").write_text('{"hash": "x"}')
    (mine / "photo.png").write_text("")
    with pytest.raises(ConfigurationError, match=r"bystander holds photo\.png"):
        preprocess_dataset(901, with_folder(plans, "bystander"), clean=clean)
    assert sorted(file.name for file in mine.iterdir()) == ["photo.png", "thesis.json"]


def test_a_users_json_among_the_slices_and_a_file_among_the_truths_stay(store: SliceStore, plans: Plans) -> None:
    mine = [store.folder / "thesis.json", store.folder.parent / "gt_segmentations" / "notes.txt"]
    for file in mine:
        file.write_text("{}")
    preprocess_dataset(901, plans)
    with pytest.raises(ConfigurationError, match=r"holds thesis\.json"):
        preprocess_dataset(901, plans, clean=True)
    assert all(file.is_file() for file in mine)
    assert len(store.cases()) == 12


def test_truths_follow_the_content_of_labels_whose_time_does_not_change(
    tiny_dataset: Path, plans: Plans
) -> None:
    def dated() -> None:
        for file in tiny_dataset.rglob("*"):
            os.utime(file, (315532800, 315532800))

    dated()
    store = preprocess_dataset(901, plans)
    case = next(c for c in store.cases() if store.has_label(c))
    label = tiny_dataset / "labelsTr" / f"{case}.png"
    pixels = np.array(Image.open(label))
    pixels[: len(pixels) // 2] = 0
    Image.fromarray(pixels).save(label)
    dated()
    store = preprocess_dataset(901, plan_and_preprocess(901, preprocess=False))
    truth = store.folder.parent / "gt_segmentations" / label.name
    assert np.array_equal(read_label(truth)[0], pixels)
    assert truth.read_bytes() == label.read_bytes()
    assert np.array_equal(native_label(store.geometry(case), store.label(case, 0)[None])[0], pixels)
    truth.write_bytes(truth.read_bytes()[:50])
    preprocess_dataset(901, plans)
    assert truth.read_bytes() == label.read_bytes()


def test_the_truth_of_a_case_that_is_gone_is_removed_unless_somebody_has_changed_it(
    store: SliceStore, plans: Plans, tiny_dataset: Path
) -> None:
    first, second = [c for c in store.cases() if store.has_label(c)][:2]
    truths = store.folder.parent / "gt_segmentations"
    Image.new("L", (3, 3)).save(truths / f"{second}.png")
    for case in (first, second):
        (tiny_dataset / "labelsTr" / f"{case}.png").unlink()
        (tiny_dataset / "imagesTr" / f"{case}_0000.png").unlink()
    preprocess_dataset(901, plans)
    assert not (truths / f"{first}.png").exists()
    assert (truths / f"{second}.png").is_file()


def test_truths_that_are_a_link_to_the_labels_are_never_deleted(plans: Plans, tiny_dataset: Path, roots) -> None:
    labels = tiny_dataset / "labelsTr"
    (roots.preprocessed / TINY / "gt_segmentations").symlink_to(labels)
    before = {file.name: file.read_bytes() for file in labels.iterdir()}
    preprocess_dataset(901, plans)
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    content["dataset"] = {
        case: {"images": [f"imagesTr/{case}_0000.png"], "label": f"labelsTr/{case}.png"}
        for case in ("xray_tr_001", "xray_tr_002", "xray_tr_003")
    }
    (tiny_dataset / "dataset.json").write_text(json.dumps(content))
    store = preprocess_dataset(901, plans)
    assert sum(map(store.has_label, store.cases())) == 3
    assert {file.name: file.read_bytes() for file in labels.iterdir()} == before


def test_a_damaged_case_is_made_anew(store: SliceStore, plans: Plans, said: pytest.LogCaptureFixture) -> None:
    labelled = [case for case in store.cases() if store.has_label(case)]
    before = {case: store.label(case, 0) for case in labelled}
    content = bytearray(store.image_file(labelled[0]).read_bytes())
    content[len(content) // 2] ^= 16
    store.image_file(labelled[0]).write_bytes(content)
    store.label_file(labelled[1]).write_bytes(store.label_file(labelled[1]).read_bytes()[:-40])
    record = store.folder / f"{labelled[2]}.json"
    record.write_text(record.read_text().replace('"image_size": 256', '"image_size": 255'))
    dates = times(store)
    again = preprocess_dataset(901, plans)
    assert f"The slices of {', '.join(labelled[:3])} are damaged" in said.text
    assert {case for case, date in times(again).items() if date != dates[case]} == set(labelled[:3])
    assert all(np.array_equal(again.label(case, 0), label) for case, label in before.items())
    assert not any(again.damaged(case) for case in again.cases())


def test_temporary_files_of_killed_runs_are_removed(store: SliceStore, plans: Plans) -> None:
    from samdpo import files

    gone = f".tmp-{files._this_machine()}-2147483646-0123456789ab_x.b2nd"
    left = [store.folder / gone, store.folder.parent / gone, store.folder.parent / "gt_segmentations" / gone]
    for file in left:
        file.write_text("half")
    preprocess_dataset(901, plans)
    assert not any(file.exists() for file in left)


@pytest.fixture
def spots(roots) -> Path:
    """Dataset904_Spots: 4 pictures of 600 x 600 pixels with spots of 1 pixel, and in the first one a large disc."""
    raw = roots.raw / "Dataset904_Spots"
    generator = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for number in range(4):
        label = np.zeros((600, 600), np.uint8)
        for y, x in ((100, 200), (301, 307), (500, 44)):
            label[y, x] = 1
        if number == 0:
            label[100:200, 400:500] = 2
        image = generator.integers(60, 90, label.shape).astype(np.uint8) + 100 * (label > 0).astype(np.uint8)
        Image.fromarray(image).save(raw / "imagesTr" / f"s{number}_0000.png")
        Image.fromarray(label).save(raw / "labelsTr" / f"s{number}.png")
    (raw / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "X-ray"}, "labels": {"background": 0, "spot": 1, "disc": 2}, "numTraining": 4,
        "file_ending": ".png",
    }))
    return raw


def test_objects_too_small_for_the_grid_are_told_and_never_taught_as_absence(
    spots: Path, said: pytest.LogCaptureFixture
) -> None:
    store = SliceStore(module.preprocessed_folder(904) / plan_and_preprocess(904).preprocessing.data_identifier)
    lost = sum(store.summaries()[case].small_objects["spot"][1] for case in store.cases())
    assert lost
    assert f"spot: {lost} of 12 outlined objects ({100 * lost / 12:.3g}%)" in said.text
    assert "disc:" not in said.text
    for case in store.cases():
        assert (store.label(case, 0) == 1).sum() == 3
        assert store.properties(case)["slices_of"]["spot"] == [0]


def test_only_cases_that_lost_objects_are_made_anew_from_a_store_of_an_older_version(spots: Path) -> None:
    """Whose records know of no small objects; the hash, by which prompts are kept, changes for these alone."""
    for number in (1, 2):  # in these nothing is lost
        label = np.zeros((600, 600), np.uint8)
        label[50:300, 50:300] = 1
        Image.fromarray(label).save(spots / "labelsTr" / f"s{number}.png")
    plans = plan_and_preprocess(904)
    store = SliceStore(module.preprocessed_folder(904) / plans.preprocessing.data_identifier)
    first = {case: entry.hash for case, entry in store.summaries().items()}
    for case in store.cases():
        record = store.folder / f"{case}.json"
        content = json.loads(record.read_text())
        content["hash"] = content["source"]
        for key in ("source", "small_objects", "checksums", "checksum"):
            del content[key]
        record.write_text(json.dumps(content))
    old = {case: entry.hash for case, entry in SliceStore(store.folder).summaries().items()}
    new = {case: entry.hash for case, entry in preprocess_dataset(904, plans).summaries().items()}
    assert new == first
    assert {case for case in new if new[case] != old[case]} == {"s0", "s3"}


def test_truths_of_a_tiff_stack_keep_their_spacing(roots) -> None:
    tifffile = pytest.importorskip("tifffile")
    raw = roots.raw / "Dataset905_Stacks"
    generator = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    label = np.zeros((3, 20, 24), np.uint8)
    label[1, 5:15, 5:15] = 1
    for name in ("st_000", "st_001"):
        image = generator.integers(0, 255, label.shape).astype(np.uint8)
        tifffile.imwrite(raw / "imagesTr" / f"{name}_0000.tif", image, photometric="minisblack")
        tifffile.imwrite(raw / "labelsTr" / f"{name}.tif", label, photometric="minisblack")
        (raw / "imagesTr" / f"{name}.json").write_text('{"spacing": [3, 0.5, 0.5]}')
    (raw / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "MR"}, "labels": {"background": 0, "spot": 1}, "numTraining": 2, "file_ending": ".tif",
    }))
    plans = plan_and_preprocess(905)
    truth = module.preprocessed_folder(905) / "gt_segmentations" / "st_000.tif"
    assert read_image(truth).spacing == (3.0, 0.5, 0.5)
    (raw / "imagesTr" / "st_000.json").write_text('{"spacing": [4, 0.5, 0.5]}')
    store = preprocess_dataset(905, plans)
    assert store.properties("st_000")["spacing"] == [4.0, 0.5, 0.5]
    assert read_image(truth).spacing == (4.0, 0.5, 0.5)
