"""What SimpleITK says, as a sentence about the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from samdpo.dataset.itk import reason_of, unreadable

HEAD = "Exception thrown in SimpleITK ImageFileReader_Execute: /build/itkImage.hxx:145:\n"


@pytest.mark.parametrize(("text", "reason"), [
    ("", "unreadable"),
    (HEAD + "ITK ERROR: MetaImageIO(0x5): File cannot be read: a.mha\nReason: No such file or directory\n",
     "MetaImageIO(0x5): File cannot be read: a.mha"),
    (HEAD + "itk::ERROR: NrrdImageIO(0x5): Error reading a.nrrd:\n[nrrd] trouble\n[nrrd] fread got 9, not 12\n",
     "[nrrd] fread got 9, not 12"),
    (HEAD + 'sitk::ERROR: Unable to determine ImageIO reader for "a.mha"', "it begins like no format that is known"),
    (HEAD + "ITK ERROR: bad matrix\n0 1 0\n0 0 1\n", "bad matrix"),
])  # fmt: skip
def test_the_most_exact_line_is_the_reason(text: str, reason: str) -> None:
    assert reason_of(RuntimeError(text)) == reason


@pytest.mark.parametrize(("text", "words"), [
    ("ITK only supports orthonormal direction cosines.  No orthonormal definition found!", "not perpendicular"),
    ("Zero-valued spacing is not supported and may result in undefined behavior.\nRefusing", "spacing of 0"),
    ("Bad direction, determinant is 0. Refusing to change direction from 1 0\n to 0 0\n", "without direction"),
])  # fmt: skip
def test_a_geometry_that_itk_cannot_hold_is_not_called_damage(text: str, words: str) -> None:
    said = str(unreadable(Path("a.mha"), RuntimeError(HEAD + "ITK ERROR: " + text)))
    assert said.startswith("a.mha has") and words in said and "damaged" not in said


def test_anything_else_is_damage_with_the_remedy_of_whoever_read() -> None:
    error = RuntimeError(HEAD + "ITK ERROR: short read")
    assert "a.mha cannot be read (short read). The file is damaged" in str(unreadable(Path("a.mha"), error))
    assert str(unreadable(Path("scan"), error, "Copy it.")) == "scan cannot be read (short read). Copy it."
