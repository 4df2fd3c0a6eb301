"""Windows and macOS lack what Linux has: every module imports without it, and what stands in for it works."""

from __future__ import annotations

import subprocess
import sys

import samdpo

# Everything is imported once, so that the libraries are there; then samdpo's modules alone are imported anew.
PROGRAM = """
import importlib, os, pkgutil, signal, sys
import samdpo

NOT_THERE = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "spwd", "syslog"}
names = [m.name for m in pkgutil.walk_packages(samdpo.__path__, "samdpo.") if ".migrations." not in m.name]
for name in names:
    importlib.import_module(name)

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in NOT_THERE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for name in [n for n in sys.modules if n in NOT_THERE or n.partition(".")[0] == "samdpo"]:
    del sys.modules[name]
for name in ("uname", "fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "getgroups", "getpgid", "killpg",
             "setsid", "sched_getaffinity", "sysconf", "statvfs", "nice", "register_at_fork", "mkfifo", "O_NOFOLLOW",
             "O_DIRECTORY", "posix_fadvise", "posix_fallocate", "chown", "fchmod", "pathconf", "wait4"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGQUIT", "setitimer", "alarm",
             "pthread_sigmask", "pause"):
    if hasattr(signal, name):
        delattr(signal, name)

for name in names:
    importlib.import_module(name)
print("IMPORTED", len(names))

from samdpo.cli.common import run_command
from samdpo.planning.memory import detect_machine
from samdpo.training.run_log import peak_memory_gib

assert 0.01 < peak_memory_gib() < 1000, peak_memory_gib()
assert 0.1 < detect_machine().memory_gib < 100000
run_command(lambda: print("RAN"))
"""


def test_every_module_imports_where_unix_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    *_, imported, ran = done.stdout.split("\n")[:-1]
    assert int(imported.split()[1]) > 200
    assert ran == "RAN"


def test_the_modules_are_those_of_this_checkout() -> None:
    program = "import samdpo; print(samdpo.__path__[0])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == (
        samdpo.__path__[0])
