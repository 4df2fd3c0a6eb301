"""Imports what commands import while they run, and starts no thread, so that a fork of the process is whole."""

from __future__ import annotations

import importlib
import pkgutil

import torch

import samdpo

torch.set_num_threads(1)
for found in pkgutil.walk_packages(samdpo.__path__, "samdpo."):
    if ".migrations" not in found.name:  # scripts that alembic runs
        importlib.import_module(found.name)
