from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from downloads import amos_download, files_of, scan, tarred, zipped

from samdpo.dataset.converters.locate import find_download
from samdpo.dataset.converters.source import close_archives, copy_member, list_members, local_file
from samdpo.errors import DatasetError


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_archives()


@pytest.fixture
def tree(tmp_path) -> Path:
    amos_download(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.mark.parametrize("pack", ["folder", "zip", "tar", "tar.gz"])
def test_a_folder_a_zip_and_a_tar_list_the_same_files_without_junk(tree, tmp_path, pack):
    container = tree
    if pack == "zip":
        container = zipped(tree, tmp_path / "amos22.zip")
    elif pack != "folder":
        container = tarred(tree, tmp_path / f"amos22.{pack}", "w:gz" if pack.endswith("gz") else "w")
    members = list_members(container)
    expected = [f for f in files_of(tree) if "__MACOSX" not in f and "._" not in f]
    assert sorted(member.path for member in members) == expected
    copy_member(members[-1], tmp_path / "copy.nii.gz")
    assert (tmp_path / "copy.nii.gz").read_bytes() == (tree / members[-1].path).read_bytes()


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_an_archive_with_a_name_that_leads_outside_is_refused(tmp_path, name):
    archive = tmp_path / "download.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, b"evil")
    with pytest.raises(DatasetError, match="leads outside"):
        list_members(archive)
    assert files_of(tmp_path) == ["download.zip"]


def test_a_tar_with_a_name_that_leads_outside_is_refused(tmp_path):
    archive = tmp_path / "download.tar"
    with tarfile.open(archive, "w") as file:
        file.addfile(tarfile.TarInfo("Task09_Spleen/../../evil"), io.BytesIO())
    with pytest.raises(DatasetError, match="leads outside"):
        list_members(archive)


def test_links_of_a_tar_are_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    archive = tmp_path / "download.tar"
    with tarfile.open(archive, "w") as file:
        link = tarfile.TarInfo("imagesTr/scan.nii.gz")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.txt")
        file.addfile(link)
    assert list_members(archive) == []


def test_a_cut_off_archive_is_named_with_its_remedy(tree, tmp_path):
    archive = zipped(tree, tmp_path / "amos22.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=r"amos22.zip cannot be read.*download it again"):
        list_members(archive)
    archive = tarred(tree, tmp_path / "amos22.tgz", "w:gz")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=r"amos22.tgz cannot be read.*download it again"):
        list_members(archive)


def test_a_damaged_file_of_an_archive_leaves_nothing_behind(tree, tmp_path):
    archive = zipped(tree, tmp_path / "amos22.zip")
    member = list_members(archive)[0]
    content = archive.read_bytes()
    close_archives()
    original = (tree / member.path).read_bytes()
    archive.write_bytes(content.replace(original, original[:50] + b"xxxx" + original[54:]))
    with pytest.raises(DatasetError, match="damaged or incomplete"):
        copy_member(member, tmp_path / "out" / "scan.nii.gz")
    assert files_of(tmp_path / "out") == []


def test_a_cut_nifti_file_is_named_by_its_place_in_the_archive(tmp_path):
    file = scan(tmp_path / "tree" / "scan.nii.gz")
    file.write_bytes(file.read_bytes()[:-60])
    archive = zipped(tmp_path / "tree", tmp_path / "download.zip")
    with pytest.raises(DatasetError) as caught:
        copy_member(list_members(archive)[0], tmp_path / "out.nii.gz")
    assert f"{archive}/scan.nii.gz cannot be read" in str(caught.value)
    assert not (tmp_path / "out.nii.gz").exists()


def test_errors_about_a_temporary_copy_name_the_archive(tree, tmp_path):
    archive = zipped(tree, tmp_path / "amos22.zip")
    member = list_members(archive)[0]
    with pytest.raises(DatasetError) as caught, local_file(member) as path:
        raise DatasetError(f"{path} is wrong.")
    assert str(caught.value) == f"{archive}/{member.path} is wrong."
    assert not path.exists()


def test_what_is_no_archive_gets_a_sentence(tmp_path):
    (tmp_path / "amos22.7z").touch()
    with pytest.raises(DatasetError, match="Unpack it"):
        list_members(tmp_path / "amos22.7z")
    with pytest.raises(DatasetError, match="does not exist"):
        list_members(tmp_path / "nowhere")


def find(source: Path):
    return find_download(source, "AMOS22", ("imagesTr", "labelsTr"), "amos22/imagesTr")


def test_the_root_is_found_from_above_inside_an_archive_and_from_the_folder_with_the_archive(tree, tmp_path):
    (tmp_path / "downloads").mkdir()
    archive = zipped(tree, tmp_path / "downloads" / "amos22.zip")
    for source in (tree / "amos22", tree, archive, archive.parent):
        download = find(source)
        assert download.name == "amos22"
        assert len(download.files("imagesTr")) == 3


def test_a_wrong_folder_says_what_was_expected_and_what_is_there(tmp_path):
    scan(tmp_path / "holiday" / "beach.nii.gz")
    with pytest.raises(DatasetError) as caught:
        find(tmp_path)
    text = str(caught.value)
    assert f"{tmp_path} does not hold AMOS22" in text
    assert "Expected: amos22/imagesTr" in text
    assert "Found: holiday" in text


def test_two_downloads_in_one_folder_are_not_guessed_between(tmp_path):
    amos_download(tmp_path / "old")
    amos_download(tmp_path / "new")
    with pytest.raises(DatasetError, match=r"2 times: .*new.*old.*Name one of them"):
        find(tmp_path)


def test_a_dataset_that_was_converted_before_is_no_download(tmp_path):
    amos_download(tmp_path)
    converted = (tmp_path / "amos22").rename(tmp_path / "Dataset203_AMOS22")
    for source in (tmp_path, converted):
        with pytest.raises(DatasetError, match="does not hold AMOS22"):
            find(source)


def test_a_link_to_nothing_is_named_and_links_of_an_archive_are_counted(tmp_path, caplog):
    import tarfile

    folder = tmp_path / "images"
    scan(folder / "a.nii.gz")
    (folder / "b.nii.gz").symlink_to("/mnt/gone/b.nii.gz")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, "images")
    with pytest.raises(DatasetError, match=r"b\.nii\.gz is a link to /mnt/gone/b\.nii\.gz, which is not there"):
        list_members(folder)
    assert [member.name for member in list_members(tmp_path / "images.tar")] == ["a.nii.gz"]
    assert "1 links in" in caplog.text and "images/b.nii.gz" in caplog.text


def test_what_an_archive_would_unpack_is_bounded_by_its_own_size_and_by_the_disk(tree, tmp_path, monkeypatch):
    from samdpo.dataset import decoding

    archive = zipped(tree, tmp_path / "amos22.zip")
    member = list_members(archive)[0]
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "LARGEST", 10)
        patch.setattr(decoding, "_A_BYTE", 0)
        with pytest.raises(DatasetError, match=f"{member.name} is too large"), local_file(member):
            pass
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3}))
    with pytest.raises(DatasetError, match=r"when it is unpacked, but .* has 3 free.*TMPDIR"), local_file(member):
        pass


def test_a_folder_or_an_archive_that_may_not_be_read_is_called_that(tree, tmp_path, monkeypatch):
    archive = zipped(tree, tmp_path / "amos22.zip")
    refused = PermissionError(13, "Permission denied", str(tree / "amos22"))
    real = os.scandir

    def scandir(path):
        if str(path) == str(tree / "amos22"):
            raise refused
        return real(path)

    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match="amos22 may not be read by you"):
        list_members(tree)
    monkeypatch.setattr(zipfile, "ZipFile", closed)
    close_archives()
    with pytest.raises(DatasetError, match=r"amos22\.zip may not be read by you"):
        list_members(archive)
