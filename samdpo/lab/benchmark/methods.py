"""The methods that are compared: what each learns from, who must do what for it, and where its masks lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from samdpo.errors import ConfigurationError


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes:
        name: as typed after ``--methods``.
        stage: configuration of the plan that trains it.
        title: what a table calls it.
        learns_from: ``masks`` of the labelled images; ``images``: also the unlabelled images; ``judgements``: also
            what an annotator says of candidates on them.
        after: stage that must be finished first, or None.
        all_labels: whether it sees the masks of all training cases, whatever ``--labelled`` says.
        truth_prompt: whether the prompt of a test image comes from its truth. Such numbers stand apart.
        ndims: of the data sets it suits: 2 for pictures, 3 for volumes.
        validation: folder of the fold that holds the masks of the test cases.
        needs_prompts: whether the fold's prompts from text are made first.
        companion_of: method that is trained for this row too; only the prompt at test differs.
        plans_suffix: of the plan's name in the model folder, behind the benchmark's own.
        file_suffix: of the plan's file.
    """

    name: str
    stage: str
    title: str
    learns_from: Literal["masks", "images", "judgements"] = "masks"
    after: str | None = None
    all_labels: bool = False
    truth_prompt: bool = False
    ndims: tuple[int, ...] = (2, 3)
    validation: str = "validation"
    needs_prompts: bool = True
    companion_of: str | None = None
    plans_suffix: str = ""
    file_suffix: str = ""

    @property
    def needs_unlabelled(self) -> bool:
        """Whether there is nothing to train where every training case is labelled."""
        return self.learns_from != "masks"

    @property
    def competes(self) -> bool:
        """Whether it has the same labels as the others and needs nobody at test, so that ranks and tests are fair."""
        return not (self.all_labels or self.truth_prompt)


def _baseline(name: str, title: str, **more: Any) -> Method:
    return Method(name, name, title, needs_prompts=False, **more)


def _with_truth(of: Method, prompt: str) -> Method:
    """The same network, prompted by the truth of the test image."""
    return replace(of, name=f"{of.name}_truth_{prompt}", title=f"{of.title}, truth's {prompt} at test",
                   truth_prompt=True, validation=f"validation_truth_{prompt}", companion_of=of.name)


_SAM = _baseline("sam", "SAM, LoRA")  # one that has seen no medical image
_MEDICAL_SAM = _baseline("sam_med2d", "Medical SAM, LoRA")  # the paper's SAM-Med2D; here the plan's own network
_SAM_3D = _baseline("sam_med3d", "SAM-Med3D", ndims=(3,))

_ROWS = (
    _baseline("unet", "U-Net"),
    _baseline("nnunet", "nnU-Net"),
    _SAM,
    _with_truth(_SAM, "box"),
    _MEDICAL_SAM,
    _with_truth(_MEDICAL_SAM, "box"),
    _SAM_3D,
    _with_truth(_SAM_3D, "click"),
    _baseline("self_prompt", "Self-prompt"),
    Method("finetune", "finetune", "Ours, stage 1 (finetune)"),
    Method("self_training", "align_self_training", "Self-training", "images", "finetune"),
    Method("mean_teacher", "mean_teacher", "Mean teacher", "images", "finetune"),
    Method("fixmatch", "fixmatch", "FixMatch", "images", "finetune"),
    Method("best_candidate", "align_best_candidate", "Best candidate", "judgements", "finetune"),
    Method("align", "align", "Ours (align)", "judgements", "finetune"),
    _baseline("prompt_only", "Prompt-only, all labels", all_labels=True),  # makes prompts of its own
)
METHODS: dict[str, Method] = {method.name: method for method in _ROWS}


def chosen_methods(names: Sequence[str] | None) -> list[Method]:
    """The methods called ``names`` with their companions, in the order of the tables; all of them where None.

    Raises:
        ConfigurationError: there is no such method; the message lists the names.
    """
    trained = [method.name for method in _ROWS if method.companion_of is None]
    for name in names or ():
        if name not in trained:
            known = METHODS.get(name)
            hint = f" It is a row of {known.companion_of!r}; name that." if known else ""
            raise ConfigurationError(f"--methods names {name!r}.{hint} The methods are: {', '.join(trained)}.")
    wanted = set(names or trained)
    return [method for method in _ROWS if (method.companion_of or method.name) in wanted]


def suits(method: Method, ndim: int, everything_labelled: bool) -> bool:
    """Whether a method can be trained.

    Args:
        method: to train.
        ndim: of the data set: 2 for pictures, 3 for volumes.
        everything_labelled: whether no training case is left unlabelled.
    """
    return ndim in method.ndims and not (method.needs_unlabelled and everything_labelled)
