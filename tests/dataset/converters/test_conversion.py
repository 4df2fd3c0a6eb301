"""What all converters share: going on, refusing another dataset, problems told at once."""

from __future__ import annotations

import json
import logging
import os
import sys

import pytest
from downloads import amos_download, busi_download, covid_download, files_of, picture, save, zipped

from samdpo.cli import convert
from samdpo.dataset.converters import conversion as module
from samdpo.dataset.converters.amos import amos
from samdpo.dataset.converters.busi import busi
from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.converters.covid_qu_ex import covid_qu_ex
from samdpo.dataset.converters.target import claimed_folder
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import temporary_beside
from samdpo.paths import known_datasets


def test_an_interrupted_conversion_goes_on_where_it_stopped(roots, tmp_path, monkeypatch, caplog):
    source = amos_download(tmp_path)
    copied = []
    real = module.copy_member

    def stopping(member, target):
        if len(copied) == 2:
            raise KeyboardInterrupt
        real(member, target)
        copied.append(target)

    monkeypatch.setattr(module, "copy_member", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_conversion(amos(source), 203)
    folder = roots.raw / "Dataset203_AMOS22_CT"
    assert not folder.exists(), "a dataset has its name when it is whole"
    assert not known_datasets()
    written = [file.stat().st_mtime_ns for file in copied]
    monkeypatch.setattr(module, "copy_member", real)
    caplog.set_level(logging.INFO)
    run_conversion(amos(source), 203)
    assert [(folder / f.parent.name / f.name).stat().st_mtime_ns for f in copied] == written
    assert [file.name for file in roots.raw.iterdir()] == [folder.name]
    assert (folder / "dataset.json").exists()
    assert "2 of 6 steps were done already" in caplog.text


def test_half_files_of_a_killed_run_are_removed(roots, tmp_path):
    source = amos_download(tmp_path)
    folder = run_conversion(amos(source), 203)
    mine = temporary_beside(folder / "imagesTr" / "amos_0001_0000.nii.gz")
    half = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-"))  # no process has this number
    half.write_bytes(b"half")
    run_conversion(amos(source), 203)
    assert not half.exists()
    assert len(files_of(folder / "imagesTr")) == 2


def test_a_copy_of_another_size_than_its_source_is_made_again(roots, tmp_path):
    source = amos_download(tmp_path)
    folder = run_conversion(amos(source), 203)
    file = folder / "imagesTr" / "amos_0001_0000.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    run_conversion(amos(source), 203)
    assert file.read_bytes() == whole


def test_running_again_changes_nothing_and_keeps_a_users_phrase(roots, tmp_path):
    source = busi_download(tmp_path)
    folder = run_conversion(busi(source), 202)
    file = folder / "dataset.json"
    content = json.loads(file.read_text())
    content["samdpo"]["structures"]["breast tumor"]["phrase"] = "my phrase"
    file.write_text(json.dumps(content))
    groups = folder / "case_groups.json"
    groups.write_text(json.dumps({**json.loads(groups.read_text()), "busi_benign_002": "patient_7"}))
    before = {name: (folder / name).stat().st_mtime_ns for name in files_of(folder) if name.endswith(".png")}
    run_conversion(busi(source), 202)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert json.loads(file.read_text())["samdpo"]["structures"]["breast tumor"]["phrase"] == "my phrase"
    assert json.loads(groups.read_text())["busi_benign_002"] == "patient_7"


def test_an_id_of_another_dataset_is_refused(roots, tmp_path):
    (roots.raw / "Dataset203_Mine").mkdir()
    with pytest.raises(ConfigurationError, match=r"belongs to Dataset203_Mine.*-d"):
        run_conversion(amos(amos_download(tmp_path)), 203)
    assert files_of(roots.raw) == []


def test_a_folder_of_the_same_name_that_somebody_else_made_is_refused(roots, tmp_path):
    mine = roots.raw / "Dataset203_AMOS22_CT" / "dataset.json"
    mine.parent.mkdir()
    mine.write_text("{}")
    with pytest.raises(DatasetError, match="was not made by samdpo_convert_amos"):
        run_conversion(amos(amos_download(tmp_path)), 203)
    assert mine.read_text() == "{}"


def test_other_settings_do_not_mix_into_the_same_folder(roots, tmp_path):
    source = amos_download(tmp_path)
    run_conversion(amos(source), 203)
    with pytest.raises(DatasetError, match=r"unlabelled = False.*unlabelled = True"):
        run_conversion(amos(source, unlabelled=True), 203)


def test_a_second_conversion_of_an_id_is_refused_while_the_first_one_works(roots, tmp_path):
    source = amos(amos_download(tmp_path))
    with claimed_folder(200, "Other", {"command": "another"}), pytest.raises(
        ConfigurationError, match="Another process makes a dataset of the id 200 .* choose another id with -d"
    ):
        run_conversion(source, 200)
    assert run_conversion(source, 200).is_dir()


def test_ids_have_three_digits(roots, tmp_path):
    with pytest.raises(ConfigurationError, match="three digits"):
        run_conversion(amos(amos_download(tmp_path)), 1203)


def test_all_files_that_cannot_be_converted_are_told_at_once_and_the_rest_is_kept(roots, tmp_path):
    source = busi_download(tmp_path)
    for number in (1, 2):
        file = source / "benign" / f"benign ({number}).png"
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DatasetError) as caught:
        run_conversion(busi(source), 202)
    assert "benign (1).png cannot be read" in str(caught.value)
    assert "benign (2).png cannot be read" in str(caught.value)
    folder = roots.raw / "Dataset202_BUSI"
    assert not folder.exists(), "nothing half is called a dataset"
    kept = roots.raw / ".unfinished_Dataset202_BUSI"
    assert (kept / "imagesTr" / "busi_benign_003_0000.png").exists()
    assert str(kept) in str(caught.value)
    for number in (1, 2):
        save(picture(number), source / "benign" / f"benign ({number}).png")
    run_conversion(busi(source), 202)
    assert (folder / "dataset.json").exists()
    assert not kept.exists()


def test_what_other_settings_had_begun_does_not_mix_with_the_next_try(roots, tmp_path):
    source = busi_download(tmp_path)
    file = source / "benign" / "benign (1).png"
    whole = file.read_bytes()
    file.write_bytes(whole[:60])
    with pytest.raises(DatasetError, match=r"benign \(1\).png cannot be read"):
        run_conversion(busi(source), 202)
    file.write_bytes(whole)
    folder = run_conversion(busi(source, with_normal=False), 202)
    assert not [name for name in files_of(folder / "imagesTr") if "normal" in name]


def test_a_folder_that_came_into_being_meanwhile_is_not_written_over(roots, tmp_path, monkeypatch):
    mine = roots.raw / "Dataset203_AMOS22_CT" / "notes.txt"
    real = module._write_dataset_json

    def meanwhile(*given):
        real(*given)
        mine.parent.mkdir()
        mine.write_text("mine")

    monkeypatch.setattr(module, "_write_dataset_json", meanwhile)
    with pytest.raises(DatasetError, match="has come into being while"):
        run_conversion(amos(amos_download(tmp_path)), 203)
    assert files_of(mine.parent) == ["notes.txt"]


def test_several_processes_write_what_one_writes(roots, tmp_path, monkeypatch):
    covid_download(tmp_path / "download")
    archive = zipped(tmp_path / "download", tmp_path / "archive.zip")
    alone = run_conversion(covid_qu_ex(archive), 201)
    real = module.map_cases
    monkeypatch.setattr(module, "map_cases", lambda f, items, n, text, per: real(f, items, n, text, 1))
    together = run_conversion(covid_qu_ex(archive), 301, processes=2)
    assert files_of(alone) == files_of(together)
    for name in files_of(alone):
        assert (alone / name).read_bytes() == (together / name).read_bytes()


def test_a_command_ends_with_what_it_wrote_and_the_next_command(roots, tmp_path, monkeypatch, capfd):
    source = amos_download(tmp_path)
    monkeypatch.setattr(sys, "argv", ["samdpo_convert_amos", str(source), "-d", "7", "-np", "1"])
    convert.main_amos()
    told = capfd.readouterr().err
    assert "Dataset007_AMOS22_CT: 2 labelled, 0 unlabelled, 1 test images." in told
    assert "Next: samdpo_plan_and_preprocess -d 7 --verify_dataset_integrity" in told


def test_a_wrong_folder_ends_with_a_sentence_and_code_2(roots, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["samdpo_convert_busi", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        convert.main_busi()
    assert stopped.value.code == 2
    assert "does not hold BUSI" in capfd.readouterr().err
