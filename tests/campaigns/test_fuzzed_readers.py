"""Files from outside with random changes: content or a sentence, no other exception, no crash, no flood of memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fuzzing
import pytest
from children import Children

ROOM = 2 << 30  # bytes that a reader may take for a file of less than a kilobyte


@pytest.mark.parametrize("kind", fuzzing.JSON_READERS)
def test_json_with_a_few_changes_is_read_or_refused(
    kind: str, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    done = fuzzing.run(kind, str(tmp_path), examples=25)
    tell(f"{done['tried']} tried, {done['refused']} refused")
    assert done["tried"] >= 25


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzzing.READERS)
def test_a_reader_withstands_many_changes(
    kind: str, children: Children, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    ended = children.call("fuzzing:run", kind, str(tmp_path / "files"), 300, memory=ROOM, folder=tmp_path,
                          environment={"TMPDIR": str(tmp_path)})
    assert ended.code == 0, (ended.code, ended.error[-3000:], ended.said[-500:])
    tell(f"{ended.value['tried']} tried, {ended.value['refused']} refused")
    assert ended.value["tried"] >= 300
    assert 0 < ended.value["refused"] <= ended.value["tried"]
    outside = [path for path in ended.written if not path.startswith((str(tmp_path), "/dev/"))]
    assert not outside and not ended.started, (outside, ended.started)
