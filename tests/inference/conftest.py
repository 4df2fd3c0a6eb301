"""``samdpo_predict`` as typed, and the sentence with which it ends."""

from __future__ import annotations

import logging
import sys

import pytest

from samdpo.cli.predict import main


@pytest.fixture
def predict(monkeypatch, caplog):
    """Run ``samdpo_predict``; returns its messages."""

    def typed(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["samdpo_predict", *map(str, words), "-device", "cpu"])
        monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
        monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
        caplog.clear()
        with caplog.at_level("INFO", "samdpo"):
            main()
        return caplog.text

    return typed


@pytest.fixture
def fails(predict, caplog):
    """The sentence with which ``samdpo_predict`` ends."""

    def typed(*words: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            predict(*words)
        assert stopped.value.code == 2
        return caplog.text

    return typed
