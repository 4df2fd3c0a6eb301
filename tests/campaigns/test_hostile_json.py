"""Every value of every JSON file that a command reads is in turn replaced by what an enemy would write there.

Nothing outside the command's own folders changes, nothing is imported or started, and the command ends well or with a
sentence.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from children import Ended
from trained_models import NUMBER, PHANTOMS
from worlds import CPU, PLANNER, World, differences, seen

pytestmark = pytest.mark.slow

SEED = 0
# Of each file at most so many; `samdpo_campaign_trials=100000` tries them all.
TRIALS = int(os.environ.get("samdpo_campaign_trials", "20"))
DEEP = {"<deep>": 400, "<deeper>": 100_000}  # lists in lists, as they stand in a document before it is text
HUGE = 10**30
STARTED = "subprocess.Popen: ('uname'"  # torch asks for the processor


@dataclass(frozen=True)
class Reader:
    """A file below the world's root, the command that reads it, and where that command may write.

    ``deletes`` are the folders in which it may also delete.
    """

    file: str
    command: Callable[[World], Ended]
    writes: tuple[str, ...]
    deletes: tuple[str, ...] = ()
    start: Any = None  # content where the file is not there yet


def preprocess(world: World) -> Ended:
    return world.run("plan_and_preprocess:main_preprocess", "-d", NUMBER, "-np", 1)


def plan(world: World) -> Ended:
    return world.run("plan_and_preprocess:main_plan_experiment", "-d", NUMBER, "-pl", PLANNER)


def train(world: World) -> Ended:
    return world.finetune("--epochs", 1)


def predict(world: World, *words: str) -> Ended:
    return world.run("predict", "-i", world.raw / "imagesTs", "-o", world.masks, "-m", world.finetuned, *CPU,
                     "--disable_tta", *words)


def go_on(world: World) -> Ended:
    return predict(world, "--continue_prediction")


PREPROCESSED, RESULTS = f"nnUNet_preprocessed/{PHANTOMS}", f"nnUNet_results/{PHANTOMS}"
SLICES = f"{PREPROCESSED}/samdpoPlans_2d_256"
MODEL = f"{RESULTS}/FinetuneTrainer__samdpoPlans__finetune"
FOLD = f"{PREPROCESSED}/samdpoPlans_prompts/fold_0"
LISTED = {f"xray_tr_00{i}": {"images": [f"imagesTr/xray_tr_00{i}_0000.png"], "label": f"labelsTr/xray_tr_00{i}.png"}
          for i in range(1, 7)}
MADE = (SLICES, f"{PREPROCESSED}/gt_segmentations")
BY_PLAN = (PREPROCESSED,)
BY_TRAIN = (PREPROCESSED, MODEL)
READERS = [
    Reader(f"nnUNet_raw/{PHANTOMS}/dataset.json", World.plan, BY_PLAN, MADE),
    Reader(f"nnUNet_raw/{PHANTOMS}/case_groups.json", World.plan, BY_PLAN, MADE, start={"xray_tr_001": "anna"}),
    Reader(f"{PREPROCESSED}/dataset_fingerprint.json", plan, BY_PLAN),
    Reader(f"{PREPROCESSED}/near_duplicates.json", plan, BY_PLAN, start={
        "version": 1, "source": "x", "used": True, "threshold": 0.7,
        "links": [{"cases": ["xray_tr_001", "xray_tr_002"], "similarity": 0.9}]}),
    Reader(f"{PREPROCESSED}/samdpoPlans.json", preprocess, BY_PLAN, MADE),
    Reader(f"{PREPROCESSED}/samdpoPlans.json", train, BY_TRAIN, (MODEL, FOLD)),
    Reader(f"{PREPROCESSED}/splits_final.json", train, BY_TRAIN, (MODEL, FOLD)),
    Reader(f"{MODEL}/plans.json", predict, ("masks",), ("masks",)),
    Reader(f"{MODEL}/fold_0/model.json", predict, ("masks",), ("masks",)),
    Reader(f"{MODEL}/fold_0/manifest.json", predict, ("masks",), ("masks",)),
    Reader(f"{MODEL}/fold_0/prompter/prompter.json", predict, ("masks",), ("masks",)),
    Reader("masks/predict_from_raw_data_args.json", go_on, ("masks",), ("masks",)),
]


def hostile(canary: Path, neighbour: str, text: bool) -> list[Any]:
    """What is written in a value's place; of a text first what may lead somewhere."""
    paths = ["../../../canary/thesis", str(canary / "thesis"), str(canary), ".", "..", "", "canary_module:Canary",
             "canary_module", neighbour, "~/x", "a/b", "hf-hub:nobody/nothing", "local-dir:../../canary"]
    others = [None, 5, -1, [], {}, HUGE, float("nan"), *DEEP, ["../x"], True, "x\n\x1b[31m"]
    return paths + others if text else [*others, "../x"]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values of a JSON document; of siblings that have the same keys only the first is entered."""
    if path:
        yield path
    shapes: set[str] = set()
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        if (known := shape(inner)) in shapes and isinstance(value, list | dict) and (
            isinstance(inner, list | dict) or isinstance(value, list)
        ):
            continue
        shapes.add(known)
        yield from places(inner, (*path, key))


def shape(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{shape(v)}" for k, v in value.items()) + "}"
    return f"[{shape(value[0]) if value else ''}]" if isinstance(value, list) else type(value).__name__


def put(document: Any, path: tuple, value: Any) -> str:
    """The document's text with ``value`` at ``path``."""
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return text_of(changed)


def text_of(document: Any) -> str:
    text = json.dumps(document)
    for name, depth in DEEP.items():
        text = text.replace(json.dumps(name), "[" * depth + "]" * depth)
    return text


def renamed(document: Any, path: tuple, name: str) -> str:
    """The document's text with another name for the key at ``path``."""
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[name] = inner.pop(path[-1])
    return json.dumps(changed)


def trials(document: Any, canary: Path, neighbour: str) -> list[tuple[str, str]]:
    """(what is changed, text of the file), those that may lead somewhere first in a seeded order, then the others."""
    first, rest = [], []
    for path in places(document):
        value = document
        for key in path:
            value = value[key]
        text = isinstance(value, str) or value is None
        for bad in hostile(canary, neighbour, text):
            leads = text and isinstance(bad, str) and bad not in DEEP
            name = f"{'.'.join(map(str, path))} = {str(bad)[:40]!r}"
            (first if leads else rest).append((name, put(document, path, bad)))
        if isinstance(path[-1], str):
            for name in ("../../../canary/thesis", str(canary / "thesis"), "", ".", "a/b", neighbour):
                first.append((f"key {'.'.join(map(str, path))} -> {name!r}", renamed(document, path, name)))
    rest += [(f"whole file = {bad!r}", text_of(bad)) for bad in (None, 5, [], {}, *DEEP, [*DEEP], float("nan"), "")]
    generator = random.Random(SEED)
    generator.shuffle(first)
    generator.shuffle(rest)
    most = max(TRIALS // 2, TRIALS - len(rest))
    return first[:most] + rest[: TRIALS - len(first[:most])]


@dataclass
class Watched:
    """A world with canaries in it, put back after each trial."""

    world: World
    pristine: Path

    def __post_init__(self) -> None:
        root = self.world.root
        (root / "canary").mkdir()
        for name in ("thesis.json", "photo.png", "thesis.b2nd", "thesis.png", "thesis"):
            (root / "canary" / name).write_text("mine")
        imported = f"open({str(root / 'imported')!r}, 'w').close()\nclass Canary: pass\n"
        for folder in ("here", MODEL, f"{MODEL}/fold_0", f"nnUNet_raw/{PHANTOMS}", PREPROCESSED):
            (root / folder / "canary_module.py").write_text(imported)
        shutil.copytree(root, self.pristine, symlinks=True)

    def tried(self, reader: Reader, text: str) -> str:
        """What went wrong, or ""."""
        root, file = self.world.root, self.world.root / reader.file
        file.write_text(text)
        before = seen(root)
        ended = reader.command(self.world)
        changed = differences(before, seen(root))
        problems = [] if ended.code in (0, 2) and not ended.error else [
            "hangs" if ended.hung else (ended.error or ended.said).strip().splitlines()[-1][:200] or str(ended.code)
        ]
        allowed = (*reader.writes, "tmp", "home", "nnUNet_results")
        for path, how in changed.items():
            if not _below(path, allowed) or (how == "gone" and not _below(path, (*reader.deletes, "tmp"))):
                problems.append(f"{how} {path}")
        for path in ended.written:
            inside = os.path.relpath(path, root)
            if not _below(inside, allowed) and not path.startswith("/dev/"):
                problems.append(f"wrote {path}")
        problems += [what for what in ended.started if not what.startswith(STARTED)]
        if (root / "imported").exists():
            problems.append("the canary was imported")
        if changed:
            shutil.rmtree(root)
            shutil.copytree(self.pristine, root, symlinks=True)
        else:
            shutil.copy2(self.pristine / reader.file, file)
        return "; ".join(problems[:4])


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


@pytest.mark.parametrize("reader", READERS, ids=lambda r: f"{r.command.__name__}-{Path(r.file).name}")
def test_no_value_of_a_json_file_leads_outside_or_runs_code(
    reader: Reader, trained: World, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    file = trained.root / reader.file
    if reader.start is not None:
        file.write_text(json.dumps(reader.start))
    document = json.loads(file.read_text())
    if file.name == "dataset.json":
        document["dataset"] = LISTED
        file.write_text(json.dumps(document))
    watched = Watched(trained, tmp_path / "pristine")
    assert watched.tried(reader, json.dumps(document)) == "", "the file as it is"
    todo = trials(document, trained.root / "canary", "samdpoPlans_prompts")
    failures = {name: wrong for name, text in todo if (wrong := watched.tried(reader, text))}
    tell(f"{reader.file}: {len(todo)} tried, {len(failures)} failed")
    if path := os.environ.get("samdpo_campaign_report"):
        with open(path, "a") as report:
            report.writelines(f"{reader.file}: {name}: {wrong}\n" for name, wrong in failures.items())
    assert len(todo) == TRIALS or os.environ.get("samdpo_campaign_trials"), "fewer values than a campaign tries"
    assert not failures, "\n".join(f"{name}: {wrong}" for name, wrong in failures.items())
