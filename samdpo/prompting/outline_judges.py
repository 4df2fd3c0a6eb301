"""The judges of a fold's outlines: fitted where every proposal's overlap is known, they choose where prompts point.

New images are judged by the judge of every outline, which goes with the prompter into the model folder; images of a
patient who has an outline by one that has not seen it. A slice on which the structure is known is prompted at its
place: by the proposal that is liked best of those that are there, by a judge that has not seen the patient's outlines;
where none is there, by what the network makes of its box. So the network learns what its task will be: to mend a mask
at the right place. Prompts at wrong ones, under the true mask, would teach it to mind no prompt. What it is worth is
not measured so: the prompts that the slice would get if nobody knew it are kept beside
(:attr:`~samdpo.prompting.prompt_store.PromptStore.as_new`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from samdpo.files import hash_of
from samdpo.parallel import Executor, kept_for, map_cases
from samdpo.paths import preprocessed_folder
from samdpo.plan_sections import LATER_PROMPTING_KEYS
from samdpo.planning.subsets import usual_cases
from samdpo.plans import Plans
from samdpo.preprocessing.store import IGNORED, SliceKey, SliceStore
from samdpo.prompting.assemble import prompt_at
from samdpo.prompting.fitting import anything_known, of_labelled_patients, prompted_as
from samdpo.prompting.frozen_features import SliceFeatures, frozen_key, slice_features
from samdpo.prompting.judge import (
    SAME_PLACE,
    JudgeSettings,
    Outlined,
    PlaceJudge,
    cross_fitted,
    doubtful_below,
    fit_to_outlines,
)
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter
from samdpo.prompting.proposal_store import VERSION as PROPOSALS_VERSION
from samdpo.prompting.proposal_store import ProposalStore
from samdpo.prompting.proposals import PlaceProposer, PlaceShape, boxes_of_masks
from samdpo.prompting.regions import mask_iou
from samdpo.schema import as_before

log = logging.getLogger(__name__)

_VERSION = 4  # raise when the code makes other judges from the same settings
_SEED = 0  # of the judges, whatever the seed of training: all stages of a fold share them

Place = tuple[str, int, str]  # case, slice, structure
Unseen = dict[str, dict[str, PlaceJudge]]  # structure -> group -> judge that has not seen the group's outlines


class OutlineJudges:
    """Proposals of a fold's slices, what the outlines say of them, and the judges that learn it.

    Nothing is read or computed before it is asked for.

    Args:
        plans: the plan; names the dataset.
        slices: of the fold.
        located: prompts of the saliency, which proposals start from.
        labelled: cases whose outlines may be looked at.
        unlabelled: cases without outlines.
        groups: patient (or near-duplicate cluster) of each case.
        device: of the networks.
        kept_in: folder in which proposals are kept; the plan's, which all stages share, by default.

    Attributes:
        patients: unlabelled cases of a patient who has an outline, see :func:`~.fitting.of_labelled_patients`.
        judges: of each movable structure whose outlines tell its proposals apart; fitted when they are asked for, and
            may be set to those that were fitted before. See :meth:`prepare`.
    """

    def __init__(
        self, plans: Plans, slices: SliceStore, located: PromptStore, labelled: Sequence[str],
        unlabelled: Sequence[str], groups: Mapping[str, str], device: torch.device | str,
        kept_in: Path | None = None,
    ) -> None:
        self.kept_in = kept_in
        self.plans, self.slices, self.located, self.groups, self.device = plans, slices, located, groups, device
        self.labelled_cases = sorted(labelled)
        self._outlined: dict[str, list[Outlined]] = {}  # by structure, once it is asked for
        self.usual_cases = usual_cases(unlabelled)
        self.patients = of_labelled_patients(labelled, unlabelled, groups)

    @cached_property
    def movable(self) -> list[str]:
        """Structures that can be elsewhere: of one component."""
        return [name for name, one in self.plans.structures.items() if one.components == 1]

    @cached_property
    def features(self) -> SliceFeatures:
        """Of the published encoder."""
        return slice_features(self.plans, self.slices, self.device)

    @cached_property
    def outlines(self) -> list[SliceKey]:
        """Slices of the labelled cases that are not ignored all over, in order."""
        shown = sorted(self.located.shown(self.labelled_cases))
        return [key for key in shown if anything_known(self.slices.label(*key))]

    @cached_property
    def shapes(self) -> dict[str, PlaceShape]:
        """Of each movable structure, what the outlines say of where to look."""
        found = {}
        for name in self.movable:
            label = self.plans.structures[name].label
            drawn = [(self.slices.label(*key) == label, self.slices.image(*key).mean(0)) for key in self.outlines]
            found[name] = PlaceShape.of(*zip(*drawn)) if drawn else PlaceShape()
        return found

    @cached_property
    def proposals(self) -> ProposalStore:
        """Of the fold's slices, kept beside the prompts they start from."""
        folder = self.kept_in or preprocessed_folder(self.plans.dataset_name) / f"{self.plans.plans_name}_proposals"
        return _proposals(folder, self.plans, self.slices, self.located, self.features, self.shapes, self.made_of)

    def prepare(self, cases: Sequence[str] = (), executor: Executor | None = None, device: str = "auto") -> None:
        """Make the proposals that the judges are fitted to, and those of some cases, where they are missing.

        Args:
            cases: beside those of the fit.
            executor: whose processes make them; None makes them here.
            device: of those processes, as it was typed.
        """
        if not self.movable:
            return
        wanted = sorted({*self.labelled_cases, *self.usual_cases, *cases})
        if executor is None:
            self.proposals.prepare(wanted)
            return
        work = _Work(self.plans, self.located.folder, self.located.key, self.proposals.folder.parent, self.shapes,
                     device, uuid4().hex)
        items = [_Case(case, self.made_of(case)) for case in self.proposals.lacks(wanted)]
        for _ in map_cases(partial(_propose_by_path, work), items, executor, "Proposals", per_process=1):
            pass

    @cached_property
    def judges(self) -> dict[str, PlaceJudge]:
        """Fitted to every outline."""
        found = {}
        for name in self.movable:
            judge = fit_to_outlines(self.outlined(name), _SEED, self.usual(name))
            if judge is None:
                log.warning("%s: the outlines do not tell its proposals apart, so no judge chooses its place.", name)
                continue
            found[name] = judge
        return found

    @cached_property
    def unseen(self) -> Unseen:
        """Of each structure with a judge: group -> judge that has not seen the group's outlines."""
        return {name: cross_fitted(self.outlined(name), _SEED, self.usual(name)) for name in self.judges}

    def outlined(self, name: str) -> list[Outlined]:
        """Proposals of the labelled slices, and how they overlap the outline."""
        if name not in self._outlined:
            places = [(*key, name) for key in self.outlines]
            self._outlined[name] = [one for place in places for one in self._compared(place, *self.outline(place))]
        return self._outlined[name]

    def outline(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        """What is drawn of a structure on a labelled slice, (H, W) bool, and the pixels that count, likewise."""
        drawn = self.slices.label(*place[:2])
        return drawn == self.plans.structures[place[2]].label, drawn != IGNORED

    def told(self, name: str, meant: Mapping[Place, np.ndarray]) -> list[Outlined]:
        """As :meth:`outlined`, of slices on which somebody has said which mask (H, W) is right."""
        return [one for place, mask in sorted(meant.items(), key=lambda item: item[0]) if place[2] == name
                for one in self._compared(place, mask)]

    def _compared(self, place: Place, known: np.ndarray, counted: np.ndarray | bool = True) -> list[Outlined]:
        one = self.proposals.get(*place[:2]).get(place[2])
        if one is None or not len(one):
            return []
        overlap = mask_iou(torch.from_numpy(one.masks & counted), torch.from_numpy(known)[None])[:, 0].numpy()
        return [Outlined(one.measured, overlap, self.groups.get(place[0], place[0]))]

    def usual(self, name: str) -> np.ndarray | None:
        """(M, columns) measures that a judge's inputs are standardised by: of proposals, outlined or not."""
        others = [(case, index) for case in self.usual_cases for index in range(self.slices.slices(case))]
        of = [self.proposals.get(*key).get(name) for key in (*self.outlines, *others)]
        every = [one.measured for one in of if one is not None and len(one)]
        return np.concatenate(every) if every else None

    def made_of(self, case: str) -> str:
        """Of what a case's own proposals and prompts are, whatever else :meth:`key` has."""
        return prompted_as(self.slices, case, self.patients, self.groups)

    def key(self) -> str:
        """Of what makes the judges and their choice; images that are added later change nothing."""
        labelled = {case: (self.slices.hash_of_case(case), self.groups.get(case, case)) for case in self.labelled_cases}
        # Where to look follows from the labelled cases: no image is read to know the key.
        network = frozen_key(self.plans.network)
        return hash_of("judged", _VERSION, PROPOSALS_VERSION, network, self.located.key, labelled,
                       as_before(self.plans.prompting, "presence", *LATER_PROMPTING_KEYS))

    # ---- what they choose --------------------------------------------------------------------------------------

    def prompter(self, located: Prompter, judges: Mapping[str, PlaceJudge], unseen: Unseen) -> Prompter:
        """The prompter of new images: as ``located`` prompts them, at the place that the judges choose.

        Args:
            located: of the saliency.
            judges: by structure.
            unseen: of those judges, fitted without a group; they say below which confidence a person should look.
        """
        prompting, settings = self.plans.prompting, {}
        for name in judges:
            outlined = self.outlined(name)
            smalls = [several.small for key in self.outlines
                      if (several := self.proposals.get(*key).get(name)) is not None and len(several)]
            settings[name] = JudgeSettings(
                self.shapes[name], prompting.blobs, prompting.proposals, outlined[0].measured.shape[1],
                doubtful_below(unseen.get(name, {}), outlined, smalls), prompting.proposal_grid,
            )
        return Prompter(dataclasses.replace(located.settings, judges=settings), located.model, located.device, judges)

    def write(
        self, store: PromptStore, cases: Sequence[str], prompter: Prompter, unseen: Unseen,
        meant: Mapping[Place, np.ndarray] | None = None,
    ) -> None:
        """Prompts of some cases at the places that judges choose; a structure without a judge keeps its own.

        Args:
            store: in which they are put.
            cases: of the fold.
            prompter: of :meth:`prompter`; its judges choose on cases of patients who have no outline.
            unseen: of these judges, who choose on the others.
            meant: (H, W) bool masks that somebody has said are right, by place; known as the outlines are.

        In ``store.as_new`` cases with a known place are prompted as if nobody knew it: outlined ones where a judge that
        has not seen the patient chooses, or where the saliency is if there is no such judge; slices on which a mask was
        meant at the choice of ``prompter``'s judges, who may have learned from it.
        """
        for case in cases:
            known, as_new = self._judged(case, prompter, unseen, meant or {})
            case_key = self.made_of(case)
            if known is not None:
                store.as_new.put(case, as_new, case_key)  # first: the case counts once it is in the store
            store.put(case, as_new if known is None else known, case_key, known is not None)

    def _judged(
        self, case: str, prompter: Prompter, unseen: Unseen, meant: Mapping[Place, np.ndarray]
    ) -> tuple[list[list[StructurePrompt]] | None, list[list[StructurePrompt]]]:
        """Prompts at the places that are known, None where none is; and those of a case that nobody knows."""
        slices = [(case, index) for index in range(self.slices.slices(case))]
        pairs = [self._judged_slice(key, prompter, unseen, meant) for key in slices]
        images = [np.asarray(self.slices.image(*key), np.float32) for key in slices]
        as_new = prompter.with_texts([[chosen for _, chosen in of_slice] for of_slice in pairs], images, slices)
        if not any(at_known is not None for of_slice in pairs for at_known, _ in of_slice):
            return None, as_new
        known = [[at_known or chosen for at_known, chosen in of_slice] for of_slice in pairs]
        return prompter.with_texts(known, images, slices), as_new

    def _judged_slice(
        self, key: SliceKey, prompter: Prompter, unseen: Unseen, meant: Mapping[Place, np.ndarray]
    ) -> list[tuple[StructurePrompt | None, StructurePrompt]]:
        """Of each structure the prompt at the place that is known, None where none is, and at the judge's choice."""
        several = self.proposals.get(*key) if prompter.judges else {}
        # The seed of prediction, which does not know a case by its name.
        of_known, of_chosen = np.random.default_rng(0), np.random.default_rng(0)
        found = []
        for prompt in self.located.get(*key):
            judge, one = prompter.judges.get(prompt.structure), several.get(prompt.structure)
            if judge is None or one is None or not len(one):
                found.append((None, prompt))
                continue
            has_seen = False
            if key[0] in self.labelled_cases or key[0] in self.patients:
                other = unseen.get(prompt.structure, {}).get(self.groups.get(key[0], key[0]))
                judge, has_seen = other or judge, other is None
            said, known = judge.judge(one.measured, one.small), self._known((*key, prompt.structure), meant)
            pointing = partial(prompt_at, prompt, plan=self.plans.structures[prompt.structure],
                               prompting=self.plans.prompting, confidence=said.confidence)
            chosen = prompt if has_seen else pointing(one.masks[said.first], one.saliency[said.first],
                                                      generator=of_chosen)
            if known is None:
                found.append((None, chosen))
                continue
            mask, counted = known
            first = best_there(said.score, one.masks & counted, mask)
            there = (self._of_its_box(key, mask) if first is None else (one.masks[first], one.saliency[first]))
            found.append((pointing(*there, generator=of_known), chosen))
        return found

    def _known(
        self, place: Place, meant: Mapping[Place, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | bool] | None:
        """The mask (H, W) bool that is known of a place, and the pixels that count; None where nobody has said it."""
        if place[0] not in self.labelled_cases:
            return (meant[place], True) if place in meant else None
        return self.outline(place)

    def _of_its_box(self, key: SliceKey, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the published network makes of a known mask's box, (H, W) bool, and its (64, 64) logits."""
        box = boxes_of_masks(torch.from_numpy(known)[None])
        decoded = PlaceProposer(self.features.extractor.network).decode(self.features(*key), known.shape, box)
        there = float(mask_iou(decoded.masks, torch.from_numpy(known)[None])) >= SAME_PLACE
        return (decoded.masks[0].numpy() if there else known), decoded.saliency[0]


def _proposals(
    folder: Path, plans: Plans, slices: SliceStore, located: PromptStore, features: SliceFeatures,
    shapes: dict[str, PlaceShape], made_of: Callable[[str], str],
) -> ProposalStore:
    plan = plans.prompting
    return ProposalStore(folder, slices, located, features, shapes, plan.blobs, plan.proposals, made_of,
                         plan.proposal_grid)


@dataclass(frozen=True)
class _Work:
    """What a process needs to know to make proposals; small, since it is sent."""

    plans: Plans
    located: Path
    located_key: str | None
    folder: Path
    shapes: dict[str, PlaceShape]
    device: str
    run: str  # images may have changed since another one


@dataclass(frozen=True)
class _Case:
    """A case, and what its prompts are of."""

    identifier: str
    made_of: str


class _Proposing:
    """What a process keeps while it makes proposals of case after case."""

    def __init__(self, work: _Work) -> None:
        slices = SliceStore(preprocessed_folder(work.plans.dataset_name) / work.plans.preprocessing.data_identifier)
        self.made_of: dict[str, str] = {}
        self.proposals = _proposals(
            work.folder, work.plans, slices, PromptStore(work.located, work.located_key),
            slice_features(work.plans, slices, work.device), work.shapes, self.made_of.__getitem__,
        )


def _propose_by_path(work: _Work, case: _Case) -> None:
    """In another process: the case is read, and its proposals written there."""
    with kept_for(work, _Proposing) as kept:
        kept.made_of[case.identifier] = case.made_of
        kept.proposals.make(case.identifier)


def best_there(score: np.ndarray, masks: np.ndarray, known: np.ndarray) -> int | None:
    """The proposal of the highest score among those at the place of a known mask; None where none is there.

    Args:
        score: (M,) of a judge.
        masks: (M, H, W) bool.
        known: (H, W) bool; where it is empty, the highest score of all decides.
    """
    if not known.any():
        return int(score.argmax())
    there = mask_iou(torch.from_numpy(masks), torch.from_numpy(known)[None])[:, 0].numpy() >= SAME_PLACE
    return int(np.where(there, score, -np.inf).argmax()) if there.any() else None
