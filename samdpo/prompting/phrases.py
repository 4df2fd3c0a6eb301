"""The phrases that the towers contrast: a few wordings of each structure against what is not a structure."""

from __future__ import annotations

BACKGROUND_PHRASES = (
    "background",
    "nothing of interest",
    "surrounding normal tissue",
    "empty space outside the body",
    "the border of the image",
    "another part of the body",
)
"""What a pixel outside every structure may be called."""

_TEMPLATES = ("{phrase}", "the {phrase}", "an image of the {phrase}", "{phrase} in a medical image")


def structure_phrases(phrase: str) -> list[str]:
    """Wordings of one structure's phrase; the first is the phrase itself."""
    return [template.format(phrase=phrase) for template in _TEMPLATES]
