"""What the steps of a training may take: minutes, so that methods can be compared at equal cost, and memory."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType

import torch

from samdpo.networks.device import saying_what_to_make_smaller
from samdpo.plans import StagePlan


class Budget:
    """Sums what the optimisation steps compute: ``with budget: step()``.

    On a CPU it is the process's CPU time over its threads, which is what a step would take on a machine that is not
    shared; on a GPU it is the time on the clock until the GPU is done. A CUDA device is only waited for when the sum is
    asked for, so that without a limit no step waits.

    Args:
        minutes: after which :attr:`spent` is true; 0 is no limit.
        device: that computes.
    """

    def __init__(self, minutes: float, device: torch.device) -> None:
        self.minutes, self._summed, self._device = minutes, 0.0, device
        self._running: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def seconds(self) -> float:
        """Spent so far."""
        if self._running:
            torch.cuda.synchronize(self._device)
            self._summed += sum(start.elapsed_time(end) for start, end in self._running) / 1000
            self._running.clear()
        return self._summed

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._running.clear()
        self._summed = value

    @property
    def spent(self) -> bool:
        """Whether no further step may begin."""
        return self.minutes > 0 and self.minutes * 60 <= self.seconds

    def __enter__(self) -> Budget:
        self._started = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._now()
        if isinstance(ended, float):
            self._summed += ended - self._started
        else:
            self._running.append((self._started, ended))

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        return time.perf_counter()


def in_a_step(stage: StagePlan) -> AbstractContextManager[None]:
    """Around the steps of a stage: where memory runs out in them, that becomes a sentence with the keys to change.

    Raises:
        OutOfMemoryError: by the block inside.
    """
    sizes = {key: getattr(stage, key) for key in ("batch_size", "labelled_per_step") if stage.reads(key)}
    smaller = [f"{key}={size // 2}" for key, size in sizes.items() if size > 1]
    if smaller:
        advice = "less in a step: --set " + " ".join(smaller)
    elif stage.objective == "supervised":
        advice = "less to train: --set network.train=decoder"
    else:
        advice = "a smaller backbone: samdpo_plan_and_preprocess -backbone"
    what = f" of {' and '.join(f'{key}={size}' for key, size in sizes.items())}" if sizes else ""
    return saying_what_to_make_smaller(f"in a step{what}", f"Train again without --c and with {advice}")


def beside_the_steps(stage: StagePlan, again: str) -> AbstractContextManager[None]:
    """Around what a stage computes without training: features that are kept, confidence, validation.

    Args:
        stage: whose key is named.
        again: the flag with which the command goes on from here.

    Raises:
        OutOfMemoryError: by the block inside.
    """
    size = stage.inference_batch_size
    if size > 1:
        advice = f"What is trained is kept: type the command again with {again} --set inference_batch_size={size // 2}"
    else:
        advice = "Take a smaller backbone: samdpo_plan_and_preprocess -backbone"
    return saying_what_to_make_smaller(f"where nothing is trained, with inference_batch_size={size}", advice)
