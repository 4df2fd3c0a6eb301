"""What a run leaves to read: text log, history, progress.png, debug.json and TensorBoard events."""

from __future__ import annotations

import logging
import platform
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samdpo.files import write_json

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
History = dict[str, list[float]]


class RunLog:
    """Logs of one fold: text, history, TensorBoard. Every epoch adds one number to each of its metrics.

    Args:
        folder: the fold's folder.
        history: metrics so far when a run is continued.
        writes: False in all processes but the main one, which only remember.
    """

    def __init__(self, folder: Path, history: History | None = None, writes: bool = True) -> None:
        self.folder, self._handler, self._events = folder, None, None
        self.history: History = history or {}
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now().strftime("%Y_%m_%d_%H_%M_%S")  # nnU-Net's name: training_log_Y_M_D_h_m_s.txt
        self._handler = _LogFile(folder / f"training_log_{stamp}.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s: %(message)s"))
        logging.getLogger("samdpo").addHandler(self._handler)

    def add_epoch(self, metrics: dict[str, float]) -> None:
        """Append one value to each metric, and send it to TensorBoard."""
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(float(value))
        if self._handler is None:
            return
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder / "tensorboard"))
        try:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, max(map(len, self.history.values())) - 1)
            self._events.flush()
        except OSError as error:  # curves are no reason to lose a training
            log.warning("TensorBoard's curves in %s are not written any more: %s", self.folder, error)

    def draw(self) -> None:
        """Write ``progress.png``."""
        from samdpo.training.progress import progress_figure

        progress_figure(self.history, self.folder / "progress.png")

    def close(self) -> None:
        """Detach the text log and close TensorBoard's."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._handler is None:
            return
        logging.getLogger("samdpo").removeHandler(self._handler)
        self._handler.close()


class _LogFile(logging.FileHandler):
    """The text log. Where it cannot be written any more, as on a full disk, messages are still shown."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing of it: logging would print a traceback a message."""


class Stopwatch:
    """Seconds per image of each named step, summed over a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.images: dict[str, int] = {}

    def add(self, step: str, seconds: float, images: int) -> None:
        """Add ``seconds`` spent on ``images`` images in ``step``."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        self.images[step] = self.images.get(step, 0) + images

    def summary(self) -> str:
        """One line a person reads: ``train 1.20 s/image (132 images, 158 s); …``."""
        return "; ".join(
            f"{step} {seconds / max(self.images[step], 1):.3g} s/image ({self.images[step]} images, {seconds:.0f} s)"
            for step, seconds in self.seconds.items()
        )


def write_debug(path: Path, content: dict[str, Any]) -> None:
    """``debug.json``: the settings of the run and the versions it ran with."""
    import numpy
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    environment = {"versions": versions, "platform": platform.platform(), "threads": torch.get_num_threads()}
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    write_json(path, {**content, **environment, "command": sys.argv, "started": started})


def peak_memory_gib(device: torch.device | None = None) -> float:
    """Most memory of this process so far, GiB: on a CUDA device what its tensors took, else resident memory."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1024**3
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        used = psutil.Process().memory_info()
        return getattr(used, "peak_wset", used.rss) / 1024**3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**3 if sys.platform == "darwin" else 1024**2)  # bytes on macOS, KiB on Linux
