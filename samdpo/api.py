"""The commands' verbs as functions: what ``samdpo.plan``, ``preprocess``, ``train``, ``predict``, ``evaluate`` are.

They read nnU-Net's three environment variables when they are called, as the commands do. What a user can mend is raised
as a :class:`samdpo.SamdpoError`; the process is never ended and no logging is set up. What a command tells goes to the
logger ``samdpo``; of what takes long there are tqdm's bars.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samdpo.paths import PLANS_NAME

if TYPE_CHECKING:
    from samdpo.parallel import Workers
    from samdpo.plans import Plans
    from samdpo.training.trainer import Trainer


def plan(
    dataset: int | str,
    *,
    planner: str = "LitePlanner",
    plans_name: str = PLANS_NAME,
    labelled: float = 1.0,
    unlabelled: float | None = None,
    seed: int = 12345,
    backbone: str | None = None,
    memory_gib: float | None = None,
    verify: bool = False,
    clean: bool = False,
    near_duplicates: bool = True,
    processes: Workers = 1,
    splits: Path | str | None = None,
) -> Plans:
    """Measure a raw dataset, write its plan and its splits; ``samdpo_plan_and_preprocess --no_pp``.

    Args:
        dataset: id or name.
        planner: a name, or ``module:Class``.
        plans_name: of the plan's file.
        labelled: share of each fold's training cases whose labels may be used.
        unlabelled: share of them that counts as unlabelled; None for all the rest. ``imagesUl/`` always counts.
        seed: of the choice of labelled cases and of training.
        backbone: of the network; None for the planner's own.
        memory_gib: of the device to plan for; None looks.
        verify: read and compare every file first.
        clean: measure anew even if nothing has changed.
        near_duplicates: find pictures of one scene, and keep them on one side of every split.
        processes: for case-level work, or an executor.
        splits: file of folds and labelled cases to take, here or in the raw dataset's folder.

    Returns:
        The plan that was written.

    Raises:
        SamdpoError: a variable is not set, the dataset breaks a rule, or there is no such planner or backbone.
    """
    from samdpo.planning.plan_and_preprocess import plan_and_preprocess

    return plan_and_preprocess(
        dataset, planner, plans_name, labelled, unlabelled, seed, processes, verify, preprocess=False, clean=clean,
        memory_gib=memory_gib, backbone=backbone, splits=splits, near_duplicates=near_duplicates,
    )


def preprocess(
    dataset: int | str, *, plans_name: str = PLANS_NAME, clean: bool = False, processes: Workers = 1
) -> Path:
    """Cut the slices of a planned dataset, those that are there are kept; ``samdpo_preprocess``.

    Args:
        dataset: id or name.
        plans_name: of the plan's file.
        clean: throw away the slices that are there.
        processes: for case-level work, or an executor.

    Returns:
        The folder of the slices.

    Raises:
        SamdpoError: there is no such plan, or a case cannot be read.
    """
    from samdpo.planning.plan_and_preprocess import preprocess_planned

    return preprocess_planned(dataset, plans_name, processes, clean).folder


def train(
    dataset: int | str,
    stage: str,
    fold: int | str = 0,
    *,
    trainer: str | type[Trainer] | None = None,
    plans_name: str = PLANS_NAME,
    device: str = "auto",
    pretrained_weights: Path | str | None = None,
    resume: bool = False,
    only_validate: bool = False,
    save_probabilities: bool = False,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    annotator: str | None = None,
    database: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    processes: int = 1,
    workers: int | None = None,
) -> Path:
    """Train one stage of one fold and predict its validation cases; ``samdpo_train``.

    Args:
        dataset: id or name.
        stage: configuration of the plan: ``finetune``, ``align``, or your own.
        fold: 0 to 4, or ``all``.
        trainer: class, class name, or ``module:Class``; None for the plan's.
        plans_name: of the plan's file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        pretrained_weights: file of weights to start from, ours or as published.
        resume: continue from the latest checkpoint.
        only_validate: only predict the validation cases again.
        save_probabilities: of the validation cases.
        epochs: instead of the plan's.
        lr: instead of the plan's.
        seed: instead of the plan's.
        annotator: of ``align``: who ranks, ``virtual``, ``recorded`` or ``mixed``; None for the plan's.
        database: URL of people's judgements, instead of ``preferences.sqlite`` in the dataset's results.
        overrides: any key of the plan, ``{"loss.reduction": "sum"}``, or as ``--set`` takes them.
        processes: for comparing the validation cases with the truth.
        workers: processes that make training samples; None for ``nnUNet_n_proc_DA``, else none on a CPU and on a GPU
            one a core, at most 8.

    Returns:
        The model's folder, which :func:`predict` and :meth:`samdpo.Predictor.from_model_folder` take.

    Raises:
        SamdpoError: with a sentence that says what is to be done first.
    """
    from samdpo.annotate.database.locate import VARIABLE
    from samdpo.training.get_trainer import get_trainer

    typed = {"epochs": epochs, "lr": lr, "seed": seed, "annotator.kind": annotator}
    texts = [f"{key}={value}" for key, value in typed.items() if value is not None]
    if isinstance(overrides, Mapping):
        texts += [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    else:
        texts += overrides
    weights = None if pretrained_weights is None else Path(pretrained_weights)
    with _variable(VARIABLE, database):
        made = get_trainer(dataset, stage, fold, trainer, plans_name, device, texts, weights, processes, workers)
        made.train(resume, only_validate, save_probabilities)
    return made.folder


def predict(
    source: Path | str,
    output: Path | str,
    model: Path | str | None = None,
    *,
    dataset: int | str | None = None,
    trainer: str | None = None,
    plans_name: str | None = None,
    stage: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = "checkpoint_final",
    device: str = "auto",
    mirror: bool = True,
    save_probabilities: bool = False,
    continue_prediction: bool = False,
    dicom_seg: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    dask: str | None = None,
) -> list[Path]:
    """Segment a folder of images without any prompt from a person; ``samdpo_predict``.

    For single images in memory, and for a person's own prompts, see :class:`samdpo.Predictor`.

    Args:
        source: folder with images, one image, a DICOM series, or a folder with one sub-folder a series.
        output: folder for masks, reports and probabilities.
        model: model folder; None for the trained model that the next four, or there being only one, tell.
        dataset: id or name.
        trainer: class name; of a class with an architecture of its own ``module:Class``.
        plans_name: of the plan.
        stage: of the plan, for example ``finetune``.
        folds: to average over; None for those that are trained.
        checkpoint: ``checkpoint_final`` or ``checkpoint_best``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        mirror: average with the mirror image where the plan says so.
        save_probabilities: also write ``case.npz``.
        continue_prediction: keep masks that this model made of these images.
        dicom_seg: of DICOM also write ``case.dcm``.
        num_parts: divide the cases into so many parts, of which one is predicted.
        part_id: which part: 0 to ``num_parts`` - 1.
        dask: address or file of a Dask scheduler whose workers predict.

    Returns:
        The masks that were written; beside each ``case.json``, its report.

    Raises:
        SamdpoError: no such model, or some images could not be predicted, which does not stop the others.
    """
    from samdpo.dask_cluster import DaskCluster
    from samdpo.inference.predict_folder import predict_folder, refuse_another_model
    from samdpo.model.folder import find_model

    if model is None:
        folder = find_model(dataset, trainer, plans_name, stage)
    else:
        folder = Path(model)
        refuse_another_model(folder, None if dataset is None else str(dataset), plans_name, stage)
    with DaskCluster(dask) if dask else nullcontext() as cluster:
        return predict_folder(
            Path(source), Path(output), folder, None if folds is None else [str(fold) for fold in folds], checkpoint,
            device, save_probabilities, continue_prediction, mirror, dicom_seg, num_parts, part_id,
            executor=cluster, trainer=trainer,
        )


def evaluate(
    references: Path | str,
    predictions: Path | str,
    dataset_json: Path | str | None = None,
    *,
    output: Path | str | None = None,
    chill: bool = False,
    voxels: bool = False,
    presence_figure: Path | str | None = None,
    processes: Workers = 1,
) -> dict[str, Any]:
    """Compare predicted label maps with true ones and write ``summary.json``; ``samdpo_evaluate_folder``.

    Args:
        references: folder of true label maps.
        predictions: folder of predicted ones of the same names.
        dataset_json: names of labels and file ending; None for the one beside the predictions, which
            :func:`predict` puts there.
        output: file to write; None for ``summary.json`` beside the predictions.
        chill: evaluate what is predicted, even if files are missing.
        voxels: measure surfaces in voxels whatever the spacing.
        presence_figure: PNG or PDF to draw of what the presence threshold trades; None draws none.
        processes: for case-level work, or an executor.

    Returns:
        What was written: ``foreground_mean``, ``mean`` of each label, ``metric_per_case``.

    Raises:
        SamdpoError: a folder or a prediction is missing, or a file does not fit its reference.
    """
    from samdpo.evaluation.summary import evaluate_folder

    return evaluate_folder(
        Path(references), Path(predictions), Path(predictions if dataset_json is None else dataset_json),
        None if output is None else Path(output), processes, chill, voxels=voxels,
        presence_figure=None if presence_figure is None else Path(presence_figure),
    )


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """An environment variable as ``value`` for a while; None leaves it alone."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None and before is None:
            del os.environ[name]
        elif before is not None:
            os.environ[name] = before
