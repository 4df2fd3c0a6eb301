"""Several processes under torchrun train one model; tested with gloo on the CPU."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import several_processes
import torch
from several_processes import EQUAL, gradients
from trained_models import Phantoms, copied

from samdpo.errors import ConfigurationError
from samdpo.files import read_json
from samdpo.model.views import View
from samdpo.networks.device import resolve_device
from samdpo.networks.weights import load_weights
from samdpo.training import checkpoints
from samdpo.training.distributed import Processes, device_of, join

HERE = Path(__file__).parent
MARK = "samdpo_test_of_processes"  # a variable by which what is left of a run is found
ENDS_WITHIN = 240.0  # seconds, on however busy a machine; a hang is not this short


def torchrun(made: Phantoms, n: int, *words: str) -> subprocess.Popen:
    """``n`` processes of a file in this folder, whose messages go to ``stderr``."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **made.environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": path, MARK: str(made.root)}
    return subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
         "from torch.distributed.run import main; main()", "--standalone", "--nproc_per_node", str(n), *words],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1], env=environment,
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    try:
        said = process.communicate(timeout=ENDS_WITHIN)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # torchrun ends its processes
        said = process.communicate(timeout=60)[1]
        pytest.fail(f"still running after {ENDS_WITHIN} s:\n{said}")
    return process.returncode, said


def of_processes(made: Phantoms, folder: Path, n: int, task: str) -> list[dict]:
    """What each of ``n`` processes says of a task of ``several_processes.py``."""
    folder.mkdir()
    code, said = ended(torchrun(made, n, str(HERE / "several_processes.py"), task, str(folder)))
    assert code == 0, said
    assert "Traceback" not in said and "UserWarning" not in said and "destroy_process_group" not in said, said
    return [read_json(folder / f"{rank}.json") for rank in range(n)]


def sentences(said: str) -> list[str]:
    """What samdpo said, without torchrun's report and progress bars."""
    return [line for line in said.splitlines() if line.startswith("Error:")]


# ---- one model ------------------------------------------------------------------------------------------------------


def test_two_processes_of_batch_2_take_the_step_of_one_of_batch_4_and_a_step_that_leaves_them_apart_is_refused(
    finetuned, tmp_path
):
    two = of_processes(copied(finetuned, tmp_path / "two"), tmp_path / "said", 2, "equal")
    for stage, settings in EQUAL.items():
        doubled = [re.sub("(batch_size|labelled_per_step)=2", r"\1=4", one) for one in settings]
        one = gradients(stage, *doubled)
        seen = [key for rank in two for key in rank[stage]["seen"]]
        assert sorted(seen) == sorted(one["seen"]), f"{stage}: together they see the batch"
        assert not {map(tuple, two[0][stage]["seen"])} & {map(tuple, two[1][stage]["seen"])}
        assert two[0][stage]["loss"] == pytest.approx(one["loss"], rel=1e-4), stage
        for which in ("gradients", "signed"):
            assert two[0][stage][which] == two[1][stage][which], f"{stage}: both have the mean"
            assert two[0][stage][which].keys() == one[which].keys()
            for name, value in one[which].items():
                assert two[0][stage][which][name] == pytest.approx(value, rel=2e-3, abs=2e-4), (stage, name)
        trains_encoder = stage in ("finetune", "mean_teacher_encoder", "self_prompt")
        assert any(name.startswith("image_encoder") for name in one["gradients"]) == trains_encoder, stage
    for said in two:
        assert "StrayingTrainer.train_step steps with gradients of its own process" in said["straying"]


@pytest.mark.slow
def test_two_processes_train_one_model_with_one_log_and_the_same_mask_cut(planned, tmp_path):
    both = of_processes(planned, tmp_path / "said", 2, "whole")
    assert [said.pop("fits") for said in both] == [3, 0], "of place=judge, of what was meant, of a round"
    assert both[0] == both[1]
    assert both[0]["finetune"]["mask_cut"] in (0.2, 0.3, 0.4, 0.5, 0.6) and both[0]["finetune"]["best"] > 0
    of_pixels = planned.folder("align_preferences")
    for folder, stage, epochs in ((planned.finetuned, "finetune", 2), (planned.aligned, "align", 2),
                                  (of_pixels, "align_preferences", 2)):
        fold = folder / "fold_0"
        assert len(list(fold.glob("training_log_*.txt"))) == 1
        assert len(list((fold / "tensorboard").glob("events*"))) == 1
        assert len(both[0][stage]["history"]) == epochs
        assert load_weights(fold / checkpoints.FINAL)
        assert read_json(fold / "debug.json")["processes"] == 2
        assert (fold / "validation" / "summary.json").is_file()
    assert read_json(planned.finetuned / "fold_0" / "model.json")["mask_cut"] == both[0]["finetune"]["mask_cut"]
    for folder in (planned.aligned, of_pixels):
        assert (folder / "fold_0" / "prompts" / "prompter" / "prompter.json").is_file(), "made by the main one"
    assert (planned.results / "OwnStepTrainer__samdpoPlans__finetune" / "fold_0" / checkpoints.FINAL).is_file()


@pytest.mark.slow
def test_one_batch_on_three_processes_ends(finetuned, tmp_path):
    said = of_processes(finetuned, tmp_path / "said", 3, "one_batch")
    assert said[0] == said[1] == said[2]


# ---- faults ---------------------------------------------------------------------------------------------------------


def train_with(made: Phantoms, trainer: str, *words: str) -> subprocess.Popen:
    return torchrun(made, 2, str(HERE / "train_command.py"), "901", "finetune", "0", "-device", "cpu", "--epochs", "4",
                    "-tr", f"failing_trainer:{trainer}", *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [("RaisingTrainer", "The second process has had enough."), ("DyingTrainer", "--c to go on"),
     ("FailingPrompts", "The main process could not do it.")],
)
def test_when_one_process_fails_all_end_with_one_sentence(planned, trainer, sentence):
    code, said = ended(train_with(planned, trainer))
    assert code != 0
    assert [sentence in line for line in sentences(said)] == [True], said
    assert not left_behind(planned)
    if trainer == "DyingTrainer":
        continued = planned.trainer("finetune", "epochs=4", trainer=f"failing_trainer:{trainer}")
        continued.initialize()
        assert continued.load_checkpoint() and continued.current_epoch == 2
        continued.run_training()  # by one process now
        assert len(continued.run_log.history["loss"]) == 4


def test_ctrl_c_ends_all_with_one_sentence(planned):
    process = torchrun(planned, 2, str(HERE / "train_command.py"), "901", "finetune", "0", "-device", "cpu",
                       "--epochs", "500")
    latest = planned.finetuned / "fold_0" / checkpoints.LATEST
    until = time.monotonic() + ENDS_WITHIN
    while not list(latest.glob("epoch_*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code != 0
    assert len(sentences(said)) == 1 and "Ctrl-C" in sentences(said)[0] and "--c" in sentences(said)[0], said
    assert not left_behind(planned)


def left_behind(made: Phantoms) -> list[str]:
    """Processes of a run that are still there."""
    found = []
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={made.root}".encode() in status.read_bytes():
                found.append(status.parent.name)
        except OSError:
            continue
    return found


# ---- without torchrun -----------------------------------------------------------------------------------------------


def test_every_process_gets_a_part_and_nobody_none():
    def shares(count: int, world: int) -> list[list[int]]:
        return [Processes(torch.device("cpu"), rank, world).share(list(range(count))) for rank in range(world)]

    assert shares(5, 2) == [[0, 2, 4], [1, 3]]
    assert shares(1, 3) == [[0], [0], [0]] and shares(2, 3) == [[0], [1], [0]]
    assert shares(4, 1) == [[0, 1, 2, 3]] and shares(0, 2) == [[], []]


def test_a_card_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match="cuda:7 was asked for.*2 CUDA devices.*cuda:1"):
        resolve_device("cuda:7")
    assert join("cpu:0").device == torch.device("cpu:0"), "what has an index need not be a card of CUDA"
    assert resolve_device("cuda:1") == device_of("cuda:1", 0, 1) == torch.device("cuda:1")
    assert [device_of(name, 1, 2) for name in ("auto", "cuda")] == [torch.device("cuda:1")] * 2
    with pytest.raises(ConfigurationError, match="cuda:1 names one GPU.*2 processes.*CUDA_VISIBLE_DEVICES"):
        device_of("cuda:1", 0, 2)
    with pytest.raises(ConfigurationError, match="3 processes.*2 GPUs.*--nproc_per_node 2"):
        device_of("auto", 2, 3)


def test_steps_without_any_prompt_end_without_nan(finetuned):
    trainer = finetuned.trainer("align_self_training")
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start(0)
    away = View(shift=(1.5, 0.0), seed=0)
    recipe = trainer.recipes(0)[0]
    gone = type(recipe)([(key, away) for key, _ in recipe.unlabelled], [(key, away) for key, _ in recipe.labelled])
    metrics = trainer.fetched([trainer.train_step(trainer.make_batch(gone))])[0]
    trainer.run_log.close()
    assert metrics["loss"] == 0 and all(torch.isfinite(p).all() for p in trainer.network.parameters())


def test_a_step_of_ones_own_averages_in_one_process_too(planned, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(HERE)])
    assert several_processes.trained("finetune", "epochs=1", trainer="several_processes:OwnStepTrainer")["epochs"] == 1
