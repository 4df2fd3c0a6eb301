"""Memory that runs out, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from samdpo.errors import TrainingError
from samdpo.plans import StagePlan


@contextmanager
def saying_what_to_make_smaller(stage: StagePlan) -> Iterator[None]:
    """Around the steps of a stage: memory that runs out in them becomes a sentence.

    Raises:
        TrainingError: names the keys of the stage to change.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        of_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
        if not of_gpu and not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        sizes = {key: getattr(stage, key) for key in ("batch_size", "labelled_per_step")}
        smaller = [f"{key}={size // 2}" for key, size in sizes.items() if size > 1]
        advice = " ".join(smaller) or "network.train=decoder"
        raise TrainingError(
            f"The memory of the {'GPU' if of_gpu else 'machine'} ran out in a step of "
            f"{' and '.join(f'{key}={size}' for key, size in sizes.items())}. Train again without --c and with less in "
            f"a step: --set {advice}"
        ) from error
