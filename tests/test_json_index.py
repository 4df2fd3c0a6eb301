"""The index of a folder of JSON files: a shortcut that is never believed against the files themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from samdpo import json_index
from samdpo.files import write_json
from samdpo.json_index import JsonIndex


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(json_index, "_WORTH_WRITING", 1)
    for number in range(5):
        write_json(tmp_path / f"case_{number}.json", {"value": number})
    return tmp_path


def test_an_index_that_was_damaged_is_not_believed(folder: Path) -> None:
    Reader().read(folder)
    index = folder / ".index.json"
    index.write_text(index.read_text().replace("3]", "7]"))
    assert Reader().read(folder) == {f"case_{number}": number for number in range(5)}


class Reader:
    """Counts what is opened."""

    def __init__(self, version: int = 1) -> None:
        self.opened, self.version = 0, version

    def __call__(self, content: dict) -> int:
        self.opened += 1
        return content["value"]

    def read(self, folder: Path) -> dict[str, int]:
        return JsonIndex(folder, self, self.version).read()[0]


def test_files_are_opened_once(folder: Path) -> None:
    expected = {f"case_{number}": number for number in range(5)}
    first, second = Reader(), Reader()
    assert first.read(folder) == second.read(folder) == expected
    assert (first.opened, second.opened) == (5, 0)


def test_a_changed_new_or_removed_file_is_noticed(folder: Path) -> None:
    Reader().read(folder)
    write_json(folder / "case_1.json", {"value": 7})  # as long as before
    (folder / "case_2.json").unlink()
    write_json(folder / "case_9.json", {"value": 9})
    again = Reader()
    assert again.read(folder) == {"case_0": 0, "case_1": 7, "case_3": 3, "case_4": 4, "case_9": 9}
    assert again.opened == 2


def test_a_file_written_in_place_is_noticed(folder: Path) -> None:
    Reader().read(folder)
    (folder / "case_1.json").write_text('{\n  "value": 8\n}\n')
    os.utime(folder / "case_1.json", ns=(1, 1))  # even by a clock that goes wrong
    assert Reader().read(folder)["case_1"] == 8


def test_changes_between_two_looks_of_one_reader_are_noticed(folder: Path) -> None:
    index = JsonIndex(folder, Reader(), 1)
    assert index.read()[0]["case_1"] == 1
    write_json(folder / "case_1.json", {"value": 7})
    assert index.read()[0]["case_1"] == 7


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1, "files": 3}', '{"version": 1}', '{"version": 2, "files": {}}']
)
def test_a_damaged_or_older_index_is_made_anew(folder: Path, text: str) -> None:
    Reader().read(folder)
    (folder / ".index.json").write_text(text)
    assert Reader().read(folder)["case_4"] == 4
    assert json.loads((folder / ".index.json").read_text())["version"] == 1


def test_a_damaged_file_is_not_there_and_another_summary_reads_all(folder: Path) -> None:
    Reader().read(folder)
    (folder / "case_0.json").write_text("{")
    write_json(folder / "case_1.json", {"other": 1})
    newer = Reader(version=2)
    assert list(newer.read(folder)) == ["case_2", "case_3", "case_4"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert JsonIndex(tmp_path / "none", Reader(), 1).read() == ({}, set())
