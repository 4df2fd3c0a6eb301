"""What to type to predict new images with the model, or the two, that did best."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from samdpo.selection.postprocessing import FILE as POSTPROCESSING_FILE
from samdpo.selection.postprocessing import Postprocessing

if TYPE_CHECKING:
    from samdpo.selection.find_best import Contestant

OUTPUT = "PREDICTIONS"


def instructions(best: Contestant, post: Postprocessing, folds: Sequence[str], n_cases: int) -> str:
    """The commands with a sentence before each step.

    Args:
        best: the winner.
        post: whether largest parts help it.
        folds: to predict with.
        n_cases: it was measured on.
    """
    names = " and ".join(model.name for model in best.models)
    what = f"the ensemble of {names}" if len(best.models) > 1 else names
    lines = [f"Best on {n_cases} validation cases of fold {', '.join(folds)}: {what}, Dice {best.dice:.4f}.", "",
             "Predict your folder IMAGES:", ""]
    if len(best.models) == 1:
        lines.append(best.models[0].predict_command(folds, OUTPUT))
    else:
        outputs = [f"{OUTPUT}_{number}" for number in range(1, len(best.models) + 1)]
        for model, output in zip(best.models, outputs):
            lines.append(model.predict_command(folds, output, "--save_probabilities"))
        lines.append(f"samdpo_ensemble -i {' '.join(outputs)} -o {OUTPUT}")
    lines.append("")
    if post.helped:
        file = shlex.quote(str(best.folder / POSTPROCESSING_FILE))
        lines += [f"Then keep only the largest part of {_effects(post)}:", "",
                  f"samdpo_apply_postprocessing -i {OUTPUT} -o {OUTPUT}_PP -pp_file {file}"]
    else:
        lines.append("No postprocessing: keeping only the largest part of a structure raises no Dice.")
    return "\n".join(lines) + "\n"


def _effects(post: Postprocessing) -> str:
    return ", ".join(f"{name} (Dice {e.dice_before:.4f} -> {e.dice_after:.4f})" for name, e in post.helped.items())
