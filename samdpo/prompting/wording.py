"""What a language model says, made fit for a prompt: one line, whole sentences."""

from __future__ import annotations

_ENDS = (".", "!", "?")


def one_line(text: str, was_cut: bool = False) -> str:
    """``text`` in one line; of one that a limit has cut only the whole sentences, where there is one."""
    line = " ".join(text.split())
    return whole_sentences(line) if was_cut else line


def whole_sentences(text: str) -> str:
    """``text`` up to the end of its last whole sentence; all of it where no sentence ends."""
    text = text.rstrip()
    if text.endswith(_ENDS):
        return text
    end = max(text.rfind(f"{mark}{space}") for mark in _ENDS for space in " \n")
    return text[: end + 1] if end > 0 else text
