import pytest
import torch

from samdpo.networks import precision
from samdpo.networks.precision import (
    autocast,
    decoder_autocast,
    fast_matrix_products,
    gradient_scaler,
    memory_format,
    resolve_precision,
)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_named_precision_is_taken(name):
    assert resolve_precision(name, "cpu") == name


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_asks_the_hardware(monkeypatch, supported, expected):
    monkeypatch.setattr(precision, "has_bf16", lambda device: supported)
    assert resolve_precision("auto", "cpu") == expected


def test_auto_is_float32_where_nothing_is_known(monkeypatch):
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_sets_the_type_of_matrix_products(name, dtype):
    with autocast("cpu", name):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_a_card_without_bfloat16_computes_in_float16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == expected


def test_only_float16_scales_its_gradients():
    assert gradient_scaler("cpu", "fp16").is_enabled()
    assert not gradient_scaler("cpu", "bf16").is_enabled() and not gradient_scaler("cpu", "fp32").is_enabled()


def test_without_float16_a_step_is_the_optimisers_own():
    values = []
    for scaled in (False, True):
        weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = torch.optim.Adam([weight], lr=0.1)
        scaler = gradient_scaler("cpu", "fp32")
        loss = (weight**3).sum()
        (scaler.scale(loss) if scaled else loss).backward()
        if scaled:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        values.append(weight.detach().clone())
    assert torch.equal(*values)


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_falls():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer, scaler = torch.optim.SGD([weight], lr=1.0), gradient_scaler("cpu", "fp16")
    scaler.scale(weight.sum()).backward()
    before = scaler.get_scale()
    weight.grad.fill_(float("inf"))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert weight.item() == 1.0 and scaler.get_scale() < before
    continued = gradient_scaler("cpu", "fp16")
    continued.load_state_dict(scaler.state_dict())
    assert continued.get_scale() == scaler.get_scale()


def test_on_a_cpu_the_decoder_and_the_settings_of_torch_stay_as_they_are():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    fast_matrix_products("cpu")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before
    with decoder_autocast("cpu", "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_on_a_gpu_the_decoder_computes_in_half_precision(name, dtype):
    with decoder_autocast("cuda", name):
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype == dtype
    assert memory_format("cuda") == torch.channels_last
