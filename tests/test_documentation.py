"""The documentation says what the code does: commands, flags, links, plan keys, and blocks that run as written."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import documented
import pytest
import torch
from documented import REPOSITORY, blocks, console_scripts, entry_point, flags_of, help_of, pages, prose

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.plans import Plans, StagePlan, StructurePlan
from samdpo.schema import to_dict

LONGEST_HELP = 0.5  # seconds; where Python itself starts slowly, on a busy machine, this many of its starts:
STARTS_OF_PYTHON = 4
TRAINING_PAGES = {"baselines.md", "prompts.md", "results.md", "README.md", "dataset_format.md", "planning.md",
                  "training.md", "alignment.md", "benchmark.md",
                  "inference.md", "evaluation.md", "volumes.md", "environment_variables.md", "coming_from_nnunet.md",
                  "annotate.md", "python.md", "models.md", "performance.md", "preferences.md", "texts.md"}
EVERY_PAGE = [pytest.param(page, id=page.name) for page in [*pages(), REPOSITORY / "CONTRIBUTING.md",
                                                            REPOSITORY / "CHANGELOG.md"]]


# ---- commands and flags ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", console_scripts())
def test_help_is_instant(command: str) -> None:
    seconds, allowed, start = help_of(command).seconds, LONGEST_HELP, math.inf
    for _ in range(4):  # the fastest of each is what the machine's load has the least part in
        if seconds < allowed:
            break
        start = min(start, seconds_of([sys.executable, "-c", "pass"]))
        seconds = min(seconds, seconds_of([*entry_point(command), "--help"]))
        allowed = max(LONGEST_HELP, STARTS_OF_PYTHON * start)
    assert seconds < allowed


def seconds_of(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(words, capture_output=True, check=True)
    return time.perf_counter() - started


@pytest.mark.parametrize("command", console_scripts())
def test_help_imports_nothing_heavy(command: str) -> None:
    imported = help_of(command).imported
    assert "samdpo" in imported
    assert not imported & {"torch", "numpy", "nnunetv2", "transformers", "matplotlib", "scipy"}


def test_every_command_is_documented() -> None:
    everything = "".join(page.read_text(encoding="utf-8") for page in pages())
    assert [command for command in console_scripts() if command not in everything] == []


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_commands_and_flags_that_a_page_names_exist(page: Path) -> None:
    for command, *words in documented.named_invocations(page):
        if command in ("samdpo_database", "samdpo_debug", "samdpo_llm_model", "samdpo_real_data"):  # variables
            continue
        assert command in console_scripts(), f"{page.name} names {command}"
        flags = [w.partition("=")[0] for w in words if re.fullmatch(r"--?[A-Za-z]\w*(=.*)?", w)]
        unknown = [flag for flag in flags if flag not in flags_of(command)]
        assert not unknown, f"{page.name} names {command} {' '.join(words)}, which has no {unknown}"


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_flags_named_alone_belong_to_a_command(page: Path) -> None:
    known = frozenset().union(*map(flags_of, console_scripts()))
    assert documented.lone_flags(page) - known == set()


def test_every_flag_of_the_main_commands_is_documented() -> None:
    where = {
        "samdpo_plan_and_preprocess": "planning.md", "samdpo_train": "training.md", "samdpo_predict": "inference.md",
        "samdpo_evaluate_folder": "evaluation.md",
    }
    for command, name in where.items():
        text = (REPOSITORY / "documentation" / name).read_text(encoding="utf-8")
        missing = [flag for flag in flags_of(command) - {"-h", "--help"} if f"`{flag}`" not in text]
        assert not missing, f"{name} does not explain {missing} of {command}"


# ---- links and examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_links_lead_somewhere(page: Path) -> None:
    assert documented.broken_links(page) == []


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_blocks_that_are_not_run_say_why(page: Path) -> None:
    assert all(block.reason is None or len(block.reason) > 10 for block in blocks(page))
    assert page.name in TRAINING_PAGES | {"CONTRIBUTING.md", "CHANGELOG.md"}, "a new page: add it to TRAINING_PAGES"


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert not re.search(r"@@|TODO|FIXME", page.read_text(encoding="utf-8"))


def test_json_blocks_are_json() -> None:
    assert sum(len(documented.json_blocks(page)) for page in pages()) >= 4


def test_the_dataset_json_of_the_documentation_is_accepted(tmp_path: Path) -> None:
    content = documented.json_blocks(REPOSITORY / "documentation" / "dataset_format.md")[0]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert load_dataset_json(tmp_path).hints["lung"].components == 2


@pytest.mark.parametrize("name", ["warmup_trainer", "dice_trainer"])
def test_the_example_trainers_on_the_page_are_the_files(name: str) -> None:
    page = REPOSITORY / "documentation" / "training.md"
    file = (REPOSITORY / "documentation" / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert file in [block.code for block in blocks(page)]


def test_the_example_trainer_raises_the_rates_over_three_epochs() -> None:
    spec = importlib.util.spec_from_file_location(
        "warmup_trainer", REPOSITORY / "documentation" / "examples" / "warmup_trainer.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    trainer = object.__new__(module.WarmupTrainer)
    trainer.stage, trainer.processes = SimpleNamespace(lr_halving_epochs=4, seed=0), SimpleNamespace(rank=0)
    trainer.network = torch.nn.Linear(1, 1)
    trainer.optimizer = torch.optim.Adam(trainer.network.parameters(), lr=0.3)
    rates = []
    for epoch in range(5):
        trainer.on_epoch_start(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.15])


# ---- the plan -------------------------------------------------------------------------------------------------------


def plan_rows() -> dict[str, str]:
    """Key -> default as planning.md's two tables have them; keys of a stage without a prefix."""
    text = prose(REPOSITORY / "documentation" / "planning.md")
    tables = text[text.index("## The plan"):text.index("## Your own variant")]
    return dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", tables, re.M))


def defaults(cls: type, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and default of every leaf of a dataclass; MISSING where the planner sets it."""
    for field in dataclasses.fields(cls):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if dataclasses.is_dataclass(value):
            yield from defaults(type(value), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def expected_rows() -> dict[str, object]:
    """What the tables must hold."""
    nested = {"preprocessing", "prompting", "network", "inference"}
    expected: dict[str, object] = {}
    hints = {f.name: f.type for f in dataclasses.fields(Plans)}
    for field in dataclasses.fields(Plans):
        if field.name not in {"configurations", *nested}:
            expected[field.name] = field.default
    plan_module = __import__("samdpo.plans", fromlist=["*"])
    for name in nested:
        expected |= dict(defaults(getattr(plan_module, hints[name]), f"{name}."))
    expected |= {key: value if key.endswith(("question", "description")) else dataclasses.MISSING
                 if key.endswith(("label", "phrase")) else value
                 for key, value in defaults(StructurePlan, "structures.NAME.")}
    return expected | dict(defaults(StagePlan))


def test_planning_md_lists_every_key_of_the_plan_and_no_other() -> None:
    shown, expected = plan_rows(), expected_rows()
    assert sorted(expected.keys() - shown.keys()) == [], "not in planning.md"
    assert sorted(shown.keys() - expected.keys()) == [], "in planning.md, not in the plan"


def test_planning_md_gives_the_defaults_of_the_code() -> None:
    shown = plan_rows()
    for key, value in expected_rows().items():
        wanted = "*planned*" if value is dataclasses.MISSING else f"`{json.dumps(to_dict(value))}`"
        assert shown[key] == wanted, f"planning.md says {key} is {shown[key]}, the code says {wanted}"


# ---- the blocks, run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned, finetuned and aligned phantom dataset."""
    return documented.make_workspace(tmp_path_factory.mktemp("documentation"))


@pytest.mark.slow
@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in pages()])
def test_the_blocks_of_a_page_run_as_written(page: Path, workspace: Path, tmp_path: Path) -> None:
    folder = documented.copy_workspace(workspace, tmp_path / "user")
    documented.run_script(documented.script_of(page), folder)
