"""Every command is a function of its words: a program may call it without touching ``sys.argv``."""

from __future__ import annotations

import importlib

import pytest
from documented import console_scripts


@pytest.mark.parametrize(("command", "target"), console_scripts().items())
def test_a_command_takes_its_words_as_an_argument(
    command: str, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = target.partition(":")
    monkeypatch.setattr("sys.argv", ["another_program", "--not_a_flag_of_ours"])
    with pytest.raises(SystemExit) as stopped:
        getattr(importlib.import_module(f"samdpo.cli.{module}"), function)(["--help"])
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out
