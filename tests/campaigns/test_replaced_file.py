"""One raw file is replaced and every stage run again: every file is that of a clean run, so no cache is behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_killed_anywhere import MAY_DIFFER, compared, without_times
from worlds import World

from samdpo.files import hash_of, read_json

pytestmark = pytest.mark.slow


def mirrored(file: str) -> Callable[[World], None]:
    def replace(world: World) -> None:
        path = world.raw / file
        Image.fromarray(np.array(Image.open(path))[:, ::-1]).save(path)

    return replace


def edited(file: str, change: Callable[[dict], object]) -> Callable[[World], None]:
    def replace(world: World) -> None:
        path = world.raw / file
        content = json.loads(path.read_text()) if path.exists() else {}
        change(content)
        path.write_text(json.dumps(content))

    return replace


REPLACED = {
    "image without label": mirrored("imagesUl/xray_ul_001_0000.png"),
    "label": mirrored("labelsTr/xray_tr_001.png"),
    "groups": edited("case_groups.json", lambda groups: groups.update(xray_tr_001="anna", xray_tr_002="anna")),
}


@pytest.mark.parametrize("replaced", REPLACED)
def test_every_stage_follows_a_replaced_raw_file(
    replaced: str, states: dict[str, World], tmp_path: Path, tell: Callable[[str], None]
) -> None:
    found = {}
    for name in ("raw", "predict"):  # from the beginning, and over everything that an earlier run has left
        place = tmp_path / "world"
        world = states[name].copied(place)
        REPLACED[replaced](world)
        for step in (World.plan, World.prompt, World.finetune, World.align, World.predict):
            ended = step(world)
            assert ended.code == 0, (step.__name__, ended)
        found[name] = compared(place) | without_paths(place, states["predict"].root.with_name("world"))
        place.rename(tmp_path / name)
    clean, again = found["raw"], found["predict"]
    wrong = sorted(path for path in clean if again.get(path) != clean[path])
    tell(f"{replaced} replaced: {len(clean)} files compared, {len(wrong)} differ")
    assert len(clean) > 50
    assert not wrong, "\n".join(wrong)


def without_paths(place: Path, made_at: Path) -> dict[str, str]:
    """Hashes of JSON files but for the paths in them, and for their own hashes over paths."""
    found = {}
    for file in (f for f in place.rglob("*.json") if f.name != "manifest.json"):
        content = read_json(file)
        if isinstance(content, dict):
            content = {k: value for k, value in without_times(content).items() if k not in ("source", "checksum")}
        found[str(file.relative_to(place))] = hash_of(json.dumps(content).replace(str(made_at), str(place)))
    return {path: digest for path, digest in found.items() if not MAY_DIFFER.search(path)}
