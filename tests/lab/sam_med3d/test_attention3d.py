from itertools import product

import pytest
import torch

from samdpo.lab.sam_med3d.network import Attention3d


def by_the_book(attention, tokens):
    """The published sum, token by token, in a window that is filled with zero tokens: (D, H, W, C)."""
    span, heads = attention.span, attention.heads
    width = tokens.shape[-1]
    filled = torch.zeros(span, span, span, width)
    d, h, w = tokens.shape[:3]
    filled[:d, :h, :w] = tokens
    q, k, v = attention.qkv(filled).reshape(span, span, span, 3, heads, -1).unbind(3)
    result = torch.zeros(d, h, w, heads, width // heads)
    cube = list(product(range(span), repeat=3))
    for n, (a, b, c) in product(range(heads), product(range(d), range(h), range(w))):
        logits = []
        for x, y, z in cube:
            logit = q[a, b, c, n] @ k[x, y, z, n] / (width // heads) ** 0.5
            logit = logit + q[a, b, c, n] @ attention.rel_pos_d[a - z + span - 1]
            logit = logit + q[a, b, x, n] @ attention.rel_pos_h[b - z + span - 1]
            logits.append(logit + q[a, b, y, n] @ attention.rel_pos_w[y - z + span - 1])
        shares = torch.stack(logits).softmax(0)
        result[a, b, c, n] = sum(share * v[x, y, z, n] for share, (x, y, z) in zip(shares, cube))
    return attention.proj(result.flatten(3))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    attention = Attention3d(width=8, heads=2, span=3)
    for table in (attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w):
        torch.nn.init.normal_(table)
    return attention.requires_grad_(False)


@pytest.mark.parametrize("sides", [(3, 3, 3), (2, 2, 2), (3, 1, 2)])
def test_real_tokens_attend_as_in_a_filled_window(attention, sides):
    tokens = torch.randn(*sides, 8)
    torch.testing.assert_close(attention(tokens[None])[0], by_the_book(attention, tokens))


def test_a_grid_larger_than_the_window_is_cut_into_windows(attention):
    tokens = torch.randn(1, 5, 3, 4, 8)
    attended = attention(tokens)
    for d, w in product((slice(0, 3), slice(3, 5)), (slice(0, 3), slice(3, 4))):
        torch.testing.assert_close(attended[0, d, :, w], by_the_book(attention, tokens[0, d, :, w]))


def test_every_weight_of_a_window_learns(attention):
    attention.requires_grad_(True)
    attention(torch.randn(2, 4, 2, 2, 8)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attention.parameters())
