import dataclasses

import pytest
import torch

from samdpo.networks.prompt_batch import PromptBatch


def given(batch: PromptBatch) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in vars(batch).items() if tensor is not None}


def test_select_keeps_rows_together(prompts):
    batch = prompts(4)
    chosen = batch.select(torch.tensor([2, 0]))
    assert len(chosen) == 2
    for name, tensor in given(batch).items():
        assert torch.equal(getattr(chosen, name), tensor[[2, 0]])


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
    batch = dataclasses.replace(prompts(2), points_inside=torch.zeros(2, 3, dtype=torch.bool))
    assert all(tensor.device.type == "meta" for tensor in given(batch.to("meta")).values())


def test_points_beside_a_structure_are_joined_with_points_that_are_all_on_it(prompts):
    one, other = prompts(1), prompts(1, seed=1)
    outside = dataclasses.replace(other, points_inside=torch.zeros_like(other.points_valid))
    joined = PromptBatch.cat([one, outside])
    assert joined.points_inside.tolist() == [[True] * one.points.shape[1], [False] * one.points.shape[1]]
    assert PromptBatch.cat([one, other]).points_inside is None
