"""A trained model travels as one file: what comes out predicts as what went in, and nothing else comes in."""

from __future__ import annotations

import json
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from samdpo.cli import export_model as export_command
from samdpo.cli import import_model as import_command
from samdpo.dataset.images import read_label
from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.files import locked, write_json
from samdpo.inference.predict_folder import predict_folder
from samdpo.selection.model_zip import LIST, export_model, import_model

MODEL = "Dataset901_PhantomXray/AlignTrainer__samdpoPlans__align"


@pytest.fixture
def zipped(aligned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The aligned model as a zip; nnUNet_results is another machine's, empty."""
    export_model([aligned.aligned], tmp_path / "model.zip")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    return tmp_path / "model.zip"


def everything(folder: Path) -> dict[str, bytes]:
    """But for locks, which stay."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix != ".lock"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def changed(zipped: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The zip with other content, written as honestly as an attacker would."""
    with zipfile.ZipFile(zipped) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    other = zipped.with_name("changed.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return other


def relisted(content: dict[str, bytes]) -> None:
    """The list again, of what is there now."""
    content[LIST] = json.dumps({"version": 1, "files": {
        name: {"sha256": sha256(value).hexdigest(), "bytes": len(value)} for name, value in content.items()
        if name != LIST
    }}).encode()


def refused(file: Path, match: str, elsewhere: Path) -> None:
    before = everything(elsewhere) if elsewhere.exists() else {}
    with pytest.raises((ModelFolderError, ConfigurationError), match=match) as error:
        import_model(file)
    assert str(file) in str(error.value) or "elsewhere" in str(error.value)
    assert (everything(elsewhere) if elsewhere.exists() else {}) == before
    assert before or not list(elsewhere.rglob("*"))


# ---- there and back -------------------------------------------------------------------------------------------------


def test_what_comes_out_predicts_as_what_went_in(aligned, zipped, tmp_path) -> None:
    images = aligned.raw / "imagesTs"
    (model,) = import_model(zipped)
    assert model == tmp_path / "elsewhere" / MODEL
    shutil.rmtree(aligned.preprocessed)
    masks = predict_folder(images, tmp_path / "there", model, device="cpu")
    before = predict_folder(images, tmp_path / "here", aligned.aligned, device="cpu")
    for mask, other in zip(masks, before, strict=True):
        assert np.array_equal(read_label(mask), read_label(other))


def test_a_zip_holds_what_prediction_needs_and_no_record_of_the_training(zipped) -> None:
    with zipfile.ZipFile(zipped) as archive:
        names = {name.removeprefix(f"{MODEL}/") for name in archive.namelist()}
    assert {"plans.json", "dataset.json", "fold_0/checkpoint_final.safetensors", "fold_0/model.json",
            "fold_0/manifest.json", "fold_0/prompter/prompter.json", LIST} <= names
    assert not {name for name in names if any(part in name for part in ("log", "debug", "validation", "prompts/",
                                                                       "tensorboard", "fingerprint", ".png"))}


def test_the_same_model_gives_the_same_zip(aligned, zipped, tmp_path) -> None:
    export_model([aligned.aligned], tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == zipped.read_bytes()


def test_several_models_and_their_postprocessing_travel_together(aligned, tmp_path, monkeypatch) -> None:
    write_json(aligned.aligned / "postprocessing.json", {"lung": {"label": 1, "keep_largest_component": True}})
    export_model([aligned.aligned, aligned.finetuned], tmp_path / "both.zip", ["0"])
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    assert {model.name for model in import_model(tmp_path / "both.zip")} == {
        aligned.aligned.name, aligned.finetuned.name}
    assert (tmp_path / "elsewhere" / MODEL / "postprocessing.json").is_file()


def test_a_renamed_copy_of_a_model_gets_its_name_again(aligned, tmp_path, monkeypatch) -> None:
    copy = shutil.copytree(aligned.aligned, tmp_path / "my model")
    export_model([copy], tmp_path / "model.zip")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    assert import_model(tmp_path / "model.zip") == [tmp_path / "elsewhere" / MODEL]


def test_imported_weights_may_start_a_training(aligned, zipped) -> None:
    (model,) = import_model(zipped)
    trainer = aligned.trainer("finetune", pretrained_weights=model / "fold_0" / "checkpoint_final.safetensors")
    trainer.initialize()


def test_a_model_that_is_there_is_only_replaced_where_that_is_asked_for(zipped) -> None:
    (model,) = import_model(zipped)
    (model / "mine.txt").write_text("kept")
    with pytest.raises(ConfigurationError, match="is there already. --overwrite"):
        import_model(zipped)
    assert (model / "mine.txt").is_file()
    assert import_model(zipped, overwrite=True) == [model]
    assert not (model / "mine.txt").exists()


def test_a_model_that_is_being_trained_is_not_replaced(zipped) -> None:
    (model,) = import_model(zipped)
    with locked(model / ".fold_0.lock"), pytest.raises(ConfigurationError, match="is being trained"):
        import_model(zipped, overwrite=True)


def test_a_fold_that_is_not_trained_is_not_exported(aligned, tmp_path) -> None:
    with pytest.raises(ModelFolderError, match="no trained fold 3; trained folds: 0"):
        export_model([aligned.aligned], tmp_path / "model.zip", ["0", "3"])
    assert not list(tmp_path.glob("*.zip"))


def test_damaged_weights_are_not_exported(aligned, tmp_path) -> None:
    weights = aligned.aligned / "fold_0" / "checkpoint_final.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(ModelFolderError, match="damaged"):
        export_model([aligned.aligned], tmp_path / "model.zip")


def test_the_commands_say_what_to_type_next(aligned, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    with caplog.at_level("INFO", "samdpo"):
        export_command.main(["-o", str(tmp_path / "model.zip"), "-d", "901"])
        assert f"{aligned.aligned.name} are in" in caplog.text
        monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
        import_command.main([str(tmp_path / "model.zip")])
    assert "samdpo_predict -i IMAGES -o PREDICTIONS -d 901 -tr AlignTrainer -p samdpoPlans -c align -f 0" in caplog.text


def test_where_another_dataset_has_the_id_a_model_is_named_by_its_folder(
    zipped, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    (tmp_path / "elsewhere" / "Dataset901_Another").mkdir(parents=True)
    with caplog.at_level("INFO", "samdpo"):
        import_command.main([str(zipped)])
    assert f"-m {tmp_path / 'elsewhere' / MODEL}" in caplog.text


def test_flags_that_would_do_nothing_are_refused(tmp_path, caplog) -> None:
    with pytest.raises(SystemExit):
        export_command.main(["-o", "model.zip", "-m", str(tmp_path), "-c", "align"])


# ---- what does not come in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "../escaped.json", "/etc/escaped.json", f"{MODEL}/../../../escaped.json", "C:/escaped.json",
    f"{MODEL}/fold_0\\..\\escaped.json", f"{MODEL}/./x.json", f"{MODEL}//x.json", "escaped.json", "Dataset901_X/x.json",
    f"{MODEL}/.hidden.json",
])
def test_a_name_that_leads_elsewhere_is_refused(zipped, tmp_path, name) -> None:
    refused(changed(zipped, lambda content: (content.update({name: b"{}"}), relisted(content))),
            "which is|does not lie in|it is no|Expected", tmp_path / "elsewhere")
    assert not list(tmp_path.rglob("escaped.json"))


@pytest.mark.parametrize("ending", [".pkl", ".pth", ".py", ".so", ".npy", ".html", ""])
def test_another_kind_of_file_is_refused(zipped, tmp_path, ending) -> None:
    name = f"{MODEL}/fold_0/file{ending}"
    refused(changed(zipped, lambda content: (content.update({name: b"x"}), relisted(content))),
            "no file of a model", tmp_path / "elsewhere")


def test_a_pickle_under_the_name_of_weights_is_refused(zipped, tmp_path) -> None:
    name = f"{MODEL}/fold_0/checkpoint_best.safetensors"
    refused(changed(zipped, lambda content: (content.update({name: pickle.dumps(print)}), relisted(content))),
            "is not safetensors", tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(zipped, tmp_path, kind) -> None:
    other = tmp_path / "linked.zip"
    shutil.copy(zipped, other)
    with zipfile.ZipFile(other, "a") as archive:
        info = zipfile.ZipInfo(f"{MODEL}/dataset_link.json")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(other, "is a link, a device", tmp_path / "elsewhere")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(zipped, tmp_path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{MODEL}/fold_0/checkpoint_final.safetensors", bytes(50_000_000))
    refused(bomb, "as no model does", tmp_path / "elsewhere")


def test_a_size_that_lies_is_refused(zipped, tmp_path) -> None:
    other = tmp_path / "lies.zip"
    content = bytearray(zipped.read_bytes())
    with zipfile.ZipFile(zipped) as archive:  # the size in the directory at the end, which unpacking heeds
        info = archive.getinfo(f"{MODEL}/fold_0/checkpoint_final.safetensors")
    start = content.rfind(info.filename.encode()) - 46
    assert content[start: start + 4] == b"PK\x01\x02"
    assert content[start + 24: start + 28] == info.file_size.to_bytes(4, "little")
    content[start + 24: start + 28] = (info.file_size - 8).to_bytes(4, "little")
    other.write_bytes(content)
    refused(other, "bytes, expected|no whole zip|damaged", tmp_path / "elsewhere")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_zip_leaves_everything_as_it_was(zipped, tmp_path, share) -> None:
    content = zipped.read_bytes()
    short = tmp_path / "short.zip"
    short.write_bytes(content[: int(share * len(content))])
    refused(short, "is no whole zip", tmp_path / "elsewhere")


def test_a_changed_byte_anywhere_is_found(zipped, tmp_path) -> None:
    """Unless it is in a time or a right, which nobody heeds."""
    content, random = zipped.read_bytes(), np.random.default_rng(0)
    for place in random.integers(0, len(content) * 9 // 10, 20):
        one = bytearray(content)
        one[place] ^= 0xFF
        (tmp_path / "changed.zip").write_bytes(one)
        with pytest.raises(ModelFolderError):
            import_model(tmp_path / "changed.zip")
        assert not list((tmp_path / "elsewhere").rglob("*"))


@pytest.mark.parametrize(("change", "match"), [
    (lambda content: content.pop(LIST), f"has no {LIST}"),
    (lambda content: content.update({LIST: b"[1]"}), "does not list"),
    (lambda content: content.update({LIST: b"{}"}), "does not list"),
    (lambda content: content.update({LIST: b"{" * 100_000}), "not valid JSON"),
    (lambda content: content.pop(f"{MODEL}/plans.json"), "is listed and not there"),
    (lambda content: content.update({f"{MODEL}/more.json": b"{}"}), "is there and not listed"),
    (lambda content: content.update({f"{MODEL}/plans.json": b"{}"}), "expected"),
    (lambda content: (content.pop(f"{MODEL}/plans.json"), relisted(content)), "holds no model"),
    (lambda content: (content.update({f"{MODEL}/plans.json": b"{}"}), relisted(content)), "holds no model"),
    (lambda content: (content.pop(f"{MODEL}/fold_0/checkpoint_final.safetensors"), relisted(content)),
     "holds no model"),
    (lambda content: (content.update({f"{MODEL}/fold_0/model.json": b"not json"}), relisted(content)),
     "holds no model"),
    (lambda content: (content.update({f"{MODEL}/PLANS.json": b"{}"}), relisted(content)), "in it twice"),
])
def test_what_is_no_whole_model_is_refused(zipped, tmp_path, change, match) -> None:
    refused(changed(zipped, change), match, tmp_path / "elsewhere")


def test_a_wrong_zip_does_not_touch_the_model_that_is_there(zipped, tmp_path) -> None:
    import_model(zipped)
    before = everything(tmp_path / "elsewhere")
    bad = changed(zipped, lambda content: (content.update({f"{MODEL}/plans.json": b"{}"}), relisted(content)))
    with pytest.raises(ModelFolderError):
        import_model(bad, overwrite=True)
    assert everything(tmp_path / "elsewhere") == before


def test_a_file_that_is_no_zip_is_a_sentence(tmp_path, roots) -> None:
    (tmp_path / "model.zip").write_text("hello")
    with pytest.raises(ModelFolderError, match="is no whole zip"):
        import_model(tmp_path / "model.zip")
    with pytest.raises(ConfigurationError, match="is not a file"):
        import_model(tmp_path / "nowhere.zip")
