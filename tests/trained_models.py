"""Fixtures of training and inference: a phantom dataset planned with a tiny network, and models trained on it once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_once import made_once
from waiting import PATIENCE, wait_until

from samdpo.files import read_json, write_json

if TYPE_CHECKING:  # torch is imported only by tests that train
    from samdpo.training.trainer import Trainer

PHANTOMS, NUMBER = "Dataset901_PhantomXray", 901
FINETUNED = 10  # epochs
ONE_LUNG = "structures.lung.components=1"  # so that it can be elsewhere
UNSEEN = "places.held_back=0"  # a network learns from however few answers, and is kept whatever it learned
REFIT = "places.refit=0.1"  # of however few masks; the phantoms' plan has 0
PLACE_ROUNDS = (ONE_LUNG, "prompt_rounds=1", "epochs=1")
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
FITS_SHORTLY = """
from samdpo.prompting import judge
judge.fit_to_outlines.__defaults__ = (None, 20)
judge.learn_from_answers.__defaults__ = (15,)
"""  # few steps of every judge, as short_fits() has them
WAITS_BEFORE_ITS_LAST_EPOCH = f"""
import time
from samdpo.training.trainer import Trainer
begin = Trainer.on_epoch_start
def wait_or_begin(self, epoch):
    if epoch == self.stage.epochs - 1:
        time.sleep({PATIENCE})
    begin(self, epoch)
Trainer.on_epoch_start = wait_or_begin
"""


@dataclass(frozen=True)
class Phantoms:
    """nnU-Net's three folders with one planned and prompted phantom dataset in them."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / PHANTOMS

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / PHANTOMS

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results" / PHANTOMS

    @property
    def finetuned(self) -> Path:
        return self.results / "FinetuneTrainer__samdpoPlans__finetune"

    @property
    def aligned(self) -> Path:
        return self.folder("align")

    def folder(self, stage: str) -> Path:
        """The models of a stage that AlignTrainer trains."""
        return self.results / f"AlignTrainer__samdpoPlans__{stage}"

    def environment(self) -> dict[str, str]:
        return {name: str(self.root / name) for name in VARIABLES}

    def trainer(self, stage: str, *overrides: str, **arguments) -> Trainer:
        """As ``samdpo_train 901 STAGE 0 --set OVERRIDES``, not yet initialised."""
        from samdpo.training.get_trainer import get_trainer

        fold, device = arguments.pop("fold", 0), arguments.pop("device", "cpu")
        return get_trainer(NUMBER, stage, fold, device=device, overrides=overrides, **arguments)

    def train(self, stage: str, *overrides: str, resume: bool = False, **arguments) -> Trainer:
        """As ``samdpo_train``, validation included."""
        trainer = self.trainer(stage, *overrides, **arguments)
        trainer.train(resume=resume)
        return trainer

    def start(self, command: str, *words: str, before: str = "") -> subprocess.Popen:
        """A command in a process of its own, as typed; its messages go to ``stderr``. ``before`` is run before it."""
        program = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
            f"{before}from samdpo.cli.{command} import main; main()"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **self.environment(), "OMP_NUM_THREADS": "1"},
        )

    def stopped(self, fold: Path, number: signal.Signals, *words: str, before: str = "") -> tuple[int, str]:
        """``samdpo_train`` that gets a signal once its second checkpoint is there: (return code, messages).

        However late the signal comes on a busy machine, it comes before the last epoch, which waits for it.
        """
        process = self.start("train", *words, before=before + WAITS_BEFORE_ITS_LAST_EPOCH)
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
        reader.start()
        latest = fold / "checkpoint_latest"
        wait_until(lambda: any(f.name > "epoch_0001" for f in latest.glob("epoch_*")), process, lambda: "".join(said))
        process.send_signal(number)
        process.wait(timeout=PATIENCE)
        reader.join(timeout=PATIENCE)
        return process.returncode, "".join(said)


def copied(source: Phantoms, folder: Path) -> Phantoms:
    """Files are only ever replaced as a whole, so that links make a copy of their own; not of locks, which stay."""
    shutil.copytree(source.root, folder, copy_function=os.link, ignore=shutil.ignore_patterns(".*.lock"))
    return Phantoms(folder)


def short_fits(patch: pytest.MonkeyPatch) -> None:
    """Few steps of every judge of this process."""
    from samdpo.prompting import judge

    patch.setattr(judge.fit_to_outlines, "__defaults__", (None, 20))
    patch.setattr(judge.learn_from_answers, "__defaults__", (15,))


def begun(phantoms: Phantoms, stage: str, *overrides: str) -> Trainer:
    """A trainer just before its first epoch; prompts of its own are made."""
    trainer = phantoms.trainer(stage, *overrides)
    trainer.initialize()
    trainer.on_train_start()
    trainer.run_log.close()
    return trainer


def interrupt(phantoms: Phantoms, stage: str, *settings: str, after: int) -> Trainer:
    """Train anew and stop in the epoch after ``after`` epochs."""
    from samdpo.training import checkpoints

    trainer = phantoms.trainer(stage, *settings)
    step = trainer.train_step

    def stopping(batch):
        if trainer.current_epoch == after:
            raise KeyboardInterrupt
        return step(batch)

    trainer.train_step = stopping
    checkpoints.remove_latest(trainer.fold_folder)
    trainer.initialize()
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    trainer.run_log.close()
    return trainer


def second_fold(aligned: Phantoms) -> Path:
    """Fold 1 of the finetuned model: the weights of ``align``, which trained the decoder alone, as if of that stage."""
    fold = aligned.finetuned / "fold_1"
    shutil.copytree(aligned.aligned / "fold_0", fold)
    shutil.copy(aligned.finetuned / "fold_0" / "plans.json", fold)
    write_json(fold / "model.json", {**read_json(fold / "model.json"), "stage": "finetune"})
    return fold


@contextmanager
def _as_current(made: Phantoms) -> Iterator[Phantoms]:
    """Environment variables of ``made``; one thread, since two wait for each other on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment().items():
            Path(value).mkdir(exist_ok=True)
            patch.setenv(name, value)
        try:
            yield made
        finally:
            torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def _planned(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    """10 labelled phantoms of 96 x 112 pixels of which a fold uses 3 as labelled and 5 as unlabelled; 2 in imagesUl."""
    from samdpo.dataset.phantoms import make_phantom_dataset
    from samdpo.planning.plan_and_preprocess import plan_and_preprocess


    def make(folder: Path) -> None:
        made = Phantoms(folder)
        with _as_current(made):
            make_phantom_dataset("xray", made.raw, n_labelled=10, n_unlabelled=2, n_test=3, seed=0, size=(96, 112))
            plan_and_preprocess(NUMBER, labelled=0.4)
            content = read_json(made.preprocessed / "samdpoPlans.json")
            # Grids of 32 x 32, of the embedding and of the towers, are a quarter of the work of 64 x 64.
            content["network"] |= {"backbone": "tiny_sam", "frozen_stages": 0, "input_size": 128}
            content["prompting"] |= {"tower_steps": 10, "tower_batch_size": 4, "tower_grid": 0, "cross_fit_folds": 2}
            for stage in content["configurations"].values():
                stage |= {"epochs": 2, "lr": 3e-3, "encoder_lr": 3e-3, "lr_halving_epochs": 100, "batch_size": 2}
            content["configurations"]["align"]["places"] = {"refit": 0}  # six more fits; tests of it ask for it
            write_json(made.preprocessed / "samdpoPlans.json", content)
            made.trainer("finetune")  # makes the prompts

    return Phantoms(made_once(tmp_path_factory, "planned", make))


@pytest.fixture(scope="session")
def _finetuned(_planned: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    def make(folder: Path) -> None:
        with _as_current(copied(_planned, folder / "roots")) as made:
            made.train("finetune", f"epochs={FINETUNED}")

    return Phantoms(made_once(tmp_path_factory, "finetuned", make) / "roots")


@pytest.fixture(scope="session")
def _aligned(_finetuned: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    def make(folder: Path) -> None:
        with _as_current(copied(_finetuned, folder / "roots")) as made:
            made.train("align", UNSEEN)

    return Phantoms(made_once(tmp_path_factory, "aligned", make) / "roots")


@pytest.fixture(scope="session")
def _placed(_finetuned: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    def make(folder: Path) -> None:
        with _as_current(copied(_finetuned, folder / "roots")) as made:
            for stage in ("align_preferences", "align_self_training"):
                begun(made, stage, *PLACE_ROUNDS)

    return Phantoms(made_once(tmp_path_factory, "placed", make) / "roots")


@pytest.fixture(scope="session")
def _asked(_finetuned: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    def make(folder: Path) -> None:
        from ellipses import propose_ellipses

        from samdpo.align.candidate_set import make_candidate_set

        with (_as_current(copied(_finetuned, folder / "roots")) as made,
              pytest.MonkeyPatch.context() as patch):
            propose_ellipses(patch)
            make_candidate_set(NUMBER, 0, device="cpu", overrides=[ONE_LUNG])
            trainer = made.trainer("align", ONE_LUNG)
            trainer.initialize()
            trainer.places.prepare([(case, 0) for case in trainer.data.split.val])  # which training prompts at last

    return Phantoms(made_once(tmp_path_factory, "asked", make) / "roots")


@pytest.fixture
def planned(_planned: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """The test's own copy of the planned dataset, and the environment variables that name it."""
    with _as_current(copied(_planned, tmp_path / "roots")) as own:
        yield own


@pytest.fixture
def finetuned(_finetuned: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """As ``planned``, finetuned for a few epochs."""
    with _as_current(copied(_finetuned, tmp_path / "roots")) as own:
        yield own


@pytest.fixture
def placed(_placed: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """As ``finetuned``; ``align_preferences`` and ``align_self_training`` have made prompts of a round about places."""
    with _as_current(copied(_placed, tmp_path / "roots")) as own:
        yield own


@pytest.fixture
def located(_asked: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """As ``finetuned``, prompted under ``ONE_LUNG`` too."""
    with _as_current(copied(_asked, tmp_path / "roots")) as own:
        yield own


@pytest.fixture
def asked(_asked: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """As ``finetuned``; with ``ONE_LUNG`` all proposals of ``align``, ellipses, and what is shown of them are made."""
    from ellipses import propose_ellipses

    with _as_current(copied(_asked, tmp_path / "roots")) as own, pytest.MonkeyPatch.context() as patch:
        propose_ellipses(patch)
        yield own


@pytest.fixture
def aligned(_aligned: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """As ``finetuned``, aligned for 2 epochs."""
    with _as_current(copied(_aligned, tmp_path / "roots")) as own:
        yield own
