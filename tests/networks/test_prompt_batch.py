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


def test_tensors_of_different_length_are_refused(prompts):
    batch = prompts(3)
    with pytest.raises(ValueError, match="one row per prompt"):
        dataclasses.replace(batch, points=batch.points[:2])


def test_to_moves_every_tensor(prompts):
    batch = dataclasses.replace(prompts(2), points_inside=torch.zeros(2, 3, dtype=torch.bool))
    assert all(tensor.device.type == "meta" for tensor in given(batch.to("meta")).values())
