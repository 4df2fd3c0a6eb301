"""Where things lie: nnU-Net's three folders, datasets by id or name, model folders.

Environment variables are read when a path is asked for, never at import, so that a program may set them late.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from samdpo.errors import ConfigurationError
from samdpo.names import check_name

DATASET_NAME = re.compile(r"^Dataset(\d{3})_(.+)$")
PLANS_NAME = "samdpoPlans"
EMBEDDINGS = f"{PLANS_NAME}_embeddings"  # of frozen encoders; all plans share it, by hashes of what made them
CANDIDATES = "candidates"  # in a fold's folder, the sets that its model has made for people to judge
LATEST_STAGES = ("align", "finetune")  # where several are trained, samdpo_predict takes the first of these
FOLD_ALL = "all"  # trains on every case and validates on the same, as in nnU-Net
MODEL_SEPARATOR = "__"  # nnU-Net: TRAINER__PLANS__CONFIGURATION


def folder_of(variable: str) -> Path | None:
    """The folder an environment variable names, absolute, ``~`` being the home folder; None where it is not set."""
    value = os.environ.get(variable, "").strip()
    return Path(os.path.abspath(os.path.expanduser(value))) if value else None  # a user who is not there stays ~name


def _root(variable: str, *, writable: bool, must_exist: bool = False) -> Path:
    root = folder_of(variable)
    if root is None:
        raise ConfigurationError(
            f"The environment variable {variable} is not set. It names the folder that nnU-Net uses for the same "
            f"purpose; type for example: export {variable}=/data/{variable}"
        )
    if writable:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"{variable} points at {root}, which cannot be created ({error.strerror}). "
                f"Point it at a folder you may write to: export {variable}=/path/you/own"
            ) from error
        if not os.access(root, os.W_OK):
            raise ConfigurationError(
                f"{variable} points at {root}, which is not writable. "
                f"Change its permissions or type: export {variable}=/path/you/own"
            )
    elif (must_exist or root.exists()) and not root.is_dir():
        raise ConfigurationError(
            f"{variable} points at {root}, which is not a folder. Create it or point {variable} elsewhere."
        )
    return root


def raw_root() -> Path:
    """``nnUNet_raw``: one folder ``DatasetXXX_Name`` per raw dataset. Only read."""
    return _root("nnUNet_raw", writable=False, must_exist=True)


def preprocessed_root(*, writable: bool = False) -> Path:
    """``nnUNet_preprocessed``: fingerprint, plans, splits, slices and prompts.

    Args:
        writable: who writes there asks so, and it is created where missing; who reads needs no right to write.
    """
    return _root("nnUNet_preprocessed", writable=writable)


def results_root(*, writable: bool = False) -> Path:
    """``nnUNet_results``: one folder per trained model; ``writable`` as for :func:`preprocessed_root`."""
    return _root("nnUNet_results", writable=writable)


def dataset_name(id_or_name: int | str) -> str:
    """Full name (``Dataset003_Liver``) of a dataset given as ``3``, ``"003"`` or its name.

    Looks in all three folders that are set, so that a preprocessed dataset is found where the raw one is gone.

    Raises:
        ConfigurationError: none or several datasets have this id; the message lists what there is.
    """
    known = known_datasets()
    text = str(id_or_name)
    if text in known:
        return text
    if text.isdecimal():
        matches = sorted(name for name in known if number_of(name) == int(text))
        if len(matches) == 1:
            return matches[0]
        if len(matches) > 1:
            raise ConfigurationError(
                f"Dataset id {int(text)} is used by {len(matches)} datasets: {', '.join(matches)}. "
                "Rename one of the folders, or pass the full name."
            )
    listing = ", ".join(sorted(known)) or "none"
    if not known:
        raw_root()  # raises with the better sentence when nothing is set
    raise ConfigurationError(
        f"There is no dataset {text!r}. Expected an id or a name like Dataset003_Liver; found: {listing}. "
        f"Put its folder under nnUNet_raw ({os.environ.get('nnUNet_raw', 'not set')})."
    )


def number_of(name: str) -> int:
    """Id of a dataset by its full name: 3 of ``Dataset003_Liver``.

    Raises:
        ConfigurationError: no dataset is called so.
    """
    found = DATASET_NAME.match(name)
    if found is None:
        raise ConfigurationError(f"{name!r} is no name of a dataset; expected one like Dataset003_Liver.")
    return int(found.group(1))


def known_datasets() -> set[str]:
    """Names of the dataset folders under the three roots that are set."""
    names: set[str] = set()
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        root = folder_of(variable)
        if root is not None and root.is_dir():
            names |= {p.name for p in root.iterdir() if p.is_dir() and DATASET_NAME.match(p.name)}
    return names


def raw_folder(id_or_name: int | str) -> Path:
    """``nnUNet_raw/DatasetXXX_Name``; raises when it does not exist."""
    folder = raw_root() / dataset_name(id_or_name)
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} does not exist: the dataset is known, but not as raw images.")
    return folder


def preprocessed_folder(id_or_name: int | str, *, writable: bool = False) -> Path:
    """``nnUNet_preprocessed/DatasetXXX_Name`` (may not exist yet)."""
    return preprocessed_root(writable=writable) / dataset_name(id_or_name)


def model_folder(id_or_name: int | str, trainer: str, plans: str, stage: str, *, writable: bool = False) -> Path:
    """``nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__STAGE``, nnU-Net's name for a trained model.

    Raises:
        ConfigurationError: the names, which a plan may hold, are not plain ones.
    """
    for name, what in ((trainer, "The trainer's name"), (plans, "The plan's name"), (stage, "The stage's name")):
        check_name(name, what, ConfigurationError)
    return results_root(writable=writable) / dataset_name(id_or_name) / MODEL_SEPARATOR.join((trainer, plans, stage))


def model_parts(name: str) -> tuple[str, str, str] | None:
    """(trainer, plan, stage) of a model folder's name; the plan's may hold the separator. None of another folder."""
    if name.count(MODEL_SEPARATOR) < 2:
        return None
    trainer, *plans, stage = name.split(MODEL_SEPARATOR)
    return trainer, MODEL_SEPARATOR.join(plans), stage


def plans_option(plans: str) -> str:
    """What a command to type needs where the plan is not the usual one: `` -p mine``."""
    return "" if plans == PLANS_NAME else f" -p {shlex.quote(plans)}"


def is_fold(fold: str) -> bool:
    """Whether a fold may be called so: a number, or ``all``; which numbers there are, the splits say."""
    return fold == FOLD_ALL or fold.isdecimal()


def fold_folder(model: Path, fold: int | str) -> Path:
    """``fold_0`` … or ``fold_all`` inside a model folder."""
    return model / f"fold_{fold}"
