"""Prompts that another stage of the same fold has refitted already, to the same masks."""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from samdpo.errors import ConfigurationError
from samdpo.files import link_file, temporary_beside
from samdpo.prompting.prompt_store import PromptStore
from samdpo.training.fold_data import own_prompts

log = logging.getLogger(__name__)

FIGURE = "places.png"


def copy_from_sibling(
    store: PromptStore, fold_folder: Path, plans_name: str, is_whole: Callable[[PromptStore], bool]
) -> bool:
    """Put a sibling stage's prompts of the same key where ``store`` is, and its figure beside them.

    Stages that learn from the same choice of places would refit the same prompts for minutes. Files are linked where
    the disk can: prompt files are only ever replaced whole. The copy is renamed when it is complete, so that it is
    there or not at all, whatever the sibling does meanwhile.

    Args:
        store: with the wanted key; its folder does not exist.
        fold_folder: ``TRAINER__PLANS__STAGE/fold_X`` whose prompts they are.
        plans_name: of the siblings: ``*__PLANS__*/fold_X``.
        is_whole: whether a store has the prompts of every case, and the prompter that made them.

    Returns:
        whether one was found.
    """
    temporary = temporary_beside(store.folder)
    for sibling in sorted(fold_folder.parent.parent.glob(f"*__{glob.escape(plans_name)}__*/{fold_folder.name}")):
        theirs = PromptStore(own_prompts(sibling), store.key)
        if sibling == fold_folder or not is_whole(theirs):
            continue
        try:
            shutil.copytree(theirs.folder, temporary, copy_function=link_file)
            if not is_whole(PromptStore(temporary, store.key)):
                continue
            os.replace(temporary, store.folder)
            if (sibling / FIGURE).is_file():
                link_file(sibling / FIGURE, fold_folder / FIGURE)
        except (OSError, ConfigurationError) as error:  # the sibling's were removed meanwhile, or the disk is full
            log.warning("The prompts in %s could not be copied: %s", theirs.folder, error)
            continue
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        log.info("%s has prompts refitted to the same choice of places; they are taken over.", theirs.folder)
        return True
    return False
