"""A budget of minutes for training, so that methods of unlike steps can be compared at equal cost."""

from __future__ import annotations

import time
from types import TracebackType

import torch


class Budget:
    """Sums what the optimisation steps compute: ``with budget: step()``.

    On a CPU it is the process's CPU time over its threads, which is what a step would take on a machine that is not
    shared; on a GPU it is the time on the clock.

    Args:
        minutes: after which :attr:`spent` is true; 0 is no limit.
        device: that computes.
    """

    def __init__(self, minutes: float, device: torch.device) -> None:
        self.minutes, self.seconds, self._device = minutes, 0.0, device

    @property
    def spent(self) -> bool:
        """Whether no further step may begin."""
        return 0 < self.minutes * 60 <= self.seconds

    def __enter__(self) -> Budget:
        self._started = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += self._now() - self._started

    def _now(self) -> float:
        if self._device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        return time.perf_counter()
