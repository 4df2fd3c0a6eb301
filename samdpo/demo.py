"""The whole method on phantoms: the same functions the commands call, in the order a user would type them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.errors import ConfigurationError
from samdpo.files import write_json

log = logging.getLogger(__name__)

DATASETS = {"xray": "Dataset901_PhantomXray", "ultrasound": "Dataset902_PhantomUltrasound"}
STAGES = ("finetune", "align")
METRICS = ("Dice", "IoU", "SurfaceDice")


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does.

    Attributes:
        cases: annotated phantoms of each kind, of which a fold trains on four fifths; lungs need fewer, since they are
            never elsewhere.
        labelled: share of the fold's training cases whose annotation is used; the others are unlabelled.
        test: unseen phantoms of each kind predicted at the end.
        finetune_epochs: of stage 1.
        warm_up_steps: of stage 1, whose epoch has two or three steps.
        align_epochs: of stage 2.
        tower_steps: of the image-text model's fit.
        backbone: of the plan.
        frozen_stages: leading stages of the encoder that stage 1 leaves alone; what they make of a slice is kept.
        proposal_grid: sides of the grid on which proposals are decoded, half of LiteMedSAM's.
        mirror: whether the prediction of the mirror image is averaged in, which doubles its time.
    """

    cases: Mapping[str, int] = field(default_factory=lambda: {"xray": 12, "ultrasound": 25})
    labelled: float = 0.3
    test: int = 10
    finetune_epochs: Mapping[str, int] = field(default_factory=lambda: {"xray": 3, "ultrasound": 6})
    warm_up_steps: int = 6
    align_epochs: int = 3
    tower_steps: int = 100
    backbone: str = "lite_medsam"
    frozen_stages: int = 2
    proposal_grid: int = 32
    mirror: bool = False


def run_demo(folder: Path, kinds: Sequence[str], seed: int, size: DemoSize, processes: int) -> dict[str, Any]:
    """Make phantoms, plan, prompt, finetune, align, predict unseen phantoms, evaluate, draw.

    Args:
        folder: for nnU-Net's three folders, the table and the figure.
        kinds: ``xray`` and/or ``ultrasound``.
        seed: of the phantoms.
        size: how much to do.
        processes: for case-level work.

    Returns:
        ``{kind: {stage: {metric: mean over the unseen phantoms}}}``; also written to ``demo.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str((folder / variable).resolve())
        Path(os.environ[variable]).mkdir(exist_ok=True)
    started, table, rows = time.perf_counter(), {}, []
    for kind in kinds:
        if kind not in DATASETS:
            raise ConfigurationError(f"The demo knows {', '.join(DATASETS)}; found {kind!r}.")
        table[kind], drawn = _run_kind(kind, seed, size, processes)
        rows += drawn
    from samdpo.evaluation.figures import demo_figure

    demo_figure(rows, folder / "demo.png")
    result = {"seconds": round(time.perf_counter() - started, 1), "seed": seed, "scores": table}
    write_json(folder / "demo.json", result)
    return result


def _run_kind(kind: str, seed: int, size: DemoSize, processes: int) -> tuple[dict[str, dict[str, float]], list[Any]]:
    from samdpo.dataset.phantoms import make_phantom_dataset
    from samdpo.evaluation.summary import evaluate_folder
    from samdpo.inference.predict_folder import predict_folder
    from samdpo.networks.device import hand_back_memory
    from samdpo.paths import raw_folder
    from samdpo.planning.plan_and_preprocess import plan_and_preprocess
    from samdpo.training.get_trainer import get_trainer

    name = DATASETS[kind]
    log.info("== %s: phantoms ==", name)
    raw = Path(os.environ["nnUNet_raw"]) / name
    if not (raw / "dataset.json").is_file():
        make_phantom_dataset(kind, raw, n_labelled=size.cases[kind], n_unlabelled=0, n_test=size.test, seed=seed)
    log.info("== %s: plan and preprocess ==", name)
    plan_and_preprocess(name, labelled=size.labelled, processes=processes)
    everywhere = [
        f"prompting.tower_steps={size.tower_steps}", f"network.backbone={size.backbone}",
        f"network.frozen_stages={size.frozen_stages}", f"inference.mirror={str(size.mirror).lower()}",
        f"prompting.proposal_grid={size.proposal_grid}",
    ]
    epochs = {"finetune": size.finetune_epochs[kind], "align": size.align_epochs}
    scores, masks = {}, {}
    for stage in STAGES:
        log.info("== %s: %s ==", name, stage)
        settings = [*everywhere, f"epochs={epochs[stage]}"]
        if stage == "finetune":
            settings.append(f"lr_warm_up_steps={size.warm_up_steps}")
        if stage == "align":  # embeddings of the mirror images would take as long as everything else
            settings.append("augmentation.flip=false")
        trainer = get_trainer(name, stage, 0, overrides=settings, processes=processes)
        trainer.train(resume=True)
        output = trainer.folder / "imagesTs"
        predict_folder(raw_folder(name) / "imagesTs", output, trainer.folder, folds=["0"])
        summary = evaluate_folder(raw_folder(name) / "labelsTs", output, raw / "dataset.json", processes=processes)
        scores[stage] = {metric: float(summary["foreground_mean"][metric]) for metric in METRICS}
        masks[stage] = output
        hand_back_memory()  # typed one by one, commands begin with what they need
    return scores, _figure_rows(raw, masks, trainer.folder)


def _figure_rows(raw: Path, masks: dict[str, Path], model: Path, n_rows: int = 2) -> list[Any]:
    """The first unseen phantoms: image, saliency, coarse mask with prompts, both stages' masks and the truth."""
    from samdpo.dataset.cases import input_cases
    from samdpo.dataset.images import read_image, read_label
    from samdpo.evaluation.figures import DemoRow
    from samdpo.model.folder import read_plans
    from samdpo.preprocessing.preprocess import prepare_slices
    from samdpo.prompting.prompter import Prompter

    plans = read_plans(model)
    prompter = Prompter.load(model / "fold_0" / "prompter")
    rows = []
    for case in input_cases(raw / "imagesTs", plans.file_ending, 1)[:n_rows]:
        slices, geometry = prepare_slices(read_image(list(case.images), n_channels=1).data, plans)
        prompt = prompter.prompt(slices[0])[0]
        truth = read_label(raw / "labelsTs" / f"{case.identifier}{plans.file_ending}")
        predicted = {s: read_label(f / f"{case.identifier}{plans.file_ending}") for s, f in masks.items()}
        to_grid = {k: geometry.label_to_slices(v)[0] > 0 for k, v in {**predicted, "truth": truth}.items()}
        probability = 1 / (1 + np.exp(-prompt.saliency.astype(np.float32)))
        rows.append(
            DemoRow(title=case.identifier, image=slices[0][0], saliency=probability,
                    coarse_mask=prompt.coarse_mask, boxes=prompt.boxes, points=prompt.points,
                    finetuned=to_grid["finetune"], aligned=to_grid["align"], truth=to_grid["truth"])
        )
    return rows
