"""Atomic files: what stood there before survives whatever goes wrong."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from waiting import PATIENCE

from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import atomic_path, hash_of, read_json, write_json, write_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_text(tmp_path / "folder" / "notes.txt", "old")
    return tmp_path / "folder" / "notes.txt"


def leftovers(file: Path) -> list[str]:
    return [f.name for f in file.parent.iterdir() if f != file]


def test_a_write_replaces_the_old_file_and_leaves_nothing_else(file: Path) -> None:
    write_text(file, "new")
    assert file.read_text() == "new"
    assert leftovers(file) == []


def test_a_full_disk_leaves_the_old_file_and_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, **_: object) -> None:
        with self.open("w") as half:
            half.write(text[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert leftovers(file) == []


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file(file: Path, reason: type[BaseException]) -> None:
    with pytest.raises(reason), atomic_path(file) as temporary:
        temporary.write_text("half")
        raise reason
    assert file.read_text() == "old"
    assert leftovers(file) == []


def test_a_read_only_folder_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(ConfigurationError, match=r"folder is not writable.*Read-only"):
        write_text(file, "new")


def test_the_temporary_name_keeps_the_ending(file: Path) -> None:
    with atomic_path(file.with_name("label.nii.gz")) as temporary:
        assert temporary.name.endswith("label.nii.gz")
    assert leftovers(file) == []


def test_threads_that_write_the_same_file_do_not_meet(file: Path) -> None:
    together = Barrier(8)

    def write(text: str) -> None:
        with atomic_path(file) as temporary:
            temporary.write_text(text)
            together.wait(timeout=PATIENCE)  # all have written, none has renamed

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, "abcdefgh"))
    assert file.read_text() in set("abcdefgh") and list(file.parent.iterdir()) == [file]


def test_numpy_and_paths_become_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": np.arange(2), "b": np.float32(0.5), "c": Path("x")})
    assert read_json(tmp_path / "a.json") == {"a": [0, 1], "b": 0.5, "c": "x"}


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"{", "not valid JSON.*line 1"), (b"\xff\xfe{", "not UTF-8"), (None, "is missing")]
)
def test_json_that_cannot_be_read_is_an_error_of_the_kind_asked_for(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    file = tmp_path / "dataset.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DatasetError, match=sentence + r".*mend it"):
        read_json(file, error=DatasetError, remedy="Please mend it.")


def test_a_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1}) != hash_of({"a": 1, "b": 3})
