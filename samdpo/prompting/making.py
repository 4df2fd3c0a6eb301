"""The prompts of a fold are made: by prompters that may see a case, here or by other processes, and by the judge."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from samdpo.files import hash_of, remove_abandoned, temporary_beside
from samdpo.networks.device import resolve_device, saying_what_to_make_smaller
from samdpo.parallel import Executor, kept_for, map_cases
from samdpo.paths import preprocessed_folder
from samdpo.plan_sections import LATER_PROMPTING_KEYS
from samdpo.planning.fingerprint import load_case_groups
from samdpo.planning.splits import fold_of, load_splits
from samdpo.plans import Plans, PromptingPlan
from samdpo.preprocessing.store import SliceKey, SliceStore
from samdpo.prompting.answers.answerer import asks_a_model
from samdpo.prompting.answers.asking import edited_cases, keep_answers
from samdpo.prompting.descriptions import with_descriptions
from samdpo.prompting.fitting import FittedPrompters, Labels, fit_prompter, of_labelled_patients, prompted_as
from samdpo.prompting.frozen_features import SliceFeatures, frozen_key, slice_features
from samdpo.prompting.outline_judges import OutlineJudges
from samdpo.prompting.pretrained import calibrated_prompter, check_text_dim, kept_saliency, pretrained_checksum
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter
from samdpo.schema import as_before

log = logging.getLogger(__name__)

_ASKED_AT_ONCE = 32  # slices whose questions go to a model together
_VERSION = 4  # raise when the code makes other prompts from the same settings


def prompts_folder(plans: Plans, fold: int | str) -> Path:
    """``nnUNet_preprocessed/DATASET/samdpoPlans_prompts/fold_0``."""
    return preprocessed_folder(plans.dataset_name) / f"{plans.plans_name}_prompts" / f"fold_{fold}"


def make_prompts(
    plans: Plans, fold: int | str, device: str = "auto", executor: Executor | None = None,
    judged: Sequence[str] | None = None,
) -> PromptStore:
    """Prompts of a fold's labelled, unlabelled and validation cases; ``all`` is every case of the splits.

    Args:
        plans, fold, device, executor, judged: see :func:`make_prompts_of`.
    """
    folder = preprocessed_folder(plans.dataset_name)
    there = SliceStore(folder / plans.preprocessing.data_identifier).summaries()
    one = fold_of(load_splits(folder, {case: one.labelled for case, one in there.items()}), fold, folder)
    return make_prompts_of(
        plans, prompts_folder(plans, fold), one.labelled, one.val, one.unlabelled, device, executor, judged
    )


def make_prompts_of(
    plans: Plans, target: Path, labelled: Sequence[str], val: Sequence[str], unlabelled: Sequence[str] = (),
    device: str = "auto", executor: Executor | None = None, judged: Sequence[str] | None = None,
) -> PromptStore:
    """Make what is missing of some cases' prompts: where the saliency is, or where a judge of the outlines chooses.

    Args:
        plans: the plan; names the dataset. Its ``prompting.place`` says who chooses.
        target: folder of the store; where a judge chooses, what it starts from lies in ``located`` in it.
        labelled: cases whose labels are looked at.
        val: cases that are only prompted.
        unlabelled: likewise; what is usual is learned from them.
        device: ``cpu``, ``cuda`` …; ``auto`` takes a GPU where there is one.
        executor: see :func:`locate`; it makes proposals too, of which judges choose in this process.
        judged: of the unlabelled cases, those at whose proposals the judges look now, which is dear; None for all.

    Returns:
        the store, whole but for the unlabelled cases that are not ``judged``; its ``located`` is whole.

    Raises:
        OutOfMemoryError: of the device, or of the machine.
    """
    with _saying_which_key(plans):
        return _make(plans, target, labelled, val, unlabelled, device, executor, judged)


def _saying_which_key(plans: Plans) -> AbstractContextManager[None]:
    sizes = {name: stage.inference_batch_size for name, stage in plans.configurations.items()}
    said = ", ".join(f"{size} in {name}" for name, size in sizes.items())
    return saying_what_to_make_smaller(
        "where prompts are made",
        f"The smallest 'inference_batch_size' of {plans.plans_name}.json counts, which is {said}: lower it where it is "
        "above 1, or take another device with -device.",
    )


def _make(
    plans: Plans, target: Path, labelled: Sequence[str], val: Sequence[str], unlabelled: Sequence[str], device: str,
    executor: Executor | None, judged: Sequence[str] | None,
) -> PromptStore:
    others = sorted({*unlabelled, *val} - set(labelled))
    if plans.prompting.place == "saliency":
        return locate(plans, target, labelled, others, device, executor, unlabelled)
    located = locate(plans, target / "located", labelled, others, device, executor, unlabelled)
    chosen = set(others) if judged is None else {*val, *judged}
    wanted = [case for case in others if case in chosen]
    return _judge(plans, located, target, labelled, wanted, unlabelled, device, executor)


def _judge(
    plans: Plans, located: PromptStore, target: Path, labelled: Sequence[str], others: Sequence[str],
    unlabelled: Sequence[str], device: str, executor: Executor | None,
) -> PromptStore:
    """Prompts at the places that the judges of the outlines choose; judges that are there are kept."""
    plans = with_descriptions(plans)
    folder = preprocessed_folder(plans.dataset_name)
    slices = SliceStore(folder / plans.preprocessing.data_identifier)
    outlines = OutlineJudges(
        plans, slices, located, labelled, unlabelled, load_case_groups(folder), resolve_device(device)
    )
    prompts = PromptStore(target, outlines.key(), located)
    made = prompts.summaries() if prompts.has_prompter else {}  # the prompter comes last
    cases, answerer = [*labelled, *others], keep_answers(plans)
    missing = [case for case in cases if case not in made or made[case].case_key != outlines.made_of(case)]
    if answerer is not None:
        kept = {case: prompts.entries(case) for case in set(cases) - set(missing)}
        missing += sorted(edited_cases(answerer, kept, plans.structures))
    if not missing:
        return prompts
    if not made:
        remove_abandoned(target)
        remove_abandoned(prompts.prompter_folder)
    start = time.perf_counter()
    outlines.prepare(missing, executor, device)
    if made:
        prompter = Prompter.load(prompts.prompter_folder, outlines.device)
        outlines.judges = prompter.judges
    else:
        prompts.drop_prompter()
        prompter = Prompter.load(located.prompter_folder, outlines.device)
        prompter = outlines.prompter(prompter, outlines.judges, outlines.unseen)
    unseen = outlines.unseen if set(missing) & {*labelled, *outlines.patients} else {}
    outlines.write(prompts, missing, prompter, unseen)
    if answerer is not None:
        answerer.release()
    if not made:
        prompts.save_prompter(prompter)
    log.info("Judges of the outlines chose the place on %d cases: %.0f s.", len(missing), time.perf_counter() - start)
    prompts.summaries()  # once read, they are there for every training
    return prompts


_OF_JUDGES = ("place", "blobs", "proposals", "proposal_grid")  # keys of which the prompts of the saliency know nothing


def _of_saliency(plan: PromptingPlan) -> dict[str, Any]:
    keys = as_before(plan, "presence", *LATER_PROMPTING_KEYS)
    return {key: value for key, value in keys.items() if key not in _OF_JUDGES}


def locate(
    plans: Plans, target: Path, labelled: Sequence[str], others: Sequence[str], device: str = "auto",
    executor: Executor | None = None, unlabelled: Sequence[str] = (),
) -> PromptStore:
    """Make what is missing of some cases' prompts where the saliency is; returns the store, then whole for them.

    Labelled cases are prompted by towers that have not seen their patient, and so are unlabelled ones of the patient;
    the others by the towers fitted to all labelled cases, whose prompter is saved in the store's folder. A pretrained
    image-text model, which has seen none, prompts them all; where presence is decided over volumes, the former by a map
    of the other patients. What is there under the same key is kept, so a second call is nearly free and a stopped one
    goes on.

    Args:
        plans: the plan; names the dataset.
        target: folder of the store.
        labelled: cases whose labels are looked at.
        others: cases that are only prompted.
        device: ``cpu``, ``cuda`` …; ``auto`` takes a GPU where there is one.
        executor: whose processes prompt the cases; else this process does. The towers are fitted here, and a model
            that answers questions is asked here.
        unlabelled: those of ``others`` that are learned from; the rest is prompted as new cases are.
    """
    plans = with_descriptions(plans)
    folder = preprocessed_folder(plans.dataset_name)
    store = SliceStore(folder / plans.preprocessing.data_identifier)
    cases = [*labelled, *others]
    every = load_case_groups(folder)  # read whatever is asked: a broken file is told before the work
    patients = of_labelled_patients(labelled, unlabelled, every)
    hashes = {case: prompted_as(store, case, patients, every) for case in cases}
    # A case that is the first of its group is as one without any, such as one that an unlabelled image was found near.
    groups = {case: every[case] for case in labelled if every.get(case, case) != case}
    if not plans.prompting.fits_towers:  # it has seen no patient; its map of where organs lie in volumes has
        shared = Counter(every.get(case, case) for case in labelled)
        shared = shared if plans.prompting.presence == "volume" else Counter()
        groups = {case: group for case, group in groups.items() if shared[group] > 1}
    key = hash_of(
        _VERSION, _of_saliency(plans.prompting), plans.structures, frozen_key(plans.network),
        pretrained_checksum(plans), {case: hashes[case] for case in labelled},
        *([groups] if groups else []),  # without any as it has always been
    )
    prompts = PromptStore(target, key)
    answerer = keep_answers(plans)
    made = prompts.summaries()
    missing = [case for case in cases if case not in made or hashes[case] not in ("", made[case].case_key)]
    if answerer is not None:
        kept = {case: prompts.entries(case) for case in set(cases) - set(missing)}
        missing += sorted(edited_cases(answerer, kept, plans.structures))
    if not missing and prompts.has_prompter:
        return prompts
    remove_abandoned(target, recursive=True)
    check_text_dim(plans)
    features = None
    if executor is not None and asks_a_model(plans.prompting):
        log.info("The plan's questions are put to a model, which is done in this process.")
        executor = None
    if plans.prompting.fits_towers:
        features = slice_features(plans, store, device)
        fitted = fit_towers_of(plans, store, labelled, groups, [] if executor else missing, features, device)
    else:
        kept_in = folder / f"{plans.plans_name}_saliency"
        fitted = calibrated_prompter(plans, store, labelled, groups, kept_in, device)
    fitted = fitted.beside(patients)
    prompts.drop_prompter()
    if executor is None:
        write_prompts(prompts, fitted, store, features, missing, hashes)
    else:
        _write_elsewhere(executor, prompts, fitted, plans, {case: hashes[case] for case in missing}, device)
    if answerer is not None:
        answerer.release()
    prompts.save_prompter(fitted.full)
    prompts.summaries()  # once read, they are there for every training
    return prompts


def fit_towers_of(
    plans: Plans, store: SliceStore, labelled: Sequence[str], groups: Mapping[str, str], others: Sequence[str],
    features: SliceFeatures, device: torch.device | str, labels: Labels | None = None,
) -> FittedPrompters:
    """Fit the towers to some cases; features that they, and then the prompts of ``others``, need are made before.

    Args:
        plans, store, labelled, groups, features, device, labels: see :func:`~samdpo.prompting.fitting.fit_prompter`.
        others: cases that are prompted next.
    """
    start = time.perf_counter()
    wanted = [(case, index, False) for case in sorted({*others, *labelled}) for index in range(store.slices(case))]
    mirrored = [(case, index, True) for case, index, _ in wanted if plans.prompting.mirror and case in labelled]
    features.prepare([*wanted, *mirrored])
    log.info("Image features: %.0f s.", time.perf_counter() - start)
    start = time.perf_counter()
    with saying_what_to_make_smaller(
        "in the fit of the towers", f"Lower 'prompting.tower_batch_size' of {plans.plans_name}.json, or take another "
        "device with -device.",
    ):
        fitted = fit_prompter(plans, store, labelled, features, groups, features.extractor, device, labels=labels)
    log.info("Towers on %d labelled cases: %.0f s.", len(labelled), time.perf_counter() - start)
    return fitted


def write_prompts(
    prompts: PromptStore,
    fitted: FittedPrompters,
    store: SliceStore,
    features: SliceFeatures | None,
    cases: Sequence[str],
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Prompt every slice of ``cases``, each case by the prompter that may see it, and keep them in ``prompts``.

    ``features`` are what fitted towers see; a pretrained model has kept its saliency. ``hashes`` name what the prompts
    of each case are of; that is its image by default.
    """
    start = time.perf_counter()
    with tqdm(total=len(cases), desc="Prompts") as progress:
        for group in _groups_of_cases(cases, store, asks_a_model(fitted.full.settings.prompting)):
            for case, made in _prompt_cases(fitted, store, features, group).items():
                prompts.put(case, made, hashes[case] if hashes else store.hash_of_case(case))
            progress.update(len(group))
    log.info("Prompts of %d cases: %.2f s each.", len(cases), (time.perf_counter() - start) / max(1, len(cases)))


@dataclass(frozen=True)
class _Work:
    """What a process needs to know to prompt cases; small, since it is sent."""

    plans: Plans
    store: Path
    key: str | None
    prompters: Path
    device: str


@dataclass(frozen=True)
class _Case:
    """A case, the name of the prompter that may see it, and what its prompts are of."""

    identifier: str
    prompter: str
    hash: str


def _write_elsewhere(
    executor: Executor, prompts: PromptStore, fitted: FittedPrompters, plans: Plans, cases: Mapping[str, str],
    device: str,
) -> None:
    """As :func:`write_prompts`, by the processes of ``executor``, to which prompters and cases are handed by path."""
    distinct = {id(one): one for one in (fitted.full, *fitted.held_out.values())}
    names = {number: str(i) for i, number in enumerate(distinct)}
    folder = temporary_beside(prompts.folder / "prompters")
    try:
        for number, prompter in distinct.items():
            prompter.save(folder / names[number])
        work = _Work(plans, prompts.folder, prompts.key, folder, device)
        items = [_Case(case, names[id(fitted.for_case(case))], made_of) for case, made_of in cases.items()]
        for _ in map_cases(partial(_prompt_by_path, work), items, executor, "Prompts", per_process=1):
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Prompting:
    """What a process keeps while it prompts case after case."""

    def __init__(self, work: _Work) -> None:
        plans = work.plans
        folder = preprocessed_folder(plans.dataset_name)
        self.work, self.store = work, SliceStore(folder / plans.preprocessing.data_identifier)
        self.prompts = PromptStore(work.store, work.key)
        self.features = slice_features(plans, self.store, work.device) if plans.prompting.fits_towers else None
        self.kept_in = folder / f"{plans.plans_name}_saliency"
        self.fitted: dict[str, FittedPrompters] = {}

    def of(self, name: str) -> FittedPrompters:
        """The prompter of this name, as if it were fitted to every case."""
        if name not in self.fitted:
            prompter = Prompter.load(self.work.prompters / name, self.work.device)
            saliency = None if self.features else kept_saliency(self.work.plans, self.store, prompter, self.kept_in)
            self.fitted[name] = FittedPrompters(prompter, {}, saliency)
        return self.fitted[name]


def _prompt_by_path(work: _Work, case: _Case) -> None:
    """In another process: the case is read, prompted and its prompts written there."""
    with kept_for(work, _Prompting) as kept:
        name = case.identifier
        made = _prompt_cases(kept.of(case.prompter), kept.store, kept.features, [name])
        kept.prompts.put(name, made[name], case.hash)


def _groups_of_cases(cases: Sequence[str], store: SliceStore, asks: bool) -> Iterator[list[str]]:
    """Case by case; where a model is asked, so many cases at once that its batches are full."""
    group: list[str] = []
    for case in cases:
        group.append(case)
        if not asks or sum(map(store.slices, group)) >= _ASKED_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _prompt_cases(
    fitted: FittedPrompters, store: SliceStore, features: SliceFeatures | None, cases: Sequence[str]
) -> dict[str, list[list[StructurePrompt]]]:
    slices = [(case, index) for case in cases for index in range(store.slices(case))]
    images = [store.image(case, index) for case, index in slices]
    raw: dict[SliceKey, np.ndarray | None] = dict.fromkeys(slices)
    present: dict[SliceKey, dict[str, bool] | None] = dict.fromkeys(slices)
    if fitted.saliency:
        raw = {key: fitted.saliency(*key) for key in slices}
    for case in cases:
        prompter, of_case = fitted.for_case(case), [key for key in slices if key[0] == case]
        if prompter.sees_volumes and len(of_case) > 1:
            if not fitted.saliency:
                seen = zip(of_case, (image for key, image in zip(slices, images) if key[0] == case))
                raw |= {key: prompter.raw_saliency(image, features(*key)).astype(np.float16) for key, image in seen}
            present |= zip(of_case, prompter.presence([raw[key] for key in of_case], store.slice_spacing(case)))
    located = [
        # The points' seed is that of prediction, which does not know a case by its name.
        fitted.for_case(case).locate(
            image, features(case, i) if features else None, raw=raw[case, i], present=present[case, i]
        )
        for (case, i), image in zip(slices, images)
    ]
    told = fitted.full.with_texts(located, images, slices)
    return {case: [of_slice for (shown, _), of_slice in zip(slices, told) if shown == case] for case in cases}
