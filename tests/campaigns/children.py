"""Commands of samdpo in forks of a process that has imported everything: a run starts at once and may be killed.

:class:`Children` is what tests hold; started as a program, this file is the process that forks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 300  # seconds after which a run counts as hung
FAILED = 70  # exit code of a run that ended with an exception, which is then in ``error``
WRITES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect",
          "socket.getaddrinfo")


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: exit code; minus the signal's number where one ended it.
        said: what it wrote to stdout and stderr.
        error: traceback of an exception that no user can mend, else "".
        value: what the function returned.
        renames: how often a file or folder was renamed.
        hung: it was killed since it did not end.
        written: paths that Python opened to write, made, renamed to or removed, where they were watched.
        started: programs and connections, where they were watched.
    """

    code: int
    said: str = ""
    error: str = ""
    value: Any = None
    renames: int = 0
    hung: bool = False
    written: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)


class Children:
    """Starts runs, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        variables = dict.fromkeys(("OMP_NUM_THREADS", "BLOSC_NTHREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
        here = Path(__file__).parent
        variables |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
        path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(here / "children.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **variables, "PYTHONPATH": path},
        )

    def close(self) -> None:
        """End the process that forks."""
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)

    def command(self, command: str, *words: object, **settings: Any) -> Ended:
        """A command as typed: ``command("train", 901, "finetune", 0)``; ``settings`` as of :meth:`call`."""
        module, _, function = command.partition(":")
        return self.call(f"samdpo.cli.{module}:{function or 'main'}", words=list(map(str, words)), **settings)

    def call(
        self, function: str, *arguments: Any, words: list[str] | None = None, environment: dict[str, str] | None = None,
        folder: Path | None = None, kill_at: int = 0, kill_after_rename: bool = False,
        kill_after: float | None = None, memory: int = 0, patience: float = PATIENCE,
    ) -> Ended:
        """``module:function`` in a fork.

        Args:
            function: to call.
            arguments: of the function; JSON.
            words: what is typed behind a command's name.
            environment: variables beside those of this process.
            folder: current folder of the run.
            kill_at: SIGKILL at the rename of this number, counted from 1.
            kill_after_rename: just after that rename instead of just before.
            kill_after: SIGKILL after so many seconds.
            memory: bytes of address space that the run may take beside what is taken already, 0 for any.
            patience: seconds after which the run is killed as hung.
        """
        report, said = self.folder / "report.json", self.folder / "said.txt"
        report.unlink(missing_ok=True)
        job = {
            "function": function, "arguments": arguments, "words": words, "environment": environment or {},
            "folder": str(folder or self.folder), "kill_at": kill_at, "kill_after_rename": kill_after_rename,
            "kill_after": kill_after, "memory": memory, "patience": patience, "report": str(report), "said": str(said),
        }
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        reported = json.loads(report.read_text()) if report.exists() else {}
        return Ended(**{**reported, **json.loads(answer)}, said=said.read_text(errors="replace"))


def _serve() -> None:
    import everything_imported  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(job)
        answers.write(json.dumps(_wait(child, job)) + "\n")
        answers.flush()


def _wait(child: int, job: dict[str, Any]) -> dict[str, Any]:
    started, hung = time.monotonic(), False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return {"code": os.waitstatus_to_exitcode(status), "hung": hung}
        passed = time.monotonic() - started
        hung = passed > job["patience"]
        if hung or (job["kill_after"] is not None and passed > job["kill_after"]):
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return {"code": os.waitstatus_to_exitcode(status), "hung": hung}
        time.sleep(0.002)


def _run(job: dict[str, Any]) -> None:
    """In the fork; ends the process."""
    import importlib
    import resource
    import tempfile
    import traceback

    from samdpo.errors import SamdpoError

    os.setpgid(0, 0)
    said = os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update(job["environment"])
    tempfile.tempdir = None  # it is that of the process that forks
    os.chdir(job["folder"])
    module, _, name = job["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    if job["memory"]:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + job["memory"],) * 2)
    sys.argv = [name, *(job["words"] or [])]
    seen = _Seen(job["kill_at"], job["kill_after_rename"])
    seen.watch()
    code, error, value = 0, "", None
    try:
        value = function(*job["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except SamdpoError as sentence:
        code = 2
        sys.stderr.write(f"{sentence}\n")
    except BaseException:  # whatever it is, the test wants to know
        code, error = FAILED, traceback.format_exc()
    seen.on = False
    report = {"error": error, "value": value, "renames": seen.renames,
              "written": sorted(seen.written), "started": seen.started}
    with open(job["report"], "w") as file:
        json.dump(report, file, default=str)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Seen:
    """What Python does to files, counted and listed by an audit hook; kills this process at a rename."""

    def __init__(self, kill_at: int, after: bool) -> None:
        self.kill_at, self.after = kill_at, after
        self.renames, self.written, self.started, self.on = 0, set(), [], True

    def watch(self) -> None:
        sys.addaudithook(self._hear)
        if self.after:  # the hook hears of a rename just before it
            for name in ("replace", "rename"):
                setattr(os, name, self._then_killed(getattr(os, name)))

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event == "os.rename":
            self.renames += 1
            if self.renames == self.kill_at and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
        if event == "open":
            path, mode, flags = arguments
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(path, (str, bytes, os.PathLike)):
                self._add(path)
        elif event in WRITES and not _says_nothing(event, arguments):
            for path in arguments[:2]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._add(path)
        elif event in STARTS:
            self.started.append(f"{event}: {arguments!r}"[:300])

    def _add(self, path: Any) -> None:
        self.written.add(os.path.abspath(os.fsdecode(path)))

    def _then_killed(self, function: Any) -> Any:
        def renamed(*arguments: Any, **named: Any) -> None:
            function(*arguments, **named)
            if self.renames == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        return renamed


def _says_nothing(event: str, arguments: tuple) -> bool:
    """A folder that is made although it is there; a name in a folder that ``shutil.rmtree`` has told of itself."""
    if event == "os.mkdir":
        return os.path.isdir(arguments[0])
    return event in ("os.remove", "os.rmdir") and arguments[-1] != -1


if __name__ == "__main__":
    _serve()
