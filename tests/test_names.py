"""A name out of data becomes one part of a path, or is refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from samdpo.cli.common import log, run_command, visible
from samdpo.errors import DatasetError, PlansError
from samdpo.names import check_name, is_below, name_problem, same_text


@pytest.mark.parametrize("name", ["case_01", "Müller 2", "a b#1%20[x].v2", "हिन्दी", "x.y", "x..", "-1"])
def test_plain_names_of_any_script_pass(name: str) -> None:
    assert check_name(name, "the name") == name


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "a/b", "/abs", "..\\x", "C:x", "a\n", "a\x00b", "\ud800", " a", "a ", ".a",
     "..a", "x" * 201, "é" * 101, 5, None, ["a"], True],
)
def test_paths_and_what_no_file_can_be_called_are_refused(name: object) -> None:
    assert name_problem(name)
    with pytest.raises(PlansError, match="plans.json: 'x' is .* Expected a plain name .* Do this."):
        check_name(name, "plans.json: 'x'", PlansError, "Do this.")


def test_the_error_is_a_dataset_error_unless_told_otherwise() -> None:
    with pytest.raises(DatasetError):
        check_name("../x", "It")


def test_composed_and_decomposed_letters_are_the_same_name() -> None:
    assert unicodedata.normalize("NFD", "é") != "é" == same_text(unicodedata.normalize("NFD", "é"))


def test_below_follows_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "out").symlink_to(tmp_path)
    assert is_below(tmp_path / "a" / "b", tmp_path / "a")
    assert not is_below(tmp_path / "a", tmp_path / "a")
    assert not is_below(tmp_path / "a" / "out" / "c", tmp_path / "a")


def test_a_name_that_would_steer_the_terminal_is_shown_as_it_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    """Every message of every command goes through the one formatter."""
    assert visible("Müller हिन्दी\n\tx") == "Müller हिन्दी\n\tx"

    def fail() -> None:
        log.warning("%s is odd", Path("a\x1b]0;title\x07\r\u202egnp.b"))
        raise DatasetError("b\x1b[2J\x9b\udce9.png is missing.")

    with pytest.raises(SystemExit):
        run_command(fail)
    told = capfd.readouterr().err
    assert r"Warning: a\x1b]0;title\x07\r\u202egnp.b is odd" in told
    assert r"Error: b\x1b[2J\x9b\udce9.png is missing." in told
    assert "\x1b" not in told and "\r" not in told
