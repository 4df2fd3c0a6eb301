"""``kill -9`` at renames and at random moments of every command, then the documented command again: every file is that
of a run that nobody interrupted, and nothing else stays. Over empty folders and over those of an earlier training."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from children import Ended
from worlds import World, content

from samdpo.files import hash_of, read_json

pytestmark = pytest.mark.slow

SEED = 13
# All that may differ from an uninterrupted run: what holds times, and pictures and logs of them.
MAY_DIFFER = re.compile(
    r"(^|/)(training_log_[^/]*\.txt|tensorboard/.*|progress\.png|cost\.json|debug\.json)$|^(home|tmp|here)/|\.lock$"
)
KILLED = -9


@dataclass(frozen=True)
class Stage:
    """A command and how it goes on, over what another one has left; how often it is killed at renames and at moments.

    ``before`` is run first, and ``start`` names the state of a world: nothing done, or all steps before this one.
    """

    name: str
    start: str
    command: Callable[..., Ended]
    goes_on: Callable[..., Ended]
    at_renames: int
    at_moments: int
    before: Callable[[World], Ended] | None = None


def continued(step: Callable[..., Ended], *words: str) -> Callable[..., Ended]:
    return lambda world: step(world, *words)


def earlier_training(world: World) -> Ended:
    return world.finetune("--seed", 77, "--lr", "1e-4")


def earlier_alignment(world: World) -> Ended:
    return world.align("--seed", 77, "--lr", "1e-4")


def at_other_images(world: World) -> Ended:
    """Masks of the finetuned model where those of the aligned one are to be."""
    ended = world.predict("-c", "finetune")
    shutil.rmtree(world.masks)
    return ended


FINETUNE, ALIGN, PREDICT = World.finetune, World.align, World.predict
STAGES = [
    Stage("plan", "raw", World.plan, World.plan, 6, 2),
    Stage("prompt", "plan", World.prompt, World.prompt, 2, 1),
    Stage("finetune", "prompt", FINETUNE, continued(FINETUNE, "--c"), 4, 1),
    Stage("finetune-again", "prompt", FINETUNE, continued(FINETUNE, "--c"), 5, 1, before=earlier_training),
    Stage("align", "finetune", ALIGN, continued(ALIGN, "--c"), 3, 1),
    Stage("align-again", "finetune", ALIGN, continued(ALIGN, "--c"), 3, 0, before=earlier_alignment),
    Stage("predict", "align", PREDICT, continued(PREDICT, "--continue_prediction"), 3, 1),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_killed_command_goes_on_to_what_an_uninterrupted_one_makes(
    stage: Stage, states: dict[str, World], tmp_path: Path, tell: Callable[[str], None]
) -> None:
    place = tmp_path / "world"  # always this one: some files hold paths
    world, start = states[stage.start].copied(place), tmp_path / "start"
    if stage.before is not None:
        assert (ended := stage.before(world)).code == 0, ended
    place.rename(start)

    def begun() -> World:
        shutil.rmtree(place, ignore_errors=True)
        return World(start, world.children).copied(place)

    started = time.monotonic()
    whole = stage.command(begun())
    seconds = time.monotonic() - started
    assert whole.code == 0, whole
    wanted, generator = compared(place), random.Random(f"{SEED} {stage.name}")
    kills: list[dict[str, Any]] = [
        {"kill_at": number, "kill_after_rename": generator.random() < 0.5}
        for number in generator.sample(range(1, whole.renames + 1), stage.at_renames)
    ]
    kills += [{"kill_after": generator.uniform(0.1, 0.8) * seconds} for _ in range(stage.at_moments)]
    failures, tried = [], 0
    for kill in kills:
        again = begun()
        ended = stage.command(again, **kill)
        killed = ended.code == KILLED
        assert killed or "kill_after" in kill, f"not killed: {kill}, {ended}"
        tried += killed
        ended = stage.goes_on(again)
        found = compared(place)
        wrong = [path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)]
        if ended.code or wrong:
            failures.append(f"{kill}: code {ended.code}, {ended.error[-300:]} {sorted(wrong)[:8]}")
    tell(f"killed {tried} times of {len(kills)}, {whole.renames} renames, {len(failures)} failed")
    assert tried >= stage.at_renames and tried + stage.at_moments >= len(kills)
    assert not failures, "\n".join(failures)


def compared(place: Path) -> dict[str, str]:
    """Of every file that may not differ, its hash; temporary ones are among them, so that none stays."""
    found = {path: digest for path, digest in content(place).items() if not MAY_DIFFER.search(path)}
    for path in found:
        if path.endswith("/manifest.json"):  # it lists the hashes of others, those that may differ among them
            manifest = read_json(place / path)
            found[path] = hash_of({**manifest, "files": {
                name: one for name, one in manifest["files"].items() if not MAY_DIFFER.search(name)}})
        elif path.endswith("/candidates.json"):
            found[path] = hash_of(without_times(read_json(place / path)))
    return found


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON without the moment at which a set of candidates was made."""
    if "candidate_set" not in content:
        return content
    made = {key: one for key, one in content["candidate_set"].items() if key != "created"}
    return {**content, "candidate_set": made}
