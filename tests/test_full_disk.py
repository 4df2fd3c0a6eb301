"""A disk that is truly full: a sentence at every writer, what was there is whole, nothing half is left."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from samdpo.errors import ConfigurationError
from samdpo.files import copy_file, write_json, write_text

SIZE, LEFT = 16 << 20, 40_000  # bytes of the disk, and of what is left for a writer that needs more


@pytest.fixture(scope="module")
def _disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("disk")
    mounted = shutil.which("mount") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0
    if not mounted:
        pytest.skip("a small disk is mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.fixture
def disk(_disk: Path) -> Iterator[Path]:
    """An empty disk of 16 MiB."""
    yield _disk
    for path in _disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(disk: Path, left: int = LEFT) -> None:
    """Leave little room."""
    with (disk / "filler").open("wb", buffering=0) as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - left)))


NOISE = np.random.default_rng(0).random(100_000)


def weights(place: Path, amount: int) -> None:
    from samdpo.networks.weights import save_weights

    save_weights({"w": torch.from_numpy(NOISE[:amount].astype(np.float32))}, place / "x.safetensors")


def checkpoint(place: Path, amount: int) -> None:
    from samdpo.training.checkpoints import save_latest

    save_latest(place, amount, {"w": torch.ones(2)}, {"optimizer": torch.from_numpy(NOISE[:amount].copy())})


def embedding(place: Path, amount: int) -> None:
    from samdpo.networks.embedding_store import EmbeddingStore

    EmbeddingStore(place, "key").put("x", NOISE[:amount])


def slices(place: Path, amount: int) -> None:
    from samdpo.preprocessing.store import SliceStore

    SliceStore(place).put("x", NOISE[:amount].reshape(1, 1, 10, -1), None, {"amount": amount})


def picture(place: Path, amount: int) -> None:
    from samdpo.drawing import new_figure, save_figure

    figure = new_figure(4, 4, dpi=100 if amount == MUCH else 10)
    figure.subplots().imshow(NOISE.reshape(250, 400))
    save_figure(figure, place / "x.png")


def label(place: Path, amount: int) -> None:
    from samdpo.dataset.images import write_label

    mask = np.random.default_rng(0).integers(0, 2, (1, 10, amount * 10)).astype(np.uint8)
    write_label(mask, place / "x.png", {})


def json_file(place: Path, amount: int) -> None:
    write_json(place / "x.json", NOISE[: amount // 5])


def model(place: Path, amount: int) -> None:
    from samdpo.networks.weights import save_weights
    from samdpo.training import manifest

    with manifest.trained(place / "fold_0", {}) as folder:
        save_weights({"w": torch.from_numpy(NOISE[:amount].copy())}, folder / "checkpoint_final.safetensors")
        write_text(folder / "plans.json", "{}")


def copy(place: Path, amount: int) -> None:
    copy_file(place.parent.parent / f"source_{amount}", place / "x")


LITTLE, MUCH = 100, 50_000


@pytest.mark.parametrize(
    "write", [weights, checkpoint, embedding, slices, picture, label, json_file, model, copy], ids=lambda w: w.__name__
)
def test_a_full_disk_is_a_sentence_and_what_was_there_is_whole(disk: Path, write: Callable[[Path, int], None]) -> None:
    for amount in (LITTLE, MUCH):
        (disk.parent / f"source_{amount}").write_bytes(bytes(4 * amount))
    place = disk / "place"
    write(place, LITTLE)
    before = content(place)
    fill(disk)
    with pytest.raises(ConfigurationError, match=r"disk is full .*untouched"):
        write(place, MUCH)
    assert content(place) == before
    (disk / "filler").unlink()
    write(place, MUCH)
    assert content(place) != before


def content(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def test_a_training_on_a_full_disk_says_so_and_goes_on_once_there_is_space(planned, disk, monkeypatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(disk))
    (disk / planned.results.name).mkdir()
    fill(disk, left=300_000)
    with pytest.raises(ConfigurationError, match=r"disk is full .*--c"):
        planned.train("finetune", "epochs=1")
    assert not list(disk.rglob("checkpoint_final*")) and not list(disk.rglob(".tmp*"))
    (disk / "filler").unlink()
    trainer = planned.train("finetune", "epochs=1", resume=True)
    assert (trainer.fold_folder / "checkpoint_final.safetensors").is_file()
