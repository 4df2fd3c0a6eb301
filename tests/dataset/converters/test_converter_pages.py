"""The pages about data sets are held to what the other pages are held to."""

from __future__ import annotations

import re
from pathlib import Path

import documented
import pytest

PAGES = sorted((documented.REPOSITORY / "documentation" / "datasets").glob("*.md"))
EACH = [pytest.param(page, id=page.name) for page in PAGES]
COMMANDS = {page.stem: f"samdpo_convert_{page.stem}" for page in PAGES}


def test_every_converter_has_a_page_and_every_page_a_link() -> None:
    converters = {name for name in documented.console_scripts() if name.startswith("samdpo_convert_")}
    assert set(COMMANDS.values()) == converters
    linked = documented.links(documented.REPOSITORY / "documentation" / "dataset_format.md")
    assert {f"datasets/{page.name}" for page in PAGES} <= set(linked)


@pytest.mark.parametrize("page", EACH)
def test_commands_and_flags_of_a_page_exist(page: Path) -> None:
    for command, *words in documented.named_invocations(page):
        flags = {word for word in words if re.fullmatch(r"--?[A-Za-z]\w*", word)}
        assert flags <= documented.flags_of(command), f"{page.name} names {command} {' '.join(words)}"
    assert documented.lone_flags(page) <= documented.flags_of(COMMANDS[page.stem])


@pytest.mark.parametrize("page", EACH)
def test_every_flag_of_its_command_is_on_the_page_or_the_common_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    common = {"-h", "--help", "-d", "-np"}
    missing = [flag for flag in documented.flags_of(COMMANDS[page.stem]) - common if f"`{flag}" not in text]
    assert missing == []


@pytest.mark.parametrize("page", EACH)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert documented.broken_links(page) == []


@pytest.mark.parametrize("page", EACH)
def test_blocks_that_are_not_run_say_why(page: Path) -> None:
    found = documented.blocks(page)
    assert found
    assert all(block.reason is None or len(block.reason) > 10 for block in found)


@pytest.mark.slow
@pytest.mark.parametrize("page", EACH)
def test_the_blocks_of_a_page_run_as_written(page: Path, tmp_path: Path) -> None:
    for name in documented.VARIABLES:
        (tmp_path / name).mkdir()
    told = documented.run_script(documented.script_of(page), tmp_path)
    if page.stem == "folder":
        assert "Dataset911_Chest: 6 labelled, 3 unlabelled, 2 test images." in told
