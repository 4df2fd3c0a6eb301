"""Where the preference database of a dataset is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from samdpo.paths import dataset_name, results_root

if TYPE_CHECKING:
    from samdpo.annotate.database.database import PreferenceDatabase

VARIABLE = "samdpo_database"
FILE = "preferences.sqlite"


def default_database_url(dataset: int | str) -> str:
    """``sqlite:///…/nnUNet_results/DatasetXXX_Name/preferences.sqlite`` of a dataset given by id or name."""
    return f"sqlite:///{results_root() / dataset_name(dataset) / FILE}"


def database_url(dataset: int | str, given: str | None = None) -> str:
    """The URL to use: ``given`` (a command's ``--database``), else the variable ``samdpo_database``, else the default.

    Args:
        dataset: id or name.
        given: SQLAlchemy URL, for example ``postgresql+psycopg://user@host/name``.
    """
    return given or os.environ.get(VARIABLE) or default_database_url(dataset)


def people_of(dataset: str) -> PreferenceDatabase:
    """What people have said about a dataset so far; training finds it by this function's name."""
    from samdpo.annotate.database.database import PreferenceDatabase  # opening one takes SQLAlchemy

    return PreferenceDatabase.open(database_url(dataset), create=False)
