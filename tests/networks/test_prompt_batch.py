import dataclasses

import pytest
import torch

from samdpo.networks.prompt_batch import PromptBatch


def test_select_keeps_rows_together(prompts):
    batch = prompts(4)
    chosen = batch.select(torch.tensor([2, 0]))
    assert len(chosen) == 2
    for field in dataclasses.fields(PromptBatch):
        assert torch.equal(getattr(chosen, field.name), getattr(batch, field.name)[[2, 0]])


def test_cat_counts_images_on_where_images_are_joined(prompts):
    joined = PromptBatch.cat([prompts(3), prompts(2, seed=1)], n_images=[2, 2])
    assert joined.image_index.tolist() == [0, 1, 0, 2, 3]


def test_cat_of_the_same_images_keeps_their_numbers(prompts):
    assert PromptBatch.cat([prompts(3), prompts(2)]).image_index.tolist() == [0, 1, 0, 0, 1]


def test_tensors_of_different_length_are_refused(prompts):
    batch = prompts(3)
    with pytest.raises(ValueError, match="one row per prompt"):
        dataclasses.replace(batch, points=batch.points[:2])


def test_to_moves_every_tensor(prompts):
    moved = prompts(2).to("meta")
    assert all(getattr(moved, f.name).device.type == "meta" for f in dataclasses.fields(PromptBatch))
