"""What the plan's ``network.train`` means in a training, on a small ViT; and which weights a training needs."""

from __future__ import annotations

import pytest
import small_backbones  # noqa: F401
import torch

from samdpo import extensions
from samdpo.errors import PlansError
from samdpo.files import read_json
from samdpo.model.folder import load_fold
from samdpo.networks import registry
from samdpo.networks.freezing import is_adapter
from samdpo.networks.lora import is_lora
from samdpo.networks.weights import load_weights
from samdpo.plans import load_plans
from samdpo.training.checkpoints import FINAL

VIT = ("network.backbone=small_vit", "network.adapters=false", "epochs=1")


def finetune(planned, *overrides):
    """Trained one epoch, with the weights it started from."""
    trainer = planned.trainer("finetune", *VIT, *overrides)
    trainer.initialize()
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.run_training()
    return trainer, before


def moved(trainer, before):
    """Names of the weights that training has changed."""
    return {name for name, tensor in trainer.network.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.fixture
def needs_no_published_weights(monkeypatch):
    """From here on a network of the small ViT may not be built with published weights."""
    build = extensions._registered["backbone"]["small_vit"]

    def without(plan, pretrained):
        assert not pretrained, "published weights are asked for"
        return build(plan, pretrained)

    return lambda: monkeypatch.setitem(extensions._registered["backbone"], "small_vit", without)


def test_lora_trains_through_both_stages_and_the_model_folder_gives_it_back(planned, needs_no_published_weights):
    lora = ("network.train=lora", "network.lora.rank=2")
    trainer, before = finetune(planned, *lora)
    of_encoder = {name for name in moved(trainer, before) if name.startswith("image_encoder")}
    assert of_encoder and all(map(is_lora, of_encoder))
    counts = read_json(trainer.fold_folder / "debug.json")["parameters"]["image_encoder"]
    assert counts["trained"] == 4 * 2 * (64 + 192 + 64 + 64)
    assert counts["all"] > 10 * counts["trained"]

    needs_no_published_weights()
    aligned = planned.trainer("align", *VIT, *lora, "prompt_rounds=0")
    aligned.initialize()
    started = {name: tensor.clone() for name, tensor in aligned.network.state_dict().items()}
    assert all(torch.equal(tensor, trainer.network.state_dict()[name]) for name, tensor in started.items())
    aligned.run_training()
    assert all(name.startswith("mask_decoder") for name in moved(aligned, started))

    plans = load_plans(aligned.folder / "plans.json")
    loaded = load_fold(aligned.folder, "0", plans, FINAL).network
    images = torch.rand(1, 3, 256, 256)
    aligned.network.eval()
    with torch.no_grad():  # the trainer's memory layout rounds otherwise
        torch.testing.assert_close(loaded.encode_image(images), aligned.network.encode_image(images))
    for name, tensor in aligned.network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_adapters_alone_train(planned):
    trainer, before = finetune(planned, "network.adapters=true", "network.train=adapters")
    of_encoder = {name for name in moved(trainer, before) if name.startswith("image_encoder")}
    assert of_encoder and all(map(is_adapter, of_encoder))


def test_the_decoder_alone_trains_on_kept_embeddings(planned):
    trainer, before = finetune(planned, "network.train=decoder")
    parts = {name.split(".")[0] for name in moved(trainer, before)}
    assert parts == {"mask_decoder", "text_projection"}
    assert trainer.features.n_stages == -1
    assert len(list(trainer.features.store.folder.glob("*.npy"))) == 6


def test_kept_activations_of_a_vit_are_those_of_its_first_stage(planned):
    trainer, before = finetune(planned, "network.frozen_stages=1", "precision=fp32")
    changed = moved(trainer, before)
    assert not any(name.startswith(("image_encoder.pos_embed", "image_encoder.blocks.1.")) for name in changed)
    assert any(name.startswith("image_encoder.blocks.2.") for name in changed)
    batch = trainer.samples.collate([trainer.samples.sample(key) for key in trainer.train_keys])
    trainer.network.eval()
    with torch.no_grad():
        whole, kept = trainer.network.encode_image(batch.images), trainer.embeddings(batch)
    torch.testing.assert_close(whole, kept, atol=2e-2, rtol=1e-2)  # kept as float16


def test_a_network_without_what_should_train_is_refused(planned):
    with pytest.raises(PlansError, match=r"'network\.train' is 'adapters'"):
        finetune(planned, "network.train=adapters")


def test_a_published_file_replaces_the_published_weights(planned, needs_no_published_weights, tmp_path):
    plan = planned.trainer("finetune", *VIT).plans.network  # makes the prompts
    source = registry.build_network(plan)
    published = {k: v + 1 for k, v in source.state_dict().items() if not k.startswith("text_projection")}
    torch.save({"model": published}, tmp_path / "published.pth")
    needs_no_published_weights()
    trainer = planned.trainer("finetune", *VIT, pretrained_weights=tmp_path / "published.pth")
    trainer.initialize()
    state = trainer.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in published.items())
    trainer.run_training()
    assert load_weights(trainer.fold_folder / FINAL).keys() == state.keys()
