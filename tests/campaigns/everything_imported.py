"""Imports and reads what every command needs while it runs, and starts no thread: a fork of the process is whole."""

from __future__ import annotations

import importlib
import pkgutil

import torch

import samdpo
from samdpo.prompting.text_encoder import shared_text_encoder

torch.set_num_threads(1)
for found in pkgutil.walk_packages(samdpo.__path__, "samdpo."):
    if ".migrations" not in found.name:  # scripts that alembic runs
        importlib.import_module(found.name)
shared_text_encoder().encode(["lungs"])  # reads its weights, which every run would read again
