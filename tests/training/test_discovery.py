import sys

import pytest

from samdpo.errors import ConfigurationError
from samdpo.training.align import AlignTrainer
from samdpo.training.discovery import find_trainer
from samdpo.training.finetune import FinetuneTrainer

SOURCE = """
from samdpo.training.finetune import FinetuneTrainer

class {name}(FinetuneTrainer):
    pass

class NoTrainer:
    pass
"""


def test_built_in_trainers_are_found_by_name():
    assert find_trainer("FinetuneTrainer") is FinetuneTrainer
    assert find_trainer("AlignTrainer") is AlignTrainer


def test_a_class_of_a_module_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_trainers_module.py").write_text(SOURCE.format(name="Mine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert issubclass(find_trainer("my_trainers_module:Mine"), FinetuneTrainer)


def test_a_class_in_a_folder_of_ext_trainer(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "ext_file.py").write_text(SOURCE.format(name="FromFolder"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert issubclass(find_trainer("FromFolder"), FinetuneTrainer)


def test_an_entry_point(monkeypatch):
    class Entry:
        name = "Registered"

        def load(self):
            return AlignTrainer

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry()] * (group == "samdpo.trainers"))
    assert find_trainer("Registered") is AlignTrainer


def test_an_unknown_name_lists_what_there_is(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    with pytest.raises(ConfigurationError, match="FinetuneTrainer, AlignTrainer.*nnUNet_extTrainer is not set"):
        find_trainer("Missing")


def test_a_module_that_cannot_be_imported_is_named():
    with pytest.raises(ConfigurationError, match="'no_such_module'"):
        find_trainer("no_such_module:Class")


def test_a_class_that_is_no_trainer_is_refused(tmp_path, monkeypatch):
    (tmp_path / "ext_no.py").write_text(SOURCE.format(name="Another"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    with pytest.raises(ConfigurationError, match="not a subclass"):
        find_trainer("NoTrainer")
