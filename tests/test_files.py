"""Atomic files: what stood there before survives whatever goes wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from waiting import PATIENCE

from samdpo import files
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import (
    DAMAGED_NPZ,
    atomic_path,
    hash_of,
    locked,
    parse_json,
    read_json,
    remove_abandoned,
    sha256_of_file,
    temporary_beside,
    write_json,
    write_text,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_text(tmp_path / "folder" / "notes.txt", "old")
    return tmp_path / "folder" / "notes.txt"


def leftovers(file: Path) -> list[str]:
    return [f.name for f in file.parent.iterdir() if f != file]


def test_json_that_is_nested_deeper_than_any_file_of_ours_is_a_sentence():
    assert parse_json("[" * 50 + "]" * 50, "it")
    for deep in ("[" * 101 + "]" * 101, '{"a":' * 500 + "1" + "}" * 500, "[" * 100_000):
        with pytest.raises(DatasetError, match="it is nested too deeply.* Please mend it."):
            parse_json(deep, "it", error=DatasetError, remedy="Please mend it.")


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


def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder_are_named(file: Path) -> None:
    (file.parent / "mask.png").mkdir()
    with pytest.raises(ConfigurationError, match=r"mask\.png cannot be written: a folder stands where a file is"):
        write_text(file.parent / "mask.png", "new")
    with pytest.raises(ConfigurationError, match="stands where a folder is to be"):
        write_text(file / "mask.png", "new")
    assert leftovers(file) == ["mask.png"]


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


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"1" * 5000, b"", b"{"])
def test_no_content_makes_anything_but_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DatasetError, match="x.json is n.* Do this."):
        read_json(tmp_path / "x.json", error=DatasetError, remedy="Do this.")


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_a_folder_is_called_a_folder_and_permissions_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="is a folder; expected a JSON file"):
        read_json(tmp_path)

    def forbidden(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(DatasetError, match=r"may not be read by you .* chmod u\+r"):
        read_json(tmp_path / "x.json", error=DatasetError)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path; from samdpo.files import temporary_beside\n"
         "f = temporary_beside(Path(sys.argv[1])); f.write_text('half')\n"
         "d = temporary_beside(Path(sys.argv[2])); d.mkdir(); (d / 'x').write_text('half')",
         str(tmp_path / "a.json"), str(tmp_path / "inner" / "weights")],
        check=False,
    )
    assert ended.returncode != 0  # inner does not exist
    (tmp_path / "inner").mkdir()
    subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path; from samdpo.files import temporary_beside\n"
         "d = temporary_beside(Path(sys.argv[1])); d.mkdir(); (d / 'x').write_text('half')",
         str(tmp_path / "inner" / "weights")],
        check=True,
    )
    mine = temporary_beside(tmp_path / "b.json")
    mine.write_text("being written")
    (tmp_path / ".tmp_of_the_user").write_text("not ours")
    assert remove_abandoned(tmp_path) == 1
    assert {f.name for f in tmp_path.iterdir()} == {mine.name, ".tmp_of_the_user", "inner"}
    assert remove_abandoned(tmp_path, recursive=True) == 1
    assert not list((tmp_path / "inner").iterdir())
    assert remove_abandoned(tmp_path / "missing") == 0


def test_of_another_machine_only_what_is_old_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".tmp-00000000-1-0123456789ab_x", tmp_path / ".tmp-00000000-1-0123456789ac_x"
    old.write_text("")
    new.write_text("")
    os.utime(old, (0, 0))
    assert remove_abandoned(tmp_path) == 1
    assert not old.exists() and new.exists()


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_a_lock_that_another_holds_is_a_sentence_where_one_is_given(tmp_path: Path) -> None:
    holding = subprocess.Popen(
        [sys.executable, "-c", "import sys\nfrom samdpo.files import locked\n"
         "with locked(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()", str(tmp_path / "x.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    assert holding.stdout.readline() == "held\n"
    with pytest.raises(ConfigurationError, match="It is trained already"), \
            locked(tmp_path / "x.lock", busy="It is trained already."):
        pass
    holding.communicate("")
    with locked(tmp_path / "x.lock", busy="It is trained already."):
        pass


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_json_nested_too_deeply_is_a_sentence_at_any_depth(depth: int, opened: str, closed: str) -> None:
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        parse_json(opened * depth + "1" + closed * depth, "plans.json")


def test_json_that_people_nest_is_read() -> None:
    assert parse_json("[" * 100 + "]" * 100, "plans.json")


def test_a_disk_that_is_only_read_is_called_that_though_nothing_can_be_removed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:  # Linux asks whether it may before what is there
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(ConfigurationError, match="is not writable, so x.json cannot be written there"):
        write_json(tmp_path / "x.json", {})


def test_a_lock_in_a_folder_that_is_only_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(ConfigurationError, match="is not writable"), locked(tmp_path / ".lock"):
        pass


def test_what_another_container_writes_stays_though_its_host_has_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_container(number: int) -> None:
        files._this_machine.cache_clear()
        monkeypatch.setattr("os.readlink", lambda *_: f"pid:[{number}]")

    in_container(1)
    theirs = tmp_path / f".tmp-{files._this_machine()}-2147483646-0123456789ab_x.json"
    theirs.write_text("half")
    in_container(2)
    assert remove_abandoned(tmp_path) == 0
    assert theirs.exists()
    in_container(1)
    assert remove_abandoned(tmp_path) == 1
    monkeypatch.undo()
    files._this_machine.cache_clear()


def test_whatever_byte_of_an_npz_is_changed_numpy_raises_what_is_expected(tmp_path):
    file = tmp_path / "case.npz"
    np.savez_compressed(file, a=np.arange(60), name=np.array("lung"))
    whole, damaged = file.read_bytes(), 0
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with np.load(file, allow_pickle=False) as arrays:
                dict(arrays)
        except DAMAGED_NPZ:
            damaged += 1
    assert damaged > len(whole) // 12
