"""Folds and labelled subsets: nnU-Net's where there are no groups, never a patient on both sides."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from samdpo.errors import ConfigurationError, DatasetError, TrainingError
from samdpo.planning.splits import (
    SPLITS_FILE,
    Fold,
    complete_fold,
    fold_of,
    load_splits,
    make_splits,
    save_splits,
    take_splits,
    update_splits,
)

CASES = [f"case_{i:03d}" for i in range(23)]
PATIENTS = {case: f"patient_{i // 2 if i < 16 else 99}" for i, case in enumerate(CASES)}  # pairs, and one of 7


@pytest.mark.parametrize("n", [5, 8, 23, 139])
def test_folds_without_groups_are_those_of_nnunet(n: int) -> None:
    generate = pytest.importorskip("nnunetv2.utilities.crossval_split").generate_crossval_split
    cases = [f"c{i}" for i in range(n)]
    theirs = generate(sorted(cases), seed=12345, n_splits=5)
    ours = make_splits(cases, {})
    assert [(f.train, f.val) for f in ours] == [
        ([str(c) for c in f["train"]], [str(c) for c in f["val"]]) for f in theirs
    ]


def test_a_group_is_never_on_both_sides() -> None:
    folds = make_splits(CASES, PATIENTS)
    assert len(folds) == 5
    for fold in folds:
        assert not {PATIENTS[c] for c in fold.train} & {PATIENTS[c] for c in fold.val}
        assert sorted(fold.train + fold.val) == CASES
    assert sorted(c for fold in folds for c in fold.val) == CASES


def test_folds_of_groups_are_as_even_as_the_groups_allow() -> None:
    assert sorted(len(f.val) for f in make_splits(CASES, PATIENTS)) == [4, 4, 4, 4, 7]


@pytest.mark.parametrize(("n", "folds"), [(4, 4), (3, 3), (2, 2)])
def test_fewer_than_five_cases_give_fewer_folds(n: int, folds: int) -> None:
    made = make_splits(CASES[:n], {})
    assert len(made) == folds
    assert all(f.train and f.val and not set(f.train) & set(f.val) for f in made)


def test_one_labelled_case_trains_and_validates_on_itself_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    with caplog.at_level(logging.WARNING, "samdpo"):
        (fold,) = make_splits(["only"], {}, ul_cases=["u"])
    assert (fold.train, fold.val, fold.labelled, fold.unlabelled) == (["only"], ["only"], ["only"], ["u"])
    assert "one labelled case only" in caplog.text


def test_no_case_is_refused() -> None:
    with pytest.raises(DatasetError, match="no labelled case"):
        make_splits([], {})


@pytest.mark.parametrize("groups", [{}, PATIENTS])
def test_labelled_subsets_are_nested(groups: dict[str, str]) -> None:
    for fold in make_splits(CASES, groups):
        subsets = [set(fold.labelled_subsets[share]) for share in ("0.1", "0.2", "0.5", "1.0")]
        assert subsets[0] <= subsets[1] <= subsets[2] <= subsets[3] == set(fold.train)
        assert subsets[0]


@pytest.mark.parametrize("share", ["0.1", "0.2", "0.5", "1.0"])
def test_labelled_is_the_subset_of_its_share(share: str) -> None:
    for fold in make_splits(CASES, PATIENTS, labelled=float(share)):
        assert fold.labelled == fold.labelled_subsets[share]


def test_a_share_in_between_lies_between_the_subsets() -> None:
    for fold in make_splits(CASES, {}, labelled=0.35):
        assert set(fold.labelled_subsets["0.2"]) <= set(fold.labelled) <= set(fold.labelled_subsets["0.5"])
        assert len(fold.labelled) == round(0.35 * len(fold.train))


@pytest.mark.parametrize("groups", [{}, PATIENTS])
def test_groups_are_labelled_as_a_whole(groups: dict[str, str]) -> None:
    for fold in make_splits(CASES, groups, labelled=0.2):
        labelled = {groups.get(c, c) for c in fold.labelled}
        assert not labelled & {groups.get(c, c) for c in set(fold.train) - set(fold.labelled)}


def test_without_a_fraction_everything_is_labelled_and_imagesul_unlabelled() -> None:
    for fold in make_splits(CASES, {}, ul_cases=["u2", "u1"]):
        assert fold.labelled == fold.train
        assert fold.unlabelled == ["u1", "u2"]


def test_an_unlabelled_image_of_a_patient_who_validates_is_left_out_of_the_fold() -> None:
    groups = PATIENTS | {"u1": PATIENTS["case_000"], "u2": "nobody_else"}
    for fold in make_splits(CASES, groups, ul_cases=["u1", "u2"]):
        assert fold.unlabelled == (["u2"] if "case_000" in fold.val else ["u1", "u2"])


def test_a_single_patient_keeps_its_unlabelled_images() -> None:
    groups = dict.fromkeys([*CASES, "u"], "one")
    folds = make_splits(CASES, groups, ul_cases=["u"])
    assert [fold.unlabelled for fold in folds] == [["u"]]
    assert fold_of(folds, "all", Path("nowhere")).unlabelled == ["u"]


def test_unlabelled_is_all_the_rest_unless_a_share_is_given() -> None:
    fold = make_splits(CASES, {}, labelled=0.1, ul_cases=["u"])[0]
    assert sorted([*fold.labelled, *fold.unlabelled]) == sorted([*fold.train, "u"])
    fold = make_splits(CASES, {}, labelled=0.1, unlabelled=0.4)[0]
    assert len(fold.unlabelled) == round(0.4 * len(fold.train))
    assert not set(fold.unlabelled) & set(fold.labelled)
    assert make_splits(CASES, {}, labelled=0.1, unlabelled=0.0)[0].unlabelled == []


def test_labels_of_validation_cases_are_never_used() -> None:
    for fold in make_splits(CASES, {}, labelled=0.1):
        assert not set(fold.val) & {*fold.labelled, *fold.unlabelled}


def test_another_seed_labels_other_cases_of_the_same_folds() -> None:
    a, b = make_splits(CASES, {}, labelled=0.2, seed=1), make_splits(CASES, {}, labelled=0.2, seed=2)
    assert [f.train for f in a] == [f.train for f in b]
    assert [f.labelled for f in a] != [f.labelled for f in b]


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "sentence"),
    [(0.0, None, "more than 0"), (1.5, None, "at most 1"), (0.5, -0.1, "from 0 to 1"), (0.7, 0.5, "can be 0.3")],
)
def test_fractions_that_cannot_be_meant_are_refused(labelled: float, unlabelled: float | None, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make_splits(CASES, {}, labelled=labelled, unlabelled=unlabelled)


def test_a_full_tenth_and_the_rest_are_allowed() -> None:
    assert make_splits(CASES, {}, labelled=0.1, unlabelled=0.9)[0].unlabelled


def test_splits_survive_the_file_and_nnunet_reads_it(tmp_path: Path) -> None:
    folds = make_splits(CASES, PATIENTS, labelled=0.2)
    save_splits(folds, tmp_path)
    assert load_splits(tmp_path) == folds
    assert {"train", "val", "labelled", "unlabelled", "labelled_subsets"} <= json.loads(
        (tmp_path / SPLITS_FILE).read_text()
    )[0].keys()


def test_planning_again_with_other_fractions_keeps_the_folds(tmp_path: Path) -> None:
    first = update_splits(tmp_path, CASES, {}, labelled=0.1)
    second = update_splits(tmp_path, CASES, {}, labelled=0.5)
    assert [(f.train, f.val) for f in first] == [(f.train, f.val) for f in second]
    assert all(set(a.labelled) < set(b.labelled) for a, b in zip(first, second))
    assert load_splits(tmp_path) == second


def test_planning_again_with_the_same_fractions_does_not_touch_the_file(tmp_path: Path) -> None:
    update_splits(tmp_path, CASES, {}, labelled=0.1)
    before = (tmp_path / SPLITS_FILE).stat().st_mtime_ns
    update_splits(tmp_path, CASES, {}, labelled=0.1)
    assert (tmp_path / SPLITS_FILE).stat().st_mtime_ns == before


def write_bare(folder: Path) -> list[dict[str, list[str]]]:
    folds = [{"train": CASES[3:], "val": CASES[:3], "note": "mine"}, {"train": CASES[:20], "val": CASES[20:]}]
    (folder / SPLITS_FILE).write_text(json.dumps(folds))
    return folds


def test_a_users_own_folds_are_kept_and_completed(tmp_path: Path) -> None:
    own = write_bare(tmp_path)
    folds = update_splits(tmp_path, CASES, {}, labelled=0.2, ul_cases=["u"])
    assert [(f.train, f.val) for f in folds] == [(f["train"], f["val"]) for f in own]
    assert all(f.origin == "user" and len(f.labelled) == round(0.2 * len(f.train)) for f in folds)
    assert all("u" in f.unlabelled for f in folds)
    assert update_splits(tmp_path, CASES, {}, labelled=0.5)[0].train == own[0]["train"]


def test_a_users_own_folds_are_read_as_fully_labelled_without_planning(tmp_path: Path) -> None:
    own = write_bare(tmp_path)
    assert [f.labelled for f in load_splits(tmp_path)] == [f["train"] for f in own]


def test_moving_a_case_in_our_file_by_hand_makes_it_the_users(tmp_path: Path) -> None:
    update_splits(tmp_path, CASES, {})
    content = json.loads((tmp_path / SPLITS_FILE).read_text())
    moved = content[0]["val"].pop()
    content[0]["train"].append(moved)
    content[0]["labelled"].append(moved)
    (tmp_path / SPLITS_FILE).write_text(json.dumps(content))
    assert moved in update_splits(tmp_path, CASES, {}, labelled=0.5)[0].train


def test_labelled_cases_chosen_by_hand_are_kept_until_other_fractions_are_asked_for(tmp_path: Path) -> None:
    update_splits(tmp_path, CASES, {})
    content = json.loads((tmp_path / SPLITS_FILE).read_text())
    content[0]["labelled"], content[0]["unlabelled"] = content[0]["train"][:2], content[0]["train"][2:]
    (tmp_path / SPLITS_FILE).write_text(json.dumps(content))
    for _ in range(2):
        assert update_splits(tmp_path, CASES, {})[0].labelled == content[0]["train"][:2]
    assert len(update_splits(tmp_path, CASES, {}, labelled=0.5)[0].labelled) > 2


def published(tmp_path: Path, **lists: list[str]) -> Path:
    file = tmp_path / "splits_2_of_20.json"
    file.write_text(json.dumps([{"train": CASES[3:], "val": CASES[:3], "labelled": CASES[5:7], **lists}]))
    return file


def test_published_splits_are_taken_with_their_labelled_cases_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_Planned"
    update_splits(folder, CASES, {})
    (fold,) = take_splits(published(tmp_path), folder, CASES, {}, ul_cases=["u1"])
    assert (fold.train, fold.val, fold.labelled) == (CASES[3:], CASES[:3], CASES[5:7])
    assert fold.unlabelled == sorted([*CASES[3:5], *CASES[7:], "u1"])
    assert load_splits(folder) == [fold] == update_splits(folder, CASES, {}, ul_cases=["u1"])
    (other,) = update_splits(folder, CASES, {}, ul_cases=["u2", "u3"])  # one has gone, two have come
    assert other.labelled == fold.labelled
    assert other.unlabelled == sorted([*CASES[3:5], *CASES[7:], "u2", "u3"])
    assert update_splits(folder, CASES, {}, ul_cases=["u1"]) == [fold]
    assert len(update_splits(folder, CASES, {}, labelled=0.5)[0].labelled) == 10, "another share was asked for"


def test_published_splits_may_name_the_unlabelled_cases_or_none_at_all(tmp_path: Path) -> None:
    few = published(tmp_path, unlabelled=CASES[10:12])
    assert take_splits(few, tmp_path / "a", CASES, {}, ul_cases=["u1"])[0].unlabelled == CASES[10:12]
    (again,) = update_splits(tmp_path / "a", CASES, {}, ul_cases=["u2", "u3"])
    assert (again.labelled, again.unlabelled) == (CASES[5:7], CASES[10:12]), "they were named"
    share = take_splits(published(tmp_path), tmp_path / "b", CASES, {}, unlabelled=0.25)[0]
    assert len(share.unlabelled) == 5 and not {*share.unlabelled} & {*share.labelled, *share.val}
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps([{"train": CASES[3:], "val": CASES[:3]}]))
    assert len(take_splits(bare, tmp_path / "c", CASES, {}, labelled=0.2)[0].labelled) == 4


def test_splits_of_our_own_form_from_elsewhere_count_as_chosen_by_hand(tmp_path: Path) -> None:
    update_splits(tmp_path / "a", CASES, {}, labelled=0.2)
    (tmp_path / "b").mkdir()
    taken = take_splits(tmp_path / "a" / SPLITS_FILE, tmp_path / "b", CASES, {"case_000": "p", "case_001": "p"})
    assert [f.labelled for f in taken] == [f.labelled for f in load_splits(tmp_path / "a")]
    assert update_splits(tmp_path / "b", CASES, {"case_000": "p", "case_001": "p"}) == taken, "other groups, no matter"


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"labelled": ["case_000"]}, r"fold 0 lists case_000 as labelled, which must be in its train"),
        ({"labelled": ["case_5"], "train": [*CASES[3:], "case_5"]}, "fold 0 names case_5 in 'train'.*does not hold"),
        ({"val": CASES[:4]}, "fold 0 has case_003 in train and in val"),
        ({"train": ["../x"]}, "a case in 'train' of fold 0 is"),
    ],
)
def test_published_splits_that_do_not_fit_leave_the_old_ones(
    tmp_path: Path, lists: dict[str, list[str]], sentence: str
) -> None:
    update_splits(tmp_path, CASES, {})
    before = (tmp_path / SPLITS_FILE).read_bytes()
    with pytest.raises(DatasetError, match=rf"splits_2_of_20\.json: {sentence}") as caught:
        take_splits(published(tmp_path, **lists), tmp_path, CASES, {})
    assert str(caught.value).endswith("Correct it and type the same command again.")
    assert (tmp_path / SPLITS_FILE).read_bytes() == before


def test_a_share_of_labels_beside_published_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--labelled 0\.1 would choose others"):
        take_splits(published(tmp_path), tmp_path, CASES, {}, labelled=0.1)
    assert not (tmp_path / SPLITS_FILE).exists()


def test_groups_added_later_make_the_folds_anew(tmp_path: Path) -> None:
    update_splits(tmp_path, CASES, {})
    for fold in update_splits(tmp_path, CASES, PATIENTS):
        assert not {PATIENTS[c] for c in fold.train} & {PATIENTS[c] for c in fold.val}


def test_a_users_folds_that_name_unknown_cases_are_refused(tmp_path: Path) -> None:
    write_bare(tmp_path)
    with pytest.raises(DatasetError, match=r"splits_final\.json: fold 0 names case_022"):
        update_splits(tmp_path, CASES[:-1], {})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not valid JSON"),
        ("{}", "list of folds"),
        ("[3]", "fold 0 must be an object"),
        ('[{"train": ["a"]}]', "val"),
        ('[{"train": "a", "val": ["b"]}]', "train"),
        ('[{"train": [], "val": ["b"]}]', "no train"),
        ('[{"train": ["a"], "val": ["b"], "labelled": ["b"]}]', "lists b as labelled"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / SPLITS_FILE).write_text(content)
    with pytest.raises(DatasetError, match=sentence) as caught:
        load_splits(tmp_path)
    assert "samdpo_plan_experiment" in str(caught.value)


def test_a_missing_file_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="samdpo_plan_and_preprocess"):
        load_splits(tmp_path)


def test_a_fold_needs_only_its_four_lists() -> None:
    assert Fold(["a"], ["b"], ["a"], []).labelled_fraction == 1.0


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A planned dataset, as far as splits read it: 23 labelled cases and two of imagesUl."""
    folder = tmp_path / "Dataset001_Planned"
    folder.mkdir()
    content = {"cases": CASES, "unlabelled_cases": ["u1", "u2"], "groups": {}}
    (folder / "dataset_fingerprint.json").write_text(json.dumps(content))
    return folder


def write_folds(folder: Path, **lists: list[str]) -> None:
    (folder / SPLITS_FILE).write_text(json.dumps([{"train": CASES[3:], "val": CASES[:3], **lists}]))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level(logging.WARNING, "samdpo")
    return caplog


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"train": [f"{c}.png" for c in CASES[3:]]}, r"names case_003\.png, .* in 'train'.*Is case_003 meant"),
        ({"val": ["case_000_0000"]}, "names case_000_0000 in 'val'.*Is case_000 meant"),
        ({"val": ["cas_001"]}, "names cas_001 in 'val'.*Is case_001 meant"),
        ({"val": ["u1"]}, "names u1 in 'val', which imagesUl holds"),
        ({"train": [*CASES[3:], "u2"]}, "names u2 in 'train', which imagesUl holds"),
        ({"unlabelled": ["ghost"], "labelled": CASES[3:]}, "names ghost in 'unlabelled'"),
        ({"train": CASES[2:]}, "has case_002 in train and in val"),
        ({"train": CASES[:1], "val": CASES[:1]}, "has case_000 in train and in val.*fold 'all'"),
        ({"labelled": CASES[5:], "unlabelled": ["u1", "case_001"]}, "has case_001 in unlabelled and in val"),
    ],
)
def test_folds_written_by_hand_are_checked_by_whoever_reads_them(
    planned: Path, lists: dict[str, list[str]], sentence: str
) -> None:
    write_folds(planned, **lists)
    with pytest.raises(DatasetError, match=rf"splits_final\.json: fold 0 {sentence}") as caught:
        load_splits(planned)
    assert "samdpo_plan_experiment -d Dataset001_Planned" in str(caught.value)


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/passwd", "a/b", "..", "", ".hidden", "a\x00"])
def test_a_path_is_no_case_whatever_else_is_known(tmp_path: Path, name: str) -> None:
    for key in ("train", "val", "unlabelled"):
        write_folds(tmp_path, labelled=CASES[4:], **{key: [*CASES[4:], name]})
        for read in (load_splits, lambda folder: update_splits(folder, CASES, {})):
            with pytest.raises(DatasetError, match=f"splits_final\\.json: a case in '{key}' of fold 0 is"):
                read(tmp_path)


def test_planning_says_the_same_of_a_case_in_train_and_val(tmp_path: Path) -> None:
    write_folds(tmp_path, train=CASES[2:])
    with pytest.raises(DatasetError, match="has case_002 in train and in val"):
        update_splits(tmp_path, CASES, {})


def test_without_a_fingerprint_the_slices_say_which_cases_there_are(tmp_path: Path) -> None:
    write_folds(tmp_path, val=["ghost"])
    assert load_splits(tmp_path)[0].val == ["ghost"]  # nothing is known
    with pytest.raises(DatasetError, match="names ghost in 'val'"):
        load_splits(tmp_path, dict.fromkeys(CASES, True))


def test_a_case_that_was_preprocessed_after_planning_is_known(planned: Path) -> None:
    write_folds(planned, val=["new"])
    assert load_splits(planned, {"new": True})[0].val == ["new"]


def test_a_case_that_is_listed_twice_counts_once(planned: Path, said: pytest.LogCaptureFixture) -> None:
    write_folds(planned, train=[*CASES[3:], "case_004", "case_004"])
    fold = load_splits(planned)[0]
    assert fold.train == fold.labelled == CASES[3:]
    assert "lists case_004 more than once in 'train'" in said.text
    assert update_splits(planned, CASES, {})[0].train == CASES[3:]


def test_a_patient_in_train_and_val_is_warned_of(planned: Path, said: pytest.LogCaptureFixture) -> None:
    file = planned / "dataset_fingerprint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "groups": {"case_002": "eve", "case_003": "eve"}}))
    write_folds(planned)
    load_splits(planned)
    assert "has eve in train and in val" in said.text


def test_a_patient_in_unlabelled_and_val_is_warned_of(planned: Path, said: pytest.LogCaptureFixture) -> None:
    file = planned / "dataset_fingerprint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "groups": {"case_002": "eve", "u1": "eve"}}))
    write_folds(planned, labelled=CASES[3:], unlabelled=["u1"])
    load_splits(planned)
    assert "has eve in unlabelled and in val" in said.text


def test_a_single_patient_may_validate_on_itself(planned: Path) -> None:
    file = planned / "dataset_fingerprint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "groups": dict.fromkeys(CASES, "eve")}))
    save_splits(make_splits(CASES, dict.fromkeys(CASES, "eve"), labelled=0.5), planned)
    assert load_splits(planned)[0].val == CASES


def test_names_in_decomposed_unicode_are_the_same_cases(planned: Path) -> None:
    file = planned / "dataset_fingerprint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cases": [*CASES, "P\u00e9rez 1"]}))
    write_folds(planned, val=["Pe\u0301rez 1"])
    assert load_splits(planned)[0].val == ["P\u00e9rez 1"]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5, 1.0])
def test_fold_all_labels_the_share_that_was_asked_for(tmp_path: Path, share: float) -> None:
    cases = [f"c{i:03d}" for i in range(100)]
    fold = fold_of(make_splits(cases, {}, labelled=share, ul_cases=["u"]), "all", tmp_path)
    assert fold.train == fold.val == cases
    assert len(fold.labelled) == round(100 * share)
    assert sorted([*fold.labelled, *fold.unlabelled]) == [*cases, "u"]


def test_fold_all_chooses_as_a_fold_does(planned: Path) -> None:
    file = planned / "dataset_fingerprint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "groups": PATIENTS}))
    splits = make_splits(CASES, PATIENTS, labelled=0.2, unlabelled=0.4, seed=7)
    save_splits(splits, planned)
    fold = fold_of(load_splits(planned), "all", planned)
    assert fold == complete_fold(CASES, CASES, PATIENTS, 7, 0.2, 0.4)
    assert not {PATIENTS[c] for c in fold.labelled} & {PATIENTS[c] for c in set(CASES) - set(fold.labelled)}


def test_fold_all_loses_no_case_of_folds_that_do_not_hold_all(tmp_path: Path) -> None:
    ids = [f"c{i:03d}" for i in range(100)]
    splits = [
        Fold(ids[:40], ids[40:50], ids[:40], []), Fold(ids[50:90], ids[90:], ids[50:90], []),
    ]
    fold = fold_of(splits, "all", tmp_path)
    assert fold.train == fold.val == fold.labelled == ids


def test_fold_all_takes_the_labelled_cases_that_were_chosen_by_hand(planned: Path) -> None:
    write_folds(planned, labelled=CASES[3:5], unlabelled=["u1"])
    fold = fold_of(load_splits(planned), "all", planned)
    assert fold.labelled == CASES[3:5]
    assert fold.unlabelled == [*CASES[:3], *CASES[5:], "u1"]


@pytest.mark.parametrize("fold", ["00", "5", 5, "-1", "first", "²"])
def test_a_fold_that_does_not_exist_is_refused(tmp_path: Path, fold: int | str) -> None:
    with pytest.raises(TrainingError, match="has folds 0 to 4, and 'all'"):
        fold_of(make_splits(CASES, {}), fold, tmp_path)
