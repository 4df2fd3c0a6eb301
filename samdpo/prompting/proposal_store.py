"""Proposals of a fold's slices on disk: what is dear is computed once for training, the page and every later stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from samdpo.caches import LruCache
from samdpo.files import DAMAGED_NPZ, atomic_path, hash_of, remove_abandoned
from samdpo.preprocessing.store import SliceKey, SliceStore
from samdpo.prompting.frozen_features import SliceFeatures
from samdpo.prompting.judge import measure
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.proposals import PlaceProposer, PlaceShape, Proposals, thinned

log = logging.getLogger(__name__)

VERSION = 1  # raise when the code makes other proposals from the same settings
_KEPT = 64  # slices whose proposals stay in memory: one structure takes about 2 MB


@dataclass(frozen=True)
class MeasuredProposals:
    """M proposals of one structure on one slice, and what is measured of them.

    Attributes:
        masks: (M, H, W) bool.
        saliency: (M, 64, 64) float16, the masks as mask prompts.
        measured: (M, columns) float32, see :func:`samdpo.prompting.judge.measure`.
        boxes: (M, 4) float32 of which they were decoded.
        makers: (M,) who proposed them.
    """

    masks: np.ndarray
    saliency: np.ndarray
    measured: np.ndarray
    boxes: np.ndarray
    makers: list[str]

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def small(self) -> torch.Tensor:
        """(M, h, w) bool: the masks as they are compared with each other."""
        return thinned(torch.from_numpy(self.masks))


class ProposalStore:
    """Proposals by case and slice, of one setting of makers.

    Args:
        folder: in which this setting has a folder of its own.
        slices: of the fold.
        prompts: whose saliency and hypotheses they start from.
        features: of the published encoder, and the network that decodes.
        shapes: of each structure that can be elsewhere, where to look.
        blobs, kept: see :class:`~samdpo.prompting.proposals.PlaceProposer`.
        made_of: case -> what its prompts are of; that is its image by default.
        grid: as ``blobs``.
    """

    def __init__(
        self, folder: Path, slices: SliceStore, prompts: PromptStore, features: SliceFeatures,
        shapes: dict[str, PlaceShape], blobs: int, kept: int, made_of: Callable[[str], str] | None = None,
        grid: int = 0,
    ) -> None:
        self.slices, self.prompts, self.features, self.shapes = slices, prompts, features, shapes
        self.blobs, self.kept, self.made_of, self.grid = blobs, kept, made_of or slices.hash_of_case, grid
        of_grid = [grid] if grid else []  # keys are what they were before there was one
        self.key = hash_of("proposals", VERSION, features.extractor.key, prompts.key, shapes, blobs, kept, *of_grid)
        self.folder = folder / self.key
        self._kept: LruCache[SliceKey, dict[str, MeasuredProposals]] = LruCache(_KEPT)

    def prepare(self, cases: Sequence[str]) -> None:
        """Make what is missing of some cases, with a progress bar."""
        missing = self.lacks(cases)
        self._see(missing)
        for case in tqdm(missing, desc="Proposals", unit="case", disable=not missing):
            self._write(case)

    def lacks(self, cases: Sequence[str]) -> list[str]:
        """The cases of which nothing is kept that can be read and is of their images; what was half written is gone."""
        remove_abandoned(self.folder)
        return [case for case in cases if self._read(case) is None]

    def make(self, case: str) -> None:
        """Make the proposals of a case, whether they are there or not."""
        self._see([case])
        self._write(case)

    def get(self, case: str, index: int) -> dict[str, MeasuredProposals]:
        """The proposals of a slice by structure; a structure that cannot be elsewhere, or is absent, has none."""
        found = self._kept.get((case, index))
        if found is None:
            read = self._read(case, index)
            found = (self._write(case) if read is None else read).get(index, {})
            self._kept.put((case, index), found)
        return found

    def _see(self, cases: Sequence[str]) -> None:
        self.features.prepare([(case, i, False) for case in cases for i in range(self.slices.slices(case))])

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.npz"

    def _write(self, case: str) -> dict[int, dict[str, MeasuredProposals]]:
        proposer = PlaceProposer(self.features.extractor.network, self.blobs, self.kept, self.grid)
        found: dict[int, dict[str, MeasuredProposals]] = {}
        arrays: dict[str, np.ndarray] = {"made_of": np.array(self.made_of(case))}
        for index in range(self.slices.slices(case)):
            for number, prompt in enumerate(self.prompts.get(case, index)):
                if not prompt.present or prompt.structure not in self.shapes:
                    continue
                one = self._propose(proposer, case, index, prompt)
                found.setdefault(index, {})[prompt.structure] = one
                name = f"{index}_{number}"
                arrays |= {
                    f"{name}_masks": np.packbits(one.masks, axis=-1), f"{name}_saliency": one.saliency,
                    f"{name}_measured": one.measured, f"{name}_boxes": one.boxes,
                    f"{name}_makers": np.array(one.makers, dtype="U16"),
                }
        with atomic_path(self._file(case)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return found

    def _propose(
        self, proposer: PlaceProposer, case: str, index: int, prompt: StructurePrompt
    ) -> MeasuredProposals:
        image, features = np.asarray(self.slices.image(case, index), np.float32), self.features(case, index)
        made: Proposals = proposer.propose(image, features, prompt.hypotheses, self.shapes[prompt.structure])
        measured = measure(image, features, prompt.saliency, prompt.coarse_mask, made)
        return MeasuredProposals(made.masks.numpy(), made.saliency, measured, made.boxes, made.makers)

    def _read(self, case: str, only: int | None = None) -> dict[int, dict[str, MeasuredProposals]] | None:
        """What is kept of a case; None where there is nothing, or nothing that can be read, or of another image.

        Args:
            case: identifier.
            only: the slice that is wanted; None reads all.
        """
        try:
            with np.load(self._file(case), allow_pickle=False) as arrays:
                if str(arrays["made_of"]) != self.made_of(case):
                    return None
                found: dict[int, dict[str, MeasuredProposals]] = {}
                for name in (name.removesuffix("_masks") for name in arrays.files if name.endswith("_masks")):
                    index, number = map(int, name.split("_"))
                    if only not in (None, index):
                        continue
                    prompt = self.prompts.get(case, index)[number]
                    masks = np.unpackbits(arrays[f"{name}_masks"], axis=-1, count=prompt.regions.shape[-1]).astype(bool)
                    found.setdefault(index, {})[prompt.structure] = MeasuredProposals(
                        masks, arrays[f"{name}_saliency"], arrays[f"{name}_measured"], arrays[f"{name}_boxes"],
                        arrays[f"{name}_makers"].tolist(),
                    )
                return found
        except DAMAGED_NPZ:
            return None
