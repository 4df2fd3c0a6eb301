"""A disk that is truly full, at every stage: the promised sentence, nothing of before is touched, then it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from children import Ended
from trained_models import NUMBER, PHANTOMS
from worlds import World, content

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20
SHARES = (0.02, 0.5)  # of what a stage writes, that find room


@dataclass(frozen=True)
class Stage:
    """A command over what the step before has left, and how it goes on."""

    name: str
    start: str
    command: Callable[..., Ended]
    goes_on: tuple[str, ...] = ()


STAGES = [
    Stage("plan", "raw", World.plan),
    Stage("prompt", "plan", World.prompt),
    Stage("finetune", "prompt", World.finetune, ("--c",)),
    Stage("align", "finetune", World.align, ("--c",)),
    Stage("predict", "align", World.predict, ("--continue_prediction",)),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 32 MiB in memory; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True,
                          text=True) if hasattr(os, "geteuid") and os.geteuid() == 0 else None
    if made is None or made.returncode:
        pytest.skip(f"no small file system can be made: {made.stderr.strip() if made else 'only root may'}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all room but ``leave`` bytes."""
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        while (room := _room(disk) - leave) > 0:
            file.write(bytes(min(room, MEBIBYTE)))
            file.flush()
    return ballast


def _room(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def taken(folder: Path) -> int:
    return sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file())


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_full_disk_ends_a_stage_with_its_sentence_and_then_it_goes_on(
    stage: Stage, states: dict[str, World], disk: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    needs = taken(states[stage.name].root) - taken(states[stage.start].root)
    failures, tried = [], 0
    for share in SHARES:
        world = states[stage.start].copied(disk / f"world_{share}")
        ballast = fill(disk, int(share * needs) // 4096 * 4096)
        before = content(world.root)
        ended = stage.command(world)
        tried += 1
        after = content(world.root)
        changed = [path for path, digest in before.items() if after.get(path) != digest and not _log(path)]
        temporary = [path for path in after if "/.tmp" in path]
        if ended.code != 2 or "disk is full" not in ended.said:
            failures.append(f"{share}: code {ended.code}, {(ended.error or ended.said)[-400:]}")
        if changed or temporary:
            failures.append(f"{share}: changed {changed[:5]}, left {temporary[:5]}")
        ballast.unlink()
        if (ended := stage.command(world, *stage.goes_on)).code:
            failures.append(f"{share}: does not go on: {(ended.error or ended.said)[-400:]}")
    tell(f"{stage.name}: {tried} full disks, {len(failures)} failed")
    assert tried == len(SHARES)
    assert not failures, "\n".join(failures)


def test_a_full_disk_adds_no_judgement(
    states: dict[str, World], disk: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    from judged_items import SET, judge, make_items

    from samdpo.annotate.database.database import PreferenceDatabase
    from samdpo.annotate.database.exchange import export_jsonl

    items = make_items(200)
    source = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'source.sqlite'}")
    own = SET.__class__(**{**SET.__dict__, "dataset": PHANTOMS})
    source.add_candidate_set(own, items)
    for item in items:
        source.record(judge(item))
    export_jsonl(source, tmp_path / "all.jsonl", [own])
    source.close()
    world, url = states["raw"].copied(tmp_path / "world"), f"sqlite:///{disk / 'preferences.sqlite'}"
    here = PreferenceDatabase.open(url)
    here.add_candidate_set(own, items[:5])
    here.record(judge(items[0], "ben"))
    here.close()
    words = ("preferences", "import", NUMBER, tmp_path / "all.jsonl", "--database", url)

    def held() -> tuple:
        database = PreferenceDatabase.open(url)
        try:
            return database.items(own.id), database.judgements(undone=True)
        finally:
            database.close()

    before, tried = held(), 0
    for leave in (0, 16384):
        ballast = fill(disk, leave)
        ended = world.run(*words)
        ballast.unlink()
        tried += 1
        assert ended.code == 2 and "full" in ended.said, ended
        assert held() == before
    assert world.run(*words).code == 0
    assert len(held()[1]) == 201
    tell(f"judgements: {tried} full disks")
    assert tried == 2


def _log(path: str) -> bool:
    return path.startswith(("home/", "tmp/", "here/")) or "training_log_" in path or "/tensorboard/" in path
