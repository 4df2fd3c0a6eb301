"""What the steps of a training may take: minutes, so that methods can be compared at equal cost, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

from samdpo.errors import TrainingError
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


@contextmanager
def saying_what_to_make_smaller(stage: StagePlan) -> Iterator[None]:
    """Around the steps of a stage: memory that runs out in them becomes a sentence.

    Raises:
        TrainingError: names the keys of the stage to change.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        of_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
        if not of_gpu and not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        sizes = {key: getattr(stage, key) for key in ("batch_size", "labelled_per_step")}
        sizes = {key: size for key, size in sizes.items() if stage.reads(key)}
        smaller = [f"{key}={size // 2}" for key, size in sizes.items() if size > 1]
        if smaller:
            advice = "less in a step: --set " + " ".join(smaller)
        elif stage.objective == "supervised":
            advice = "less to train: --set network.train=decoder"
        else:
            advice = "a smaller backbone: samdpo_plan_and_preprocess -backbone"
        raise TrainingError(
            f"The memory of the {'GPU' if of_gpu else 'machine'} ran out in a step"
            f"{' of ' if sizes else ''}{' and '.join(f'{key}={size}' for key, size in sizes.items())}. Train again "
            f"without --c and with {advice}"
        ) from error
