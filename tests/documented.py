"""What the documentation holds: its pages, their code blocks, the commands and flags they name."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DATASET, IDENTIFIER = "Dataset003_Lung", 3
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*?) -->\n\s*)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z]\w*")


@dataclass(frozen=True)
class Block:
    """One fenced block; ``reason`` is why it is not run, if so."""

    language: str
    code: str
    reason: str | None


def pages() -> list[Path]:
    """README and every page of the documentation."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "documentation").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(m["language"], m["code"], m["reason"]) for m in found]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


@cache
def console_scripts() -> dict[str, str]:
    """Command -> ``module:function`` inside ``samdpo.cli``, as setup.py has them."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    value = next(
        node.value for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "COMMANDS"
    )
    return ast.literal_eval(value)


def entry_point(command: str, *options: str) -> list[str]:
    """What the installed console script does, without needing it on PATH."""
    module, _, function = console_scripts()[command].partition(":")
    program = f"import sys; sys.argv[0] = {command!r}; from samdpo.cli.{module} import {function}; {function}()"
    return [sys.executable, *options, "-c", program]


@dataclass(frozen=True)
class Help:
    """What ``command --help`` shows, the packages it imported, and the seconds it took."""

    shown: str
    imported: frozenset[str]
    seconds: float


@cache
def help_of(command: str) -> Help:
    """Type ``command --help``."""
    started = time.perf_counter()
    done = subprocess.run(
        [*entry_point(command, "-X", "importtime"), "--help"], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - started
    modules = (line.rpartition("|")[2].strip() for line in done.stderr.splitlines())
    return Help(done.stdout, frozenset(name.partition(".")[0] for name in modules), seconds)


def flags_of(command: str) -> frozenset[str]:
    """Flags that ``command --help`` shows."""
    usage = help_of(command).shown.split("\n\n")[0]
    return frozenset(_FLAG.findall(usage)) | {"--help"}


def named_invocations(page: Path) -> list[list[str]]:
    """Every ``samdpo_…`` command line of a page's shell blocks and inline code, split into words."""
    lines = [
        line
        for block in blocks(page) if block.language == "bash"
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`([^`\n]+)`", prose(page))
    found = []
    for line in lines:
        line = line.split("<<")[0]
        words = shlex.split(line, comments=True) if line.count('"') % 2 == 0 and line.count("'") % 2 == 0 else []
        starts = [i for i, word in enumerate(words) if re.fullmatch(r"samdpo_\w+", word)]
        if starts:
            found.append(words[starts[0]:])
    return found


def lone_flags(page: Path) -> set[str]:
    """Flags that inline code names without a command: `--npz`."""
    inline = re.findall(r"`([^`\n]+)`", prose(page))
    return {text.split()[0] for text in inline if re.match(r"--?[A-Za-z]\w*(\s|$)", text)}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files that do not exist, or to headings that they do not have."""
    broken = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Targets of Markdown links and images that stay inside the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r"src=\"([^\"]+)\"", prose(page))
    return [t for t in targets if not re.match(r"https?:|mailto:", t)]


_SMALLER = """
import json, os, pathlib
for file in pathlib.Path(os.environ["nnUNet_preprocessed"]).glob("*/*.json"):
    before = file.read_text()
    plan = json.loads(before)
    if "configurations" not in plan or "inherits_from" in plan:
        continue
    plan["network"].update(backbone="tiny_sam", frozen_stages=0)
    plan["prompting"]["tower_steps"] = 10
    plan["prompting"]["tower_batch_size"] = 4
    for stage in plan["configurations"].values():
        if "epochs" in stage or "inherits_from" not in stage:
            stage["epochs"] = 1
    after = json.dumps(plan, indent=2)
    if after != before:
        file.with_suffix(".new").write_text(after)
        os.replace(file.with_suffix(".new"), file)
"""


def script_of(page: Path) -> str:
    """A page's runnable blocks as one bash script, exactly as written.

    Before each command the plans that lie on disk are made small (``tiny_sam``, one epoch), as a user may edit a plan:
    what is typed stays what the page says, and runs in seconds.
    """
    parts = ["set -euo pipefail", "trap 'python \"$samdpo_test_smaller\"' DEBUG"]
    for block in blocks(page):
        if block.reason is None and block.language == "bash":
            parts.append(block.code)
        elif block.reason is None and block.language == "python":
            parts.append(f"python - <<'END_OF_PYTHON_BLOCK'\n{block.code}END_OF_PYTHON_BLOCK\n")
    return "\n".join(parts)


def run_script(script: str, folder: Path) -> str:
    """Run a page's script in ``folder``; returns what it said, raises AssertionError with it where it failed."""
    smaller = folder / "smaller.py"
    smaller.write_text(_SMALLER)
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ, **{name: str(folder / name) for name in VARIABLES}, "samdpo_test_smaller": str(smaller),
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "", "nnUNet_def_n_proc": "1",
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def make_workspace(folder: Path) -> Path:
    """Phantoms planned, finetuned and aligned with the tiny network, and the documentation beside them."""
    from samdpo.dataset.phantoms import make_phantom_dataset

    raw = folder / "nnUNet_raw" / DATASET
    make_phantom_dataset("xray", raw, n_labelled=20, n_unlabelled=3, n_test=3, seed=0, size=(96, 80))
    (folder / "documentation").symlink_to(REPOSITORY / "documentation")
    commands = [
        f"samdpo_plan_and_preprocess -d {IDENTIFIER} --labelled 0.25",
        f"samdpo_train {IDENTIFIER} finetune 0",
        f"samdpo_train {IDENTIFIER} align 0",
    ]
    run_script("\n".join(["set -e", "trap 'python \"$samdpo_test_smaller\"' DEBUG", *commands]), folder)
    return folder


def copy_workspace(source: Path, folder: Path) -> Path:
    """A page's own copy; large files, which are only ever replaced as a whole, are linked."""

    def copy(original: str, target: str) -> None:
        if original.endswith((".json", ".txt", ".py")):
            shutil.copy2(original, target)
        else:
            os.link(original, target)

    return Path(shutil.copytree(source, folder, symlinks=True, copy_function=copy))


def json_blocks(page: Path) -> list[dict | list]:
    """The JSON blocks of a page, parsed."""
    return [json.loads(block.code) for block in blocks(page) if block.language == "json"]
