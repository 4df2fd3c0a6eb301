"""Preprocessing a dataset: every case once, resumable, the same slices as for a new image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samdpo.dataset.cases import labelled_cases
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.planning.run import plan_and_preprocess
from samdpo.plans import Plans
from samdpo.preprocessing import preprocess as module
from samdpo.preprocessing.preprocess import prepare_slices, preprocess_case, preprocess_dataset
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


def test_stored_slices_are_those_of_a_new_image(store: SliceStore, plans: Plans, tiny_dataset: Path) -> None:
    case = labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))[0]
    slices, geometry = prepare_slices(read_image(case.images).data, plans)
    assert slices.shape == (1, 3, 256, 256)
    assert np.abs(slices[0] - store.image(case.identifier, 0)).max() < 5e-4
    again, same_geometry, properties = preprocess_case(case, plans)
    assert np.array_equal(slices, again)
    assert geometry == same_geometry == store.geometry(case.identifier)
    assert properties == store.properties(case.identifier)


def test_the_label_finds_its_way_back(store: SliceStore, tiny_dataset: Path) -> None:
    case = labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))[0]
    native = store.geometry(case.identifier).label_to_native(store.label(case.identifier, 0)[None])
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
    assert np.array_equal(store.geometry(case).label_to_native(cut), native)
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
