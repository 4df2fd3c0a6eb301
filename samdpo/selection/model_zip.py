"""A trained model as one file, data only: ``samdpo_export_model`` and ``samdpo_import_model``, in nnU-Net's manner.

The zip holds what prediction and ``-pretrained_weights`` need, below the folders it had in nnUNet_results, and a list
with the SHA-256 of every file. What comes in is checked whole before anything of it gets a name: a zip from elsewhere
can say anything of itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from samdpo.errors import ConfigurationError, ModelFolderError, SamdpoError
from samdpo.extensions import OURS, class_name
from samdpo.files import atomic_folder, atomic_path, locked, parse_json, read_json
from samdpo.model.description import MANIFEST, PLANS, check_fold, read_description
from samdpo.model.folder import read_plans, trained_folds
from samdpo.names import check_name, same_text
from samdpo.paths import DATASET_NAME, MODEL_SEPARATOR, dataset_name, fold_folder, model_parts, results_root
from samdpo.selection.postprocessing import FILE as POSTPROCESSING
from samdpo.selection.trained import TrainedModel
from samdpo.training.checkpoints import BEST, FINAL

log = logging.getLogger(__name__)

LIST = "samdpo_model.json"
KINDS = (".json", ".safetensors")  # of files; none of them can be run
_OF_A_MODEL = (PLANS, "dataset.json", POSTPROCESSING)
_OF_A_FOLD = (FINAL, BEST, MANIFEST, PLANS, "model.json", "cost.json", "prompter/*")
_LARGEST_JSON = 64 << 20  # bytes; it is read into memory
_INFLATES = 50  # times; weights hardly shrink, and JSON to a tenth
_WHEN = (1980, 1, 1, 0, 0, 0)  # the same model gives the same zip, bit for bit
_REMEDY = "Nothing of it was kept. Get the file once more from whoever made it with samdpo_export_model."


def export_model(models: Sequence[Path], file: Path, folds: Sequence[str] | None = None) -> list[str]:
    """Write trained models into one zip.

    Args:
        models: model folders. Each predicts alone: a model of ``align`` does not need that of ``finetune``.
        file: the zip; it ends in ``.zip``.
        folds: of each model; None for those that are trained.

    Returns:
        Names of the files in it.

    Raises:
        ModelFolderError: a fold is not trained or damaged, or is one of nnU-Net's own.
        ConfigurationError: two of the models have the same name, or the zip cannot be written.
    """
    if file.suffix != ".zip":
        raise ConfigurationError(f"-o {file} does not end in .zip.")
    parts: dict[str, Path] = {}
    for model in models:
        found = _parts(model, folds)
        if parts.keys() & found.keys():
            raise ConfigurationError(f"{model} is named twice, or has the same name as another of the models.")
        parts |= found
    listed = {}
    with atomic_path(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, path in parts.items():
            with path.open("rb") as source, archive.open(_entry(name), "w", force_zip64=True) as target:
                listed[name] = {"sha256": _copy(source, target), "bytes": path.stat().st_size}
        archive.writestr(_entry(LIST), json.dumps({"version": 1, "files": listed}, indent=2))
    return [*listed, LIST]


def import_model(file: Path, overwrite: bool = False) -> list[Path]:
    """Unpack the models of a zip of :func:`export_model` into nnUNet_results, all of them or none.

    Args:
        file: the zip.
        overwrite: replace models of the same names, with all their folds.

    Returns:
        The model folders.

    Raises:
        ConfigurationError: a model of that name is there; nnUNet_results is not set.
        ModelFolderError: the zip is damaged, or holds what has no place in one.
    """
    root = results_root(writable=True)
    if not file.is_file():
        raise ConfigurationError(f"{file} is not a file; expected a zip that samdpo_export_model wrote.")
    with _in_a_sentence(file), zipfile.ZipFile(file) as archive:
        members = _members(archive, file)
        listed = _listed(archive, members, file)
        places = {name: name.split("/") for name in listed}
        targets = {(dataset, model): root / dataset / model for dataset, model, *_ in places.values()}
        _refuse_there(targets.values(), overwrite)
        made = [target.parent for target in targets.values() if not target.parent.exists()]
        try:
            with ExitStack() as stack:
                folders = {key: stack.enter_context(atomic_folder(target)) for key, target in targets.items()}
                for name, known in listed.items():
                    dataset, model, *rest = places[name]
                    _unpack(archive, members[name], folders[dataset, model].joinpath(*rest), known, file)
                for key, folder in folders.items():
                    _check_model(folder, *key, file)
                _refuse_there(targets.values(), overwrite)  # meanwhile
        except BaseException:
            for folder in made:
                with suppress(OSError):  # not there, or somebody else has put something in
                    folder.rmdir()
            raise
    return list(targets.values())


def prediction_command(model: Path) -> str:
    """What to type to predict with a model of nnUNet_results; by its folder where its dataset's id is another's too."""
    found = TrainedModel(model, *model_parts(model.name))
    try:
        dataset_name(found.number)
    except ConfigurationError as error:
        log.warning("%s", error)
        return shlex.join(["samdpo_predict", "-i", "IMAGES", "-o", "PREDICTIONS", "-m", str(model)])
    return found.predict_command(found.trained_folds(), "PREDICTIONS")


def _parts(model: Path, folds: Sequence[str] | None) -> dict[str, Path]:
    """Name in the zip -> file, of one model."""
    plans, trained = read_plans(model), trained_folds(model, FINAL)
    chosen = list(dict.fromkeys(folds)) if folds else trained
    if not chosen or set(chosen) - set(trained):
        raise ModelFolderError(
            f"{model} has no trained fold {', '.join(sorted(set(chosen) - set(trained)))}; trained folds: "
            f"{', '.join(trained) or 'none'}. Train them first, or name others with -f."
        )
    described = {}
    for fold in chosen:
        check_fold(fold_folder(model, fold))
        described = read_description(fold_folder(model, fold) / "model.json")
        if "nnunetv2" in described:
            raise ModelFolderError(f"{model} is a model of nnU-Net's own, whose files are pickles. Export it with "
                                   "nnUNetv2_export_model_to_zip.")
    if described.get("custom_architecture") and class_name(described["trainer"]) not in OURS["trainer"]:
        log.warning("%s has an architecture of its own: whoever predicts with it needs the class %s, which is code and "
                    "is not exported.", model.name, described["trainer"])
    name = MODEL_SEPARATOR.join((class_name(described["trainer"]), plans.plans_name, described["stage"]))
    files = [model / part for part in _OF_A_MODEL]
    for fold in chosen:
        files += [file for pattern in _OF_A_FOLD for file in sorted(fold_folder(model, fold).glob(pattern))]
    there = {f"{plans.dataset_name}/{name}/{f.relative_to(model).as_posix()}": f for f in files if f.is_file()}
    for of in there:
        if Path(of).suffix not in KINDS:
            raise ModelFolderError(f"{there[of]} is not data of a model ({' or '.join(KINDS)}). Move it away.")
    return there


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _WHEN)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(".json") else zipfile.ZIP_STORED
    return entry


def _copy(source: IO[bytes], target: IO[bytes], most: int | None = None) -> str:
    """Copy a stream, at most so many bytes and one; its SHA-256."""
    digest, done = hashlib.sha256(), 0
    while (most is None or done <= most) and (block := source.read(1 << 20)):
        digest.update(block)
        target.write(block)
        done += len(block)
    return digest.hexdigest()


@contextmanager
def _in_a_sentence(file: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
        raise ModelFolderError(f"{file} is no whole zip ({error or type(error).__name__}). {_REMEDY}") from error


def _members(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name, nothing of them read yet.

    Raises:
        ModelFolderError: a name that leads elsewhere, something else than a file, another kind of file than a model
            has, or sizes that no model has.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in archive.infolist():
        name, what = info.orig_filename, f"{file}: {info.orig_filename[:80]!r}"
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG) or info.flag_bits & 1:
            raise ModelFolderError(f"{what} is a link, a device or encrypted; a model is plain files. {_REMEDY}")
        for part in name.removesuffix("/").split("/"):
            check_name(part, f"{file}: a part of {name[:80]!r}", ModelFolderError, _REMEDY)
        if name.endswith("/"):
            continue
        dataset, model, *rest = name.split("/") if "/" in name else ("", "")
        if name != LIST and not (DATASET_NAME.match(dataset) and model_parts(model) and rest):
            raise ModelFolderError(f"{what} does not lie in DatasetXXX_Name/TRAINER__PLANS__STAGE. {_REMEDY}")
        if Path(name).suffix not in KINDS:
            raise ModelFolderError(f"{what} is no file of a model, which are {' and '.join(KINDS)}: it might be run, "
                                   f"or unpickled. {_REMEDY}")
        if name.endswith(".json") and info.file_size > _LARGEST_JSON:
            raise ModelFolderError(f"{what} says it has {info.file_size} bytes; no JSON of a model has. {_REMEDY}")
        if same_text(name).casefold() in seen:  # one file on Windows and macOS
            raise ModelFolderError(f"{what} is in it twice. {_REMEDY}")
        seen.add(same_text(name).casefold())
        members[name] = info
    total, size = sum(info.file_size for info in members.values()), file.stat().st_size
    if total > _INFLATES * size:
        raise ModelFolderError(f"{file} has {size} bytes and says it holds {total}, as no model does. {_REMEDY}")
    return members


def _listed(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], file: Path
) -> dict[str, dict[str, Any]]:
    """Name -> what the zip's own list knows of a file; it names each file and no other."""
    if LIST not in members:
        raise ModelFolderError(f"{file} has no {LIST}, so samdpo_export_model did not write it. {_REMEDY}")
    content = parse_json(archive.read(LIST), f"{file}: {LIST}", error=ModelFolderError, remedy=_REMEDY)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files or not all(
        isinstance(one, dict) and isinstance(one.get("sha256"), str) and isinstance(one.get("bytes"), int)
        for one in files.values()
    ):
        raise ModelFolderError(f"{file}: {LIST} does not list the files of a model. {_REMEDY}")
    for name in sorted(files.keys() ^ (members.keys() - {LIST})):
        where = "is listed and not there" if name in files else "is there and not listed"
        raise ModelFolderError(f"{file}: {name[:80]!r} {where}. {_REMEDY}")
    for name, known in files.items():
        if known["bytes"] != members[name].file_size:
            raise ModelFolderError(f"{file}: {name!r} has {members[name].file_size} bytes, expected {known['bytes']}. "
                                   f"{_REMEDY}")
    return files


def _refuse_there(targets: Collection[Path], overwrite: bool) -> None:
    for target in targets:
        if target.exists() and not overwrite:
            raise ConfigurationError(f"{target} is there already. --overwrite replaces it, with all its folds.")
        for fold in target.glob("fold_*"):
            with locked(target / f".{fold.name}.lock", busy=f"{fold} is being trained or validated at this moment. "
                        "Wait until it has ended, or end it."):
                pass


def _unpack(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, known: Mapping[str, Any], file: Path
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, target.open("xb") as out:
        found = _copy(source, out, known["bytes"])
    if found != known["sha256"] or target.stat().st_size != known["bytes"]:
        raise ModelFolderError(f"{file}: {info.filename!r} is damaged: it does not have the SHA-256 that the list "
                               f"says. {_REMEDY}")


def _check_model(folder: Path, dataset: str, model: str, file: Path) -> None:
    """Whether what was unpacked is a model: JSON is JSON, weights are safetensors, and every fold is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        for path in folder.rglob("*.json"):
            read_json(path, error=ModelFolderError)
        for path in folder.rglob("*.safetensors"):
            try:
                with safe_open(path, framework="np"):
                    pass
            except (SafetensorError, OSError) as error:
                raise ModelFolderError(f"{path} is not safetensors ({error}).") from error
        plans, folds = read_plans(folder), trained_folds(folder, FINAL)
        if plans.dataset_name != dataset:
            raise ModelFolderError(f"{folder / PLANS} is of {plans.dataset_name}.")
        if not folds:
            raise ModelFolderError(f"{folder} has no fold with {FINAL}.")
        for fold in folds:
            check_fold(fold_folder(folder, fold))
            read_description(fold_folder(folder, fold) / "model.json")
    except SamdpoError as error:
        said = str(error).replace(f"{folder}", f"{dataset}/{model}")
        raise ModelFolderError(f"{file} holds no model that can be used: {said} {_REMEDY}") from error
