"""Volumes that cannot be copied as they are: 4D files into one file a channel, one format into another."""

from __future__ import annotations

from pathlib import Path

from samdpo.dataset.converters.source import Member, local_file
from samdpo.dataset.decoding import check_file, check_size, decoding
from samdpo.dataset.itk import silence, unreadable
from samdpo.dataset.nifti import refuse_cut_nifti
from samdpo.errors import DatasetError
from samdpo.files import atomic_path


def split_channels(members: tuple[Member, ...], targets: tuple[Path, ...]) -> None:
    """Write the volumes of a 4D image, which lie along its last axis, to one file each; geometry and type stay.

    Raises:
        DatasetError: unreadable file, or another number of channels than ``targets``.
    """
    image = _read(members[0])
    found = image.GetSize()[3] if image.GetDimension() == 4 else 1
    if found != len(targets):
        raise DatasetError(
            f"{members[0]} holds {found} channel(s), but its dataset.json names {len(targets)}. Download it again, or "
            "correct 'modality' there."
        )
    for channel, target in enumerate(targets):
        write_image(image[:, :, :, channel] if image.GetDimension() == 4 else image, target)


def write_volume(members: tuple[Member, ...], targets: tuple[Path, ...]) -> None:
    """Write one volume in the format of the target's ending; geometry and type stay.

    Raises:
        DatasetError: unreadable file.
    """
    write_image(_read(members[0]), targets[0])


def _read(member: Member):
    import SimpleITK as sitk  # noqa: N813

    silence()
    with local_file(member) as path, decoding(path):
        check_file(path)
        refuse_cut_nifti(path)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
            check_size(path, reader.GetSize())
            return reader.Execute()
        except RuntimeError as error:
            raise unreadable(path, error) from error


def write_image(image, target: Path) -> None:
    """Write SimpleITK's ``image``, compressed, atomically."""
    import SimpleITK as sitk  # noqa: N813

    with atomic_path(target) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
