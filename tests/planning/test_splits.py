"""Folds and labelled subsets: nnU-Net's where there are no groups, never a patient on both sides."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from samdpo.errors import ConfigurationError, DatasetError
from samdpo.planning.splits import SPLITS_FILE, Fold, load_splits, make_splits, save_splits, update_splits

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
