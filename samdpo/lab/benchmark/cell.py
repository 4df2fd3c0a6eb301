"""A cell of a benchmark: one share of labels and one seed, with folders of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """Everything that is trained with the same labelled cases.

    Attributes:
        root: the benchmark's folder.
        labelled: share of each fold's training cases whose labels are used.
        seed: of the choice of labelled cases and of training.
        unlabelled: share of the training cases taken as unlabelled; None for all the rest.
    """

    root: Path
    labelled: float
    seed: int
    unlabelled: float | None = None

    @property
    def name(self) -> str:
        """``labelled_0.1/seed_1`` or ``labelled_0.1_unlabelled_0.2/seed_1``."""
        rest = "" if self.unlabelled is None else f"_unlabelled_{self.unlabelled:g}"
        return f"labelled_{self.labelled:g}{rest}/seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """The cell's own folder."""
        return self.root / self.name

    @property
    def preprocessed(self) -> Path:
        """``nnUNet_preprocessed`` of the cell: splits, plans, prompts; slices are links."""
        return self.folder / "preprocessed"

    @property
    def results(self) -> Path:
        """``nnUNet_results`` of the cell."""
        return self.folder / "results"

    @property
    def logs(self) -> Path:
        """One log a command, and beside it what the command cost."""
        return self.folder / "logs"

    def model_folder(self, dataset: str, trainer: str, plans: str, stage: str) -> Path:
        """``results/DATASET/TRAINER__PLANS__STAGE``, as nnU-Net names it."""
        return self.results / dataset / f"{trainer}__{plans}__{stage}"
