"""What every command shares: logging, sentences instead of tracebacks, common arguments."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from samdpo.errors import ConfigurationError, SamdpoError
from samdpo.files import disk_is_full
from samdpo.paths import folder_of

if TYPE_CHECKING:
    from samdpo.parallel import Workers

log = logging.getLogger("samdpo")

_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"


class Stopped(KeyboardInterrupt):
    """A signal that asks a command to end; whatever ends by Ctrl-C ends by it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def run_command(body: Callable[[], None], go_on: str = "type the same command again to go on") -> None:
    """Run a command's body: a user's error ends with its sentence and code 2.

    Ctrl-C ends it with code 130, SIGTERM (of a scheduler) with 143 and SIGHUP (of a closed terminal) with 129, as
    shells have it; what its processes have in hand is finished or given up as after Ctrl-C.

    Args:
        body: the command.
        go_on: what to do after it was stopped, said in its sentence.
    """
    configure_logging()
    try:
        with _stopping_at_signals():
            body()
    except SamdpoError as error:
        if os.environ.get("samdpo_debug"):
            raise
        log.error("%s", error)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        log.error("Stopped by %s. What was finished is kept; %s.",
                  "Ctrl-C" if number == signal.SIGINT else number.name, go_on)
        sys.exit(128 + number)
    except Exception as error:
        place = getattr(error, "filename", None) or folder_of("nnUNet_results") or os.getcwd()
        if not disk_is_full(error, Path(place).parent if Path(place).is_file() else place):
            raise
        log.error("The disk is full (%s). What was there before is untouched; free some space, then %s.", place, go_on)
        sys.exit(2)


@contextmanager
def _stopping_at_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what runs as Ctrl-C does; a second one ends it at once.

    A signal that is ignored already, as SIGHUP is under ``nohup``, stays so, and other threads than the main one
    cannot be told.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    here = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != here:  # a fork, which has nothing to say and nothing to tidy up
            os._exit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    before = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def configure_logging(level: int = logging.INFO) -> None:
    """Messages of ``samdpo`` go to stderr, one plain line each; other libraries only warn."""
    if log.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False


class _Formatter(logging.Formatter):
    """Names of files come out of other people's archives: what would steer the terminal is shown as it is written."""

    def format(self, record: logging.LogRecord) -> str:
        text = visible(super().format(record))
        return text if record.levelno <= logging.INFO else f"{record.levelname.capitalize()}: {text}"


def visible(text: str) -> str:
    """``text`` with control characters, marks that turn the direction of writing, and bytes that are no character
    written as ``\\x1b``; line feeds and tabs stay.
    """
    return "".join(
        c if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cs") and c not in _TURNING)
        else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def parser(description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser that shows defaults and refuses abbreviated or unknown flags."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def whole_number(text: str) -> int:
    """Of an argument, or of the environment variable that is its default."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}") from None


def add_processes(arguments: argparse.ArgumentParser) -> None:
    """``-np``: processes for case-level work, nnU-Net's flag and default variable."""
    default = os.environ.get("nnUNet_def_n_proc", "").strip() or str(os.cpu_count() or 1)
    arguments.add_argument("-np", type=whole_number, default=default, action=_Given,
                           help="processes for case-level work")


def add_dask(arguments: argparse.ArgumentParser) -> None:
    """``--dask``: case-level work on a cluster."""
    arguments.add_argument("--dask", default=None, metavar="SCHEDULER",
                           help="do case-level work on a Dask cluster, for example tcp://host:8786, or a scheduler "
                           "file; its workers see the same folders")


class _Given(argparse.Action):
    """Stores a value, and that it was typed: a default, or an environment variable, is no wish of this command."""

    def __call__(self, _: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, *__: object) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_given", True)


@contextmanager
def case_workers(args: argparse.Namespace) -> Iterator[Workers]:
    """Who does a command's case-level work, by ``-np`` and ``--dask``: a number of processes, or a cluster.

    Raises:
        ConfigurationError: both were typed, of which only one can do the work; fewer than one process; as of
            :class:`samdpo.dask_cluster.DaskCluster`.
    """
    processes, dask = getattr(args, "np", 1), getattr(args, "dask", None)
    if dask is not None and getattr(args, "np_given", False):
        raise ConfigurationError("-np and --dask are both given, but either processes here or a cluster's workers do "
                                 "the work. Leave one of them out.")
    if processes < 1:
        raise ConfigurationError(f"-np is {processes}; expected 1 or more.")
    if dask is None:
        yield processes
        return
    from samdpo.dask_cluster import DaskCluster

    with DaskCluster(dask) as cluster:
        yield cluster
