"""Fixtures of the campaigns: a process that forks commands, and a small trained world."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

# What the tests of the page and of the database share is used here too.
sys.path += [str(Path(__file__).parent.parent / "annotate" / part) for part in ("page", "database")]

from children import Children
from made_once import made_once
from worlds import World


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says at the end of the run what a campaign has tried; see ``pytest_terminal_summary`` of tests/conftest.py."""
    return partial(record_property, "tried")


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    started = Children(tmp_path_factory.mktemp("children"))
    yield started
    started.close()


STEPS = {"plan": World.plan, "prompt": World.prompt, "finetune": World.finetune, "align": World.align,
         "predict": World.predict}


@pytest.fixture(scope="session")
def states(children: Children, tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """The world after each step; only to be copied.

    6 labelled phantoms of 64 x 80 pixels, of which a fold trains on 4, one in imagesUl, 2 to predict.
    """
    from samdpo.dataset.phantoms import make_phantom_dataset

    def make(folder: Path) -> None:
        world = World(folder / "world", children)
        make_phantom_dataset("xray", world.raw, n_labelled=6, n_unlabelled=1, n_test=2, seed=0, size=(64, 80))
        world.copied(folder / "raw")
        for name, step in STEPS.items():
            ended = step(world)
            assert ended.code == 0 and not ended.error, ended
            world.copied(folder / name)

    folder = made_once(tmp_path_factory, "campaign", make)
    return {name: World(folder / name, children) for name in ("raw", *STEPS)}


@pytest.fixture
def trained(states: dict[str, World], tmp_path: Path) -> World:
    """A copy with everything done."""
    return states["predict"].copied(tmp_path / "world")
