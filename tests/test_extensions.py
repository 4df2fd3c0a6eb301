import importlib
import os
import re
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from samdpo import extensions
from samdpo.align.trainer import AlignTrainer
from samdpo.errors import ConfigurationError
from samdpo.extensions import OURS, find, find_named_in_file, names, register
from samdpo.training.finetune import FinetuneTrainer

SOURCE = """
from samdpo.training.finetune import FinetuneTrainer

class {name}(FinetuneTrainer):
    pass

class NoTrainer:
    pass
"""


def test_built_in_trainers_are_found_by_name():
    assert find("trainer", "FinetuneTrainer") is FinetuneTrainer
    assert find("trainer", "AlignTrainer") is AlignTrainer


def test_a_class_of_a_module_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_trainers_module.py").write_text(SOURCE.format(name="Mine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert issubclass(find("trainer", "my_trainers_module:Mine"), FinetuneTrainer)


def test_a_class_in_a_folder_of_ext_trainer(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "ext_file.py").write_text(SOURCE.format(name="FromFolder"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert issubclass(find("trainer", "FromFolder"), FinetuneTrainer)


def test_an_entry_point(monkeypatch):
    class Entry:
        name = "Registered"

        def load(self):
            return AlignTrainer

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry()] * (group == "samdpo.trainers"))
    assert find("trainer", "Registered") is AlignTrainer


def test_an_unknown_name_lists_what_there_is(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    with pytest.raises(ConfigurationError, match="FinetuneTrainer, AlignTrainer.*nnUNet_extTrainer is not set"):
        find("trainer", "Missing")


def test_a_module_that_cannot_be_imported_is_named():
    with pytest.raises(ConfigurationError, match="'no_such_module'"):
        find("trainer", "no_such_module:Class")


def test_a_class_that_is_no_trainer_is_refused(tmp_path, monkeypatch):
    (tmp_path / "ext_no.py").write_text(SOURCE.format(name="Another"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    with pytest.raises(ConfigurationError, match="not a subclass"):
        find("trainer", "NoTrainer")


def named_by_a_file(name, typed=None):
    return find_named_in_file("trainer", name, "model.json", typed)


def test_a_name_in_a_file_finds_what_is_built_in_installed_or_in_the_users_folders(tmp_path, monkeypatch):
    assert named_by_a_file("samdpo.align.trainer:AlignTrainer") is AlignTrainer
    assert named_by_a_file("AlignTrainer") is AlignTrainer
    assert named_by_a_file("samdpo.somewhere_else_in_another_version:AlignTrainer") is AlignTrainer
    (tmp_path / "ext_named.py").write_text(SOURCE.format(name="OfAFile"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert named_by_a_file("samdpo_ext_ext_named:OfAFile").__name__ == "OfAFile"
    entry = EntryPoint("Another", "samdpo.training.finetune:FinetuneTrainer", "samdpo.trainers")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] * (group == "samdpo.trainers"))
    assert named_by_a_file("Another") is FinetuneTrainer


def test_a_name_in_a_file_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "named_by_data.py").write_text("raise AssertionError('this was run')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(ConfigurationError, match="type -tr named_by_data:AlignTrainer, or let nnUNet_extTrainer"):
        named_by_a_file("named_by_data:AlignTrainer")
    assert "named_by_data" not in sys.modules and sys.path == before


def test_a_class_that_is_loaded_already_needs_no_import(monkeypatch):
    own = type("Own", (FinetuneTrainer,), {"__module__": "loaded_by_the_user"})
    monkeypatch.setitem(sys.modules, "loaded_by_the_user", types.SimpleNamespace(Own=own, system=os.system))
    assert named_by_a_file("loaded_by_the_user:Own") is own
    with pytest.raises(ConfigurationError, match="is not run for it"):
        named_by_a_file("loaded_by_the_user:system")


def test_what_is_typed_must_be_the_class_that_the_file_names():
    assert named_by_a_file("somewhere:AlignTrainer", "AlignTrainer") is AlignTrainer
    assert named_by_a_file("somewhere:AlignTrainer", AlignTrainer) is AlignTrainer
    with pytest.raises(ConfigurationError, match="-tr names the class 'FinetuneTrainer'"):
        named_by_a_file("somewhere:AlignTrainer", "FinetuneTrainer")


@pytest.mark.parametrize("name", [":", "a:", ":X", "a b:X", "../x:Y", "a.:X", "x:y.z", "x:y:z"])
def test_what_is_no_name_of_a_class_is_a_sentence(name):
    with pytest.raises(ConfigurationError, match=r"names no trainer; write package\.module:Class"):
        find("trainer", name)
    with pytest.raises(ConfigurationError, match=r"names no planner; write package\.module:Class"):
        find("planner", name)


def test_installed_modules_win_over_those_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "this_is_mine.py").write_text(SOURCE.format(name="Mine"))
    (tmp_path / "colorsys.py").write_text("raise AssertionError('the standard library has one')")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    monkeypatch.chdir(tmp_path)
    find("trainer", "this_is_mine:Mine")
    importlib.import_module("colorsys")


def test_a_file_that_may_not_be_read_does_not_stop_the_search(tmp_path, monkeypatch):
    (tmp_path / "a_latin.py").write_bytes(b"# caf\xe9")
    (tmp_path / "b_link.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "c_found.py").write_text(SOURCE.format(name="Found"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert find("trainer", "Found").__name__ == "Found"


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in OURS for name in OURS[kind]])
def test_each_of_our_names_stands_for_something(kind, name):
    assert callable(find(kind, name))


@pytest.mark.parametrize("name", [
    "samdpo.training.align:AlignTrainer", "samdpo.training.align.trainer:AlignTrainer",
    "samdpo.training.baselines.unet:UNetTrainer", "samdpo.training.baselines.nnunet:NnUNetTrainer",
    "samdpo.training.baselines.sam:SamTrainer", "samdpo.training.baselines.self_prompt:SelfPromptTrainer",
    "samdpo.training.baselines.prompt_only:PromptOnlyTrainer", "samdpo.training.sam_med3d.trainer:SamMed3dTrainer",
    "samdpo.training.baselines.mean_teacher:MeanTeacherTrainer", "samdpo.training.baselines.fixmatch:FixMatchTrainer",
])
def test_models_of_older_versions_name_modules_that_have_moved(name):
    assert named_by_a_file(name).__name__ == name.partition(":")[2]


def test_a_name_is_registered_once():
    try:
        register("planner", "OfThisTest")(FinetuneTrainer)
        assert find("planner", "OfThisTest") is FinetuneTrainer and "OfThisTest" in names("planner")
        for taken in ("OfThisTest", "LitePlanner"):
            with pytest.raises(ValueError, match=f"the planner '{taken}' is registered already, by samdpo"):
                register("planner", taken)(AlignTrainer)
    finally:
        extensions._registered["planner"].pop("OfThisTest")


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind != "trainer"])
def test_installed_packages_may_bring_any_kind(kind, monkeypatch):
    group = f"samdpo.{kind}" if kind in ("stages", "judgements") else f"samdpo.{kind}s"
    entry = EntryPoint("Another", "samdpo.training.finetune:FinetuneTrainer", group)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] * (group == entry.group))
    assert find(kind, "Another") is FinetuneTrainer and names(kind)[-1] == "Another"
    assert find_named_in_file(kind, "Another", "plans.json") is FinetuneTrainer


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind != "trainer"])
def test_a_function_of_a_loaded_module_is_nothing_that_a_file_may_name(kind):
    with pytest.raises(ConfigurationError, match="is not run for it"):
        find_named_in_file(kind, "os:system", "plans.json")


def test_nothing_below_the_lab_imports_it():
    """It is found by name, as what a user brings is."""
    above = ("samdpo/lab/", "samdpo/cli/", "samdpo/demo.py")
    root = Path(extensions.__file__).parents[1]
    files = [file.relative_to(root).as_posix() for file in (root / "samdpo").rglob("*.py")]
    below = [file for file in files if not file.startswith(above)]
    found = [file for file in below if re.search(r"^\s*(from|import) samdpo\.lab", (root / file).read_text(), re.M)]
    assert len(below) > 100 and not found
