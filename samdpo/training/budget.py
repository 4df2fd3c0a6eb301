"""A budget of minutes for training, so that methods of unlike steps can be compared at equal cost."""

from __future__ import annotations

import time
from types import TracebackType

import torch


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
