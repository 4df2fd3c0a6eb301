"""dataset.json's label ``ignore``: its voxels are used nowhere, from the fingerprint to the losses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_volumes as tiny
import torch

from samdpo.align.proposer import EncodedBatch
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError
from samdpo.model.batches import SliceSamples
from samdpo.model.slice_labels import known_part
from samdpo.model.views import FLIPPED, View
from samdpo.planning.fingerprint import extract_fingerprint
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.plans import AugmentationPlan, Plans
from samdpo.preprocessing.preprocess import preprocess_dataset
from samdpo.preprocessing.store import IGNORED, SliceStore
from samdpo.prompting.prompt import StructurePrompt

NAME = "Dataset904_TinyVolumes"
LABELS = {"background": 0, "liver": 1, "ignore": 5}


def label() -> np.ndarray:
    """Slices 1 and 2 show the structure; slice 0 and a corner of slice 2 are ignored."""
    values = tiny.label()
    values[0], values[2, :3] = 5, 5
    values[3, 5, 5] = 1
    return values


@pytest.fixture
def raw(roots) -> Path:
    folder = tiny.make_dataset(roots.raw / NAME, labels=LABELS)
    for case in "ab":
        tiny.save(label(), folder / "labelsTr" / f"{case}.nii.gz")
    return folder


@pytest.fixture
def planned(raw: Path) -> tuple[Plans, SliceStore]:
    plans = plan_and_preprocess(NAME)
    return plans, preprocess_dataset(NAME, plans)


def test_a_dataset_with_it_is_in_order(raw: Path) -> None:
    verify_dataset_integrity(raw)


def test_masks_that_are_ignored_all_over_show_nothing_to_learn(raw: Path) -> None:
    for case in "ab":
        tiny.save(np.full(tiny.SHAPE, 5, np.uint8), raw / "labelsTr" / f"{case}.nii.gz")
    for work in (verify_dataset_integrity, extract_fingerprint):
        with pytest.raises(DatasetError, match=r"All 2 masks .* are empty"):
            work(raw)


def test_ignored_voxels_are_no_intensities_and_ignored_slices_no_slices(raw: Path) -> None:
    for number, case in enumerate("ab"):
        tiny.save(np.where(label() == 5, 3000, tiny.image(number)), raw / "imagesTr" / f"{case}_0000.nii.gz")
    found = extract_fingerprint(raw)
    assert set(found["structures"]) == {"liver"}
    assert found["structures"]["liver"]["share_of_slices"] == 1.0, "of the three that are known"
    assert found["foreground_intensity_properties_per_channel"]["0"]["max"] < 3000
    assert found["n_foreground_slices"] == {"a": 3, "b": 3}


def test_a_structure_that_some_labels_lack_is_told_unless_they_ignore_something(raw: Path, caplog, monkeypatch) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    tiny.make_dataset(raw, labels={**LABELS, "spleen": 2})
    both = tiny.label()
    both[1, 9:11, 7:9] = 2
    tiny.save(both, raw / "labelsTr" / "a.nii.gz")
    for values, told in ((tiny.label(), True), (label(), False)):
        tiny.save(values, raw / "labelsTr" / "b.nii.gz")
        caplog.clear()
        extract_fingerprint(raw)
        assert ("lack spleen in 1 of 2 (50%), for example b" in caplog.text) == told
        assert ("label 'ignore' (\"ignore\": 5" in caplog.text) == told


def test_of_volumes_that_show_one_organ_each_the_other_is_told(raw: Path, caplog, monkeypatch) -> None:
    """As where data of a liver and data of a spleen were put together."""
    import logging

    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    tiny.make_dataset(raw, labels={**LABELS, "spleen": 2})
    tiny.save(2 * tiny.label(), raw / "labelsTr" / "b.nii.gz")
    extract_fingerprint(raw)
    assert "lack liver in 1 of 2 (50%), for example b; spleen in 1 of 2 (50%), for example a" in caplog.text


def test_the_store_marks_what_is_not_known(planned: tuple[Plans, SliceStore]) -> None:
    _, store = planned
    assert store.properties("a")["ignored_slices"] == [0]
    assert (store.label("a", 0) == IGNORED).all()
    assert set(np.unique(store.label("a", 2))) == {IGNORED, 0, 1}
    assert set(np.unique(store.label("a", 1))) == {0, 1}
    assert store.properties("a")["slices_of"] == {"liver": [1, 2, 3]}


def test_labels_are_cut_anew_when_a_value_becomes_the_one_to_ignore(raw: Path) -> None:
    tiny.make_dataset(raw, labels={**LABELS, "ignore": 6})
    store = preprocess_dataset(NAME, plan_and_preprocess(NAME))
    before = store.properties("a")["hash"]
    tiny.make_dataset(raw, labels=LABELS)
    assert preprocess_dataset(NAME, plan_and_preprocess(NAME)).properties("a")["hash"] != before


def samples(plans: Plans, store: SliceStore) -> SliceSamples:
    """Of a structure that covers the middle of every slice."""
    regions = np.zeros((256, 256), np.uint8)
    regions[64:192, 64:192] = 1
    prompt = StructurePrompt(
        "liver", 1, True, 1.0, np.zeros((64, 64), np.float16), regions, np.array([[64, 64, 192, 192]], np.float32),
        np.array([[100, 100]], np.float32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), "", "",
        np.zeros(plans.network.text_dim, np.float32),
    )
    prompts = SimpleNamespace(get=lambda case, index: [prompt])
    return SliceSamples(plans, store, prompts, AugmentationPlan(prompt_corruption=0))


def test_slices_of_which_nothing_is_known_are_not_trained_on(planned: tuple[Plans, SliceStore]) -> None:
    assert samples(*planned).keys(["a"]) == [("a", 1), ("a", 2), ("a", 3)]


@pytest.mark.parametrize("view", [View(), FLIPPED, View(rotation=30, seed=1)], ids=["as it is", "mirrored", "turned"])
def test_what_counts_moves_with_the_view(planned: tuple[Plans, SliceStore], view: View) -> None:
    made = samples(*planned)
    sample = made.sample(("a", 2), view)
    assert sample.counted.any() and not sample.counted.all()
    assert not (sample.truth & ~sample.counted).any()
    assert made.sample(("a", 1), view).counted is None, "everything is known"
    batch = made.collate([made.sample(("a", 1), view), sample])
    assert batch.counted.shape == batch.truth.shape and batch.counted[0].all()
    assert torch.equal(batch.counted[1], sample.counted)
    assert not known_part(torch.ones(2, 3, 256, 256), batch.counted)[1, :, ~sample.counted].any()


def as_decoded(trainer, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Logits that a trainer's next decoder passes give, of which gradients can be read."""
    given: list[torch.Tensor] = []

    def decode(_embeddings: torch.Tensor, prompts) -> tuple[torch.Tensor, None]:
        given.append(torch.randn(len(prompts), 256, 256).requires_grad_())
        return given[-1], None

    monkeypatch.setattr(trainer.network, "decode", decode)
    return given


@pytest.fixture
def upper_half_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every label of a phantom dataset ignored the upper half of its image."""
    original = SliceStore.label

    def half(self: SliceStore, case: str, index: int) -> np.ndarray | None:
        found = original(self, case, index)
        if found is not None:
            found = found.astype(np.int16)
            found[:128] = IGNORED
        return found

    monkeypatch.setattr(SliceStore, "label", half)


def check(gradient: torch.Tensor, counted: torch.Tensor) -> None:
    assert (~counted).any() and not gradient[~counted].any()
    assert gradient[counted].any()


def test_finetune_learns_nothing_from_ignored_pixels(finetuned, upper_half_ignored, monkeypatch) -> None:
    trainer = finetuned.trainer("finetune")
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start(0)
    given = as_decoded(trainer, monkeypatch)
    batch = next(iter(trainer.train_batches(0)))
    trainer.train_step(batch)
    check(torch.cat([logits.grad for logits in given]), batch.counted)
    trainer.run_log.close()


@pytest.mark.parametrize("stage", ["align", "align_preferences", "align_best_candidate"])
def test_align_learns_nothing_from_ignored_pixels(finetuned, upper_half_ignored, stage: str) -> None:
    trainer = finetuned.trainer(stage, "prompt_rounds=0")
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start(0)
    batch = next(iter(trainer.train_batches(0))).unlabelled
    embeddings, logits = trainer.decode(batch)
    slices = EncodedBatch(batch, embeddings, trainer.reference, logits.detach().requires_grad_())
    loss, _ = trainer.objective.loss(slices, lambda: trainer.ask(slices))
    loss.backward()
    check(slices.logits.grad, batch.counted)
    trainer.run_log.close()
