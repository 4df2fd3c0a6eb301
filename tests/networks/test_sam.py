import dataclasses

import pytest
import torch
from torch import nn

from samdpo.networks import decoding
from samdpo.networks.prompt_batch import PromptBatch

CASES = {
    "a box": {"boxes": 1, "points": 0, "mask": False},
    "a box and points": {"boxes": 1, "points": 3, "mask": False},
    "points alone": {"boxes": 0, "points": 2, "mask": False},
    "a box and a mask": {"boxes": 1, "points": 0, "mask": True},
    "a mask alone": {"boxes": 0, "points": 0, "mask": True},
}


def sam_decode(network, embeddings, batch, row, boxes, points, mask):
    """One prompt through SAM's own prompt encoder and mask decoder."""
    one = slice(row, row + 1)
    sparse, dense = network.prompt_encoder(
        points=(batch.points[one, :points], torch.ones(1, points)) if points else None,
        boxes=batch.boxes[one, :1] if boxes else None,
        masks=batch.mask_logits[one, None] if mask else None,
    )
    logits, quality = network.mask_decoder(
        image_embeddings=embeddings[batch.image_index[row]][None],
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return logits[0, 0], quality[0, 0]


@pytest.fixture(scope="module")
def embeddings():
    return 0.12 * torch.randn(2, 256, 64, 64, generator=torch.Generator().manual_seed(0))  # LiteMedSAM's spread


@pytest.mark.parametrize("case", CASES)
def test_batched_decoding_equals_sam_prompt_by_prompt(lite, prompts, embeddings, case):
    batch = prompts(3, 384, text=False, **CASES[case])
    logits, quality = lite.decode(embeddings, batch)
    assert logits.shape == (3, 256, 256)
    for row in range(3):
        expected, expected_quality = sam_decode(lite, embeddings, batch, row, **CASES[case])
        # Relative to the largest logit (about 35), which is where float32 rounds.
        assert (logits[row] - expected).abs().max() < 1e-5 * expected.abs().max()
        assert abs(quality[row] - expected_quality) < 1e-5


@torch.no_grad()
def test_prompts_of_one_image_share_the_first_layer_and_nothing_else(lite, prompts, embeddings):
    """They equal the same prompts of an image that stands beside another one, for which nothing is shared."""
    batch = prompts(5, 384, boxes=1, points=0, text=False, mask=False)
    batch = dataclasses.replace(batch, image_index=torch.zeros(5, dtype=torch.long))
    for alone, beside in zip(lite.decode(embeddings[:1], batch), lite.decode(embeddings, batch)):
        assert (alone - beside).abs().max() < 1e-5 * beside.abs().max()


@pytest.mark.parametrize("points", [0, 3])
def test_folded_into_few_tokens_attention_and_its_gradients_are_the_same(tiny, prompts, monkeypatch, points):
    batch, found = prompts(3, boxes=1, points=points), {}
    start = torch.randn(2, *tiny.embedding_shape)
    for folds in (True, False):
        monkeypatch.setattr(decoding, "folds_into_tokens", lambda *given, folds=folds: folds)
        embeddings = start.clone().requires_grad_()
        logits, quality = tiny.decode(embeddings, batch)
        (logits.square().mean() + quality.sum()).backward()
        found[folds] = [logits, quality, embeddings.grad] + [p.grad for p in tiny.parameters() if p.grad is not None]
        tiny.zero_grad()
    for folded, plain in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-4)


def test_few_tokens_fold_on_a_cpu_in_float32(lite):
    attention, grid = lite.mask_decoder.transformer.final_attn_token_to_image, torch.zeros(1, 16, 256)
    assert decoding.folds_into_tokens(attention, grid, torch.zeros(1, 7, 256))
    assert not decoding.folds_into_tokens(attention, grid, torch.zeros(1, 13, 256))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not decoding.folds_into_tokens(attention, grid, torch.zeros(1, 7, 256))


@torch.no_grad()
def test_a_coarser_grid_gives_nearly_the_same_mask(lite, prompts):
    image = torch.full((1, 3, 256, 256), 0.6)
    image[..., 90:150, 70:160] = 0.2
    box = prompts(2, 384, boxes=1, points=0, text=False, mask=False)
    boxes = torch.tensor([[70.0, 90.0, 160.0, 150.0]]).repeat(2, 2, 1)
    box = dataclasses.replace(box, boxes=boxes, image_index=torch.zeros(2, dtype=torch.long))
    embeddings = lite.encode_image(image)
    fine, coarse = (lite.decode(embeddings, box, grid)[0] > 0 for grid in (0, 32))
    assert (fine & coarse).sum() > 0.95 * (fine | coarse).sum()
    assert not torch.equal(fine, coarse)
    assert torch.equal(lite.decode(embeddings, box, 64)[0] > 0, fine)  # never to a finer one


def test_invalid_prompts_have_no_influence_whatever_their_value(tiny, prompts):
    batch = prompts(2, boxes=1, points=2, text=False, mask=False)
    other = prompts(2, boxes=1, points=2, text=False, mask=False, seed=7)
    changed = dataclasses.replace(
        batch,
        boxes=torch.cat([batch.boxes[:, :1], other.boxes[:, 1:]], dim=1),
        points=torch.cat([batch.points[:, :2], other.points[:, 2:]], dim=1),
        text=other.text,
        mask_logits=torch.full_like(batch.mask_logits, torch.nan),
    )
    embeddings = torch.randn(2, *tiny.embedding_shape)
    assert torch.equal(tiny.decode(embeddings, batch)[0], tiny.decode(embeddings, changed)[0])


def test_more_room_for_boxes_and_points_changes_nothing(tiny, prompts):
    batch = prompts(2, boxes=1, points=2)
    narrow = dataclasses.replace(
        batch, boxes=batch.boxes[:, :1], boxes_valid=batch.boxes_valid[:, :1], points=batch.points[:, :2],
        points_valid=batch.points_valid[:, :2],
    )
    embeddings = torch.randn(2, *tiny.embedding_shape)
    torch.testing.assert_close(tiny.decode(embeddings, batch)[0], tiny.decode(embeddings, narrow)[0])


def test_a_prompt_gives_the_same_alone_and_in_a_batch(tiny, prompts):
    kinds = ((1, 0, True), (2, 3, False), (0, 2, True))
    varied = [prompts(1, boxes=boxes, points=points, text=text, seed=points) for boxes, points, text in kinds]
    names = [name for name, tensor in vars(varied[0]).items() if tensor is not None]
    batch = PromptBatch(**{name: torch.cat([getattr(one, name) for one in varied]) for name in names})
    embeddings = torch.randn(2, *tiny.embedding_shape)
    together = tiny.decode(embeddings, batch)[0]
    for row, prompt in enumerate(varied):
        torch.testing.assert_close(together[row], tiny.decode(embeddings, prompt)[0][0], atol=1e-5, rtol=1e-5)


def test_an_image_gives_the_same_alone_and_in_a_batch(tiny, prompts):
    batch, images = prompts(4), torch.rand(2, 3, 256, 256)
    together = tiny(images, batch)[0]
    second = batch.select(batch.image_index == 1)
    alone = tiny(images[1:], dataclasses.replace(second, image_index=torch.zeros(2, dtype=torch.long)))[0]
    torch.testing.assert_close(together[batch.image_index == 1], alone, atol=1e-5, rtol=1e-5)


def test_every_kind_of_prompt_has_an_influence(tiny, prompts):
    embeddings = torch.randn(2, *tiny.embedding_shape)
    full = tiny.decode(embeddings, prompts(1))[0]
    for less in ({"boxes": 1}, {"points": 2}, {"text": False}, {"mask": False}):
        assert not torch.allclose(full, tiny.decode(embeddings, prompts(1, **less))[0], atol=1e-6), less


def test_the_number_of_tokens_is_constant(tiny, prompts):
    for given in ({}, {"boxes": 0}, {"points": 0, "text": False}):
        sparse, dense = tiny.encode_prompts(prompts(2, **given))
        assert sparse.shape == (2, 3 + 2 * 2 + 1, 64)
        assert dense.shape == (2, 64, 64, 64)


@pytest.mark.parametrize("images", [1, 2])
def test_no_prompt_gives_no_mask(tiny, prompts, images):
    with torch.no_grad():
        logits, quality = tiny.decode(torch.randn(images, *tiny.embedding_shape), prompts(2).select(slice(0, 0)))
    assert logits.shape == (0, 256, 256)
    assert quality.shape == (0,)


def test_text_hardly_moves_the_published_network(lite, prompts, embeddings):
    with_text, without = (prompts(2, 384, boxes=1, points=0, mask=False, text=text) for text in (True, False))
    with_text = dataclasses.replace(with_text, text=nn.functional.normalize(with_text.text, dim=1))  # as MiniLM's
    change = lite.decode(embeddings, with_text)[0] - lite.decode(embeddings, without)[0]
    assert 0 < change.abs().mean() < 0.1 * lite.decode(embeddings, without)[0].abs().mean()


def test_every_part_learns(tiny, prompts):
    tiny.train()
    tiny(torch.rand(2, 3, 256, 256), prompts(2))[0].square().mean().backward()
    for part in ("image_encoder", "prompt_encoder", "mask_decoder", "text_projection"):
        gradients = [p.grad for p in getattr(tiny, part).parameters() if p.grad is not None]
        assert gradients and any(g.abs().sum() > 0 for g in gradients), part
        assert all(g.isfinite().all() for g in gradients), part


def test_batch_norm_stays_in_eval_mode(lite, tiny):
    for network in (tiny.train(), lite.train()):
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and not any(m.training for m in norms)
        assert network.mask_decoder.training
    lite.eval()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forward_and_backward_repeat_bit_for_bit(tiny, prompts, precision):
    from samdpo.networks.precision import autocast

    batch, images = prompts(4), torch.rand(2, 3, 256, 256)

    def run():
        tiny.zero_grad()
        with autocast("cpu", precision):
            embeddings = tiny.encode_image(images)
        logits = tiny.decode(embeddings.float(), batch)[0]
        logits.square().mean().backward()
        return [logits.detach(), *(p.grad.clone() for p in tiny.parameters() if p.grad is not None)]

    first, second = run(), run()
    assert len(first) > 10
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.slow
def test_the_full_network_repeats_bit_for_bit(lite, prompts, embeddings):
    """In the precision in which it trains here: bfloat16 without instructions for it takes minutes."""
    from samdpo.networks.precision import autocast, resolve_precision

    batch, image = prompts(3, 384), torch.rand(1, 3, 256, 256)
    decoder = lite.mask_decoder.requires_grad_(True)
    encoder = lite.image_encoder.requires_grad_(True)

    def run():
        lite.zero_grad()
        loss = lite.decode(embeddings, batch)[0].square().mean()
        with autocast("cpu", resolve_precision("auto", "cpu")):
            loss = loss + lite.encode_image(image).float().square().mean()
        loss.backward()
        return [p.grad.clone() for m in (encoder, decoder) for p in m.parameters() if p.grad is not None]

    first, second = run(), run()
    lite.zero_grad()
    lite.requires_grad_(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_sizes_are_known(lite):
    assert lite.input_size == (256, 256)
    assert lite.embedding_shape == (256, 64, 64)


def test_slices_of_any_size_are_prompted_and_masked_in_their_own_pixels(tiny, prompts):
    batch, images = prompts(2), torch.rand(2, 3, 256, 256)
    small = dataclasses.replace(
        batch, boxes=(batch.boxes + 0.5) / 2 - 0.5, points=(batch.points + 0.5) / 2 - 0.5,
        mask_logits=nn.functional.avg_pool2d(batch.mask_logits[:, None], 2)[:, 0],
    )
    logits, _ = tiny(nn.functional.avg_pool2d(images, 2), small)
    assert logits.shape == (2, 128, 128)
    tokens, expected = tiny.encode_prompts(small)[0], tiny.encode_prompts(batch)[0]
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
