"""Samples by worker processes: the same batches in the same order, and faults that end in a sentence."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from trained_models import UNSEEN, copied

from samdpo.errors import ConfigurationError, TrainingError
from samdpo.training import loading
from samdpo.training.checkpoints import FINAL
from samdpo.training.loading import Loader, number_of_workers, pack, unpack

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@dataclass(frozen=True)
class Counting:
    """Batches that say which process made them."""

    size: int = 8

    def __call__(self, recipe: int) -> dict:
        return {"number": recipe, "process": os.getpid(), "values": torch.full((self.size,), float(recipe))}


def slow_then_fast(recipe: int) -> int:
    time.sleep(0.1 if recipe % 2 == 0 else 0.0)
    return recipe


def refused(recipe: int) -> int:
    if recipe == 2:
        raise TrainingError("case_7.b2nd is damaged. Type: samdpo_preprocess -d 7")
    return recipe


def broken(recipe: int) -> int:
    return recipe // (2 - recipe)


def bus_error(recipe: int) -> int:
    if recipe == 2:
        os.kill(os.getpid(), signal.SIGBUS)
    return recipe


def killed(recipe: int) -> int:
    if recipe == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return recipe


def test_batches_come_in_order_whichever_worker_is_faster():
    with Loader(2, CPU) as loader:
        assert list(loader.batches(range(7), slow_then_fast)) == list(range(7))


def test_workers_make_the_batches_and_stay_for_the_next_epoch():
    with Loader(2, CPU) as loader:
        made = [list(loader.batches(range(6), Counting())) for _ in range(2)]
    assert [[b["number"] for b in of] for of in made] == [[*range(6)]] * 2
    processes = {b["process"] for of in made for b in of}
    assert len(processes) == 2 and os.getpid() not in processes
    assert all((b["values"] == b["number"]).all() for of in made for b in of)


def test_an_epoch_that_is_cut_short_does_not_show_in_the_next():
    with Loader(2, CPU) as loader:
        first = loader.batches(range(100), Counting())
        assert next(first)["number"] == 0
        first.close()
        assert [b["number"] for b in loader.batches(range(100, 104), Counting())] == [100, 101, 102, 103]


def test_another_maker_gets_workers_of_its_own_or_this_process():
    with Loader(1, CPU) as loader:
        before = {b["process"] for b in loader.batches(range(2), Counting())}
        here = {b["process"] for b in loader.batches(range(2), Counting(9), start=False)}
        assert here == {os.getpid()} and loader.serves(Counting())
        after = {b["process"] for b in loader.batches(range(2), Counting(9))}
    assert len(before | here | after) == 3


def test_random_numbers_of_the_training_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with Loader(1, CPU) as loader:
        list(loader.batches(range(3), Counting()))
        list(loader.batches(range(3), Counting()))
    assert torch.equal(torch.rand(4), expected)


def test_no_process_is_left_after_the_loader():
    with Loader(2, CPU) as loader:
        processes = {b["process"] for b in loader.batches(range(6), Counting())}
    assert not [p for p in processes if is_running(p)]


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_what_a_user_can_mend_arrives_as_the_worker_said_it():
    with Loader(2, CPU) as loader, pytest.raises(TrainingError) as raised:
        list(loader.batches(range(6), refused))
    assert str(raised.value) == "case_7.b2nd is damaged. Type: samdpo_preprocess -d 7"


def test_an_error_of_the_program_keeps_its_kind_and_its_place():
    with Loader(1, CPU) as loader, pytest.raises(ZeroDivisionError, match="in broken"):
        list(loader.batches(range(6), broken))


def test_a_worker_that_is_killed_is_a_sentence():
    with Loader(2, CPU) as loader, pytest.raises(TrainingError, match="was killed.*--c.*-num_workers 1"):
        list(loader.batches(range(6), killed))


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="this system has no SIGBUS")
def test_a_worker_that_wrote_into_a_full_shared_memory_is_told_from_a_killed_one():
    with Loader(2, CPU) as loader, pytest.raises(TrainingError, match="/dev/shm is full.*--c.*--shm-size"):
        list(loader.batches(range(6), bus_error))


def test_a_full_shared_memory_is_a_sentence_that_names_the_flag(monkeypatch):
    def full(size):
        raise RuntimeError("unable to write to file </torch_12_34_0>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    failure = loading._Batches(Counting())[0]
    assert isinstance(failure.error, TrainingError)
    for part in ("/dev/shm", "--c", "-num_workers 0", "--shm-size"):
        assert part in str(failure.error)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "more"), [("finetune", ("held_back=0.4",)), ("align", (UNSEEN,)), ("fixmatch", ())])
def test_training_ends_with_the_same_bytes_with_any_number_of_workers(finetuned, tmp_path, monkeypatch, stage, more):
    found, started = [], []
    start = Loader._start
    monkeypatch.setattr(Loader, "_start", lambda self, maker: (started.append(self.workers), start(self, maker)))
    each = (0, 1, 2) if stage == "finetune" else (0, 2)
    for workers in each:
        own = copied(finetuned, tmp_path / str(workers))
        for name, value in own.environment().items():
            monkeypatch.setenv(name, value)
        trainer = own.trainer(stage, "epochs=2", *more, workers=workers)
        (trainer.fold_folder / FINAL).unlink(missing_ok=True)
        trainer.initialize()
        with trainer.loader:
            trainer.run_training()
        found.append((trainer.fold_folder / FINAL).read_bytes())
    assert started == [*each[1:]], "one set of workers serves all epochs, and validation too"
    assert len({*found}) == 1


def test_a_killed_training_with_workers_continues_bit_for_bit_and_leaves_no_process(planned, tmp_path, monkeypatch):
    fold = planned.finetuned / "fold_0"
    words = ("901", "finetune", "0", "-device", "cpu", "-num_workers", "2", "--epochs", "6")
    other = copied(planned, tmp_path / "other")
    code, said = planned.stopped(fold, signal.SIGKILL, *words)
    assert code == -signal.SIGKILL, said
    assert gone(str(planned.root)), "workers outlive the training by a few seconds at most"
    planned.train("finetune", "epochs=6", resume=True, workers=1)
    for name, value in other.environment().items():
        monkeypatch.setenv(name, value)
    other.train("finetune", "epochs=6", workers=0)
    assert (fold / FINAL).read_bytes() == (other.finetuned / "fold_0" / FINAL).read_bytes()


def test_ctrl_c_with_workers_is_one_sentence_and_leaves_no_process(planned):
    fold = planned.finetuned / "fold_0"
    words = ("901", "finetune", "0", "-device", "cpu", "-num_workers", "2", "--epochs", "60")
    code, said = planned.stopped(fold, signal.SIGINT, *words)
    assert code == 130 and "Traceback" not in said, said
    assert "--c" in said.splitlines()[-1]
    assert gone(str(planned.root))


def gone(root: str, seconds: float = 30.0) -> bool:
    """Whether no process has a dataset's folder in its environment any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not [f for f in Path("/proc").glob("[0-9]*/environ") if holds(f, root)]:
            return True
        time.sleep(0.2)
    return False


def holds(file: Path, root: str) -> bool:
    try:
        return int(file.parent.name) != os.getpid() and root.encode() in file.read_bytes()
    except OSError:
        return False


# ---- how many -------------------------------------------------------------------------------------------------------


def test_the_command_then_the_variable_then_the_machine_say_how_many(monkeypatch):
    monkeypatch.setattr(loading, "usable_cores", lambda: 32)
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    assert number_of_workers(None, CPU) == 0 and number_of_workers(None, CUDA) == 8
    assert number_of_workers(None, CUDA, processes=8) == 4
    monkeypatch.setenv("nnUNet_n_proc_DA", "3")
    assert number_of_workers(None, CPU) == number_of_workers(None, CUDA) == 3
    assert number_of_workers(5, CPU) == 5


@pytest.mark.parametrize(("asked", "variable"), [(-1, ""), (None, "many"), (None, "-2")])
def test_what_is_no_number_of_workers_is_refused(monkeypatch, asked, variable):
    monkeypatch.setenv("nnUNet_n_proc_DA", variable)
    with pytest.raises(ConfigurationError, match="expected a number of workers"):
        number_of_workers(asked, CPU)


# ---- packing --------------------------------------------------------------------------------------------------------


def test_a_packed_object_is_the_same_and_shared_tensors_are_packed_once():
    whole = torch.arange(4096, dtype=torch.float32).view(4, 1024)
    made = {
        "whole": whole, "row": whole[1], "turned": whole.T, "bools": whole > 7, "none": torch.zeros(0, 5),
        "half": np.arange(2048, dtype=np.float16)[::-1], "small": np.arange(3), "text": "a", "number": torch.tensor(3),
    }
    packed = pack(made)
    assert packed.buffer.is_shared() and len(packed.buffer) < 2 * whole.nbytes + 4096 + 4096 + 1024
    found = unpack(packed)
    for name, value in made.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value) and found[name].dtype == value.dtype, name
        else:
            np.testing.assert_array_equal(found[name], value)
    assert found["row"].data_ptr() == found["whole"][1].data_ptr()


@pytest.mark.cuda
def test_batches_for_a_gpu_are_pinned():
    with Loader(1, CUDA) as loader:
        assert all(b["values"].is_pinned() for b in loader.batches(range(3), Counting()))
