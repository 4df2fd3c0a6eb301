"""Fixtures of all tests: nnU-Net's three folders, a tiny phantom dataset, the real data where it is there."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # every core has a worker: commands that tests start get one thread each too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.files import atomic_path, hash_of
from samdpo.networks import precision
from samdpo.prompting import proposals
from samdpo.training import progress

pytest_plugins = ["trained_models"]

TINY = "Dataset901_TinyXray"
THREADS = torch.get_num_threads()
MOST_WORKERS = 8  # more wait for the longest file of tests


@dataclass(frozen=True)
class Roots:
    raw: Path
    preprocessed: Path
    results: Path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of ``-n auto``: one a core that this process may use, so long as there are 4 GiB of memory for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 8
    return max(1, min(cores, int(memory / 4), MOST_WORKERS))


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist begins with the files of most tests, which are not those that take longest; see below."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that type what the pages say come first, then those that train, so that at the end no worker has a long one
    while the others wait."""
    rank = {item.path: place for place, fixture in enumerate(("_planned", "workspace"), 1)
            for item in items if fixture in item.fixturenames}
    items.sort(key=lambda item: -rank.get(item.path, 0))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--precision", choices=("fp32", "bf16"), help="what this processor is taken to compute with")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the campaigns have tried, each with its count."""
    for report in (r for of in ("passed", "failed") for r in terminalreporter.getreports(of)):
        for name, value in report.user_properties:
            if name == "tried":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.fixture(scope="session", autouse=True)
def _processor(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--precision`` the processor has bfloat16, or has none; not in commands that tests start."""
    wanted = request.config.getoption("--precision")
    with pytest.MonkeyPatch.context() as patch:
        if wanted:
            asked = precision.has_bf16
            patch.setattr(precision, "has_bf16", lambda d: wanted == "bf16" if d.type == "cpu" else asked(d))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Files of tests need not reach the disk: thousands of them would be waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _progress_drawn_once() -> Iterator[None]:
    """``progress.png`` of the same curves is drawn once a run: every epoch of every training writes one."""
    draw, drawn = progress.progress_figure, {}

    def drawn_or_known(history: progress.History, path: Path) -> None:
        curves = frozenset(history)
        if curves not in drawn:
            draw(history, path)
            drawn[curves] = path.read_bytes()
        with atomic_path(path) as temporary:
            temporary.write_bytes(drawn[curves])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "progress_figure", drawn_or_known)
        yield


@pytest.fixture(scope="session", autouse=True)
def _blobs_found_once() -> Iterator[None]:
    """Of one image: filters as wide as a lung take most of what a proposal takes, and phantoms are few."""
    find, found = proposals.blob_boxes, {}

    def found_or_known(image: np.ndarray, shape: proposals.PlaceShape, count: int) -> np.ndarray:
        key = hash_of(image.shape, str(image.dtype), hashlib.sha256(image.tobytes()).hexdigest(), shape, count)
        if key not in found:
            found[key] = find(image, shape, count)
        return found[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposals, "blob_boxes", found_or_known)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """One thread for small tests, before any fixture: a sum over threads depends on how many they are, so a training
    that a fixture made is only repeated bit for bit with as many; on a busy machine two wait for each other besides."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU, and PyTorch finds none")
    large = any(item.get_closest_marker(name) for name in ("slow", "shared"))
    torch.set_num_threads(THREADS if large else 1)


@pytest.fixture(autouse=True)
def _plain_logging() -> Iterator[None]:
    """A command that a test runs in this process sets up logging for good; put it back, so that caplog hears all."""
    logger = logging.getLogger("samdpo")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """Empty nnUNet_raw, nnUNet_preprocessed and nnUNet_results, set for the test only."""
    folders = Roots(*(tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")))
    for folder in (folders.raw, folders.preprocessed, folders.results):
        folder.mkdir()
        monkeypatch.setenv(folder.name, str(folder))
    return folders


@pytest.fixture(scope="session")
def _tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / TINY
    make_phantom_dataset("xray", folder, n_labelled=8, n_unlabelled=4, n_test=0, seed=0, size=(96, 80))
    return folder


@pytest.fixture
def tiny_dataset(roots: Roots, _tiny_original: Path) -> Path:
    """nnUNet_raw/Dataset901_TinyXray: 8 labelled and 4 unlabelled phantoms of 96 x 80 pixels, structure 'lung'."""
    return Path(shutil.copytree(_tiny_original, roots.raw / TINY))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets beside the repository; the test is skipped where there is none."""
    folder = Path(os.environ.get("samdpo_real_data", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}")
    return folder


@pytest.fixture
def predict(monkeypatch, caplog):
    """Run ``samdpo_predict``; returns its messages."""
    from samdpo.cli.predict import main

    def typed(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["samdpo_predict", *map(str, words), "-device", "cpu"])
        monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
        monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
        caplog.clear()
        with caplog.at_level("INFO", "samdpo"):
            main()
        return caplog.text

    return typed


@pytest.fixture
def fails(predict, caplog):
    """The sentence with which ``samdpo_predict`` ends."""

    def typed(*words: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            predict(*words)
        assert stopped.value.code == 2
        return caplog.text

    return typed
