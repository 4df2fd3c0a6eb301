"""Where things lie: however a folder is written in a variable, and who needs the right to write there."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from samdpo.annotate.database.locate import database_url
from samdpo.cli import plan_and_preprocess as commands
from samdpo.errors import ConfigurationError
from samdpo.paths import (
    dataset_name,
    model_parts,
    number_of,
    preprocessed_folder,
    preprocessed_root,
    raw_folder,
    results_root,
)
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.planning.splits import load_splits
from samdpo.preprocessing.store import SliceStore

TINY = "Dataset901_TinyXray"
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.mark.parametrize("form", ["~/my data/{}", "~/my data/{}/", "{}", "./{}/", "../my data/{}", " ~/my data/{} "])
def test_a_folder_may_be_written_in_any_form(
    _tiny_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    here = tmp_path / "my data"
    shutil.copytree(_tiny_original, here / "nnUNet_raw" / TINY)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    for variable in VARIABLES:
        monkeypatch.setenv(variable, form.format(variable))
    monkeypatch.setattr(sys, "argv", ["samdpo_plan_and_preprocess", "-d", "901", "--no_pp", "-np", "1"])
    commands.main()
    assert raw_folder(901) == here / "nnUNet_raw" / TINY
    assert (here / "nnUNet_preprocessed" / TINY / "splits_final.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my data"]
    assert sorted(p.name for p in here.iterdir()) == ["nnUNet_preprocessed", "nnUNet_raw", "nnUNet_results"]


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be written, as on a mount that is only read (permissions do not bind the user root)."""

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    for name in ("mkdir", "replace", "rename", "unlink", "link", "symlink"):
        monkeypatch.setattr(os, name, refuse)


@pytest.fixture
def preprocessed(tiny_dataset: Path) -> Path:
    plans = plan_and_preprocess(901)
    return preprocessed_folder(901) / plans.preprocessing.data_identifier


def test_what_is_only_read_needs_no_right_to_write(preprocessed: Path, read_only: None, roots) -> None:
    store = SliceStore(preprocessed)
    case = store.cases()[0]
    assert store.image(case, 0).shape == (3, 256, 256)
    assert len(load_splits(preprocessed.parent)) == 5
    assert dataset_name(901) == TINY
    assert results_root() == roots.results
    assert preprocessed_root() == roots.preprocessed
    assert database_url(901).startswith(f"sqlite:///{roots.results}")
    for root in (results_root, preprocessed_root):
        with pytest.raises(ConfigurationError, match="is not writable"):
            root(writable=True)


def test_a_model_predicts_where_nothing_may_be_written(finetuned, read_only: None) -> None:
    from samdpo.dataset.cases import input_cases
    from samdpo.model.folder import find_model
    from samdpo.model.predictor import Predictor

    predictor = Predictor.from_model_folder(find_model(901, None, None, None), device="cpu")
    predictor.set_image(input_cases(finetuned.raw / "imagesTs", ".png", 1)[0].images[0])
    assert predictor.predict().segmentation.any()


@pytest.mark.parametrize(("name", "parts"), [
    ("AlignTrainer__samdpoPlans__align", ("AlignTrainer", "samdpoPlans", "align")),
    ("AlignTrainer__my__plan__align", ("AlignTrainer", "my__plan", "align")),
    ("AlignTrainer__align", None), ("validation", None), ("", None),
])
def test_a_model_folder_is_taken_apart_at_its_first_and_last_separator(name: str, parts: object) -> None:
    assert model_parts(name) == parts


def test_the_number_of_a_dataset_is_in_its_name_and_nowhere_else() -> None:
    assert (number_of("Dataset003_Liver"), number_of("Dataset901_Dataset902_X")) == (3, 901)
    for other in ("Liver", "Dataset3_Liver", "Dataset003", ""):
        with pytest.raises(ConfigurationError, match="no name of a dataset; expected one like Dataset003_Liver"):
            number_of(other)
