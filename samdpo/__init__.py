"""samdpo: medical image segmentation from few annotations and many unannotated images.

The commands' verbs are functions, see :mod:`samdpo.api`: :func:`plan`, :func:`preprocess`, :func:`train`,
:func:`predict`, :func:`evaluate`. A name is imported when it is first asked for, so that ``import samdpo`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AlignTrainer",
    "FinetuneTrainer",
    "Predictor",
    "SamdpoError",
    "Trainer",
    "__version__",
    "evaluate",
    "load_plans",
    "plan",
    "predict",
    "preprocess",
    "train",
]
_MODULES = {  # of names that are not in samdpo.api
    "AlignTrainer": "samdpo.align.trainer",
    "FinetuneTrainer": "samdpo.training.finetune",
    "Predictor": "samdpo.model.predictor",
    "SamdpoError": "samdpo.errors",
    "Trainer": "samdpo.training.trainer",
    "load_plans": "samdpo.plans",
}

if TYPE_CHECKING:
    from samdpo.align.trainer import AlignTrainer
    from samdpo.api import evaluate, plan, predict, preprocess, train
    from samdpo.errors import SamdpoError
    from samdpo.model.predictor import Predictor
    from samdpo.plans import load_plans
    from samdpo.training.finetune import FinetuneTrainer
    from samdpo.training.trainer import Trainer


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'samdpo' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(_MODULES.get(name, "samdpo.api")), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
