import pytest
import torch

from samdpo.networks import precision
from samdpo.networks.precision import autocast, resolve_precision


@pytest.mark.parametrize("name", ["fp32", "bf16"])
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
