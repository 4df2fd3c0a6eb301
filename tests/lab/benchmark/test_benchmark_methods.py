"""The registry of methods agrees with the plan's stages."""

from __future__ import annotations

import pytest

from samdpo.errors import ConfigurationError
from samdpo.lab.benchmark.methods import METHODS, chosen_methods, suits


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if 2 in method.ndims])
def test_every_method_of_pictures_is_a_stage_of_the_default_plan(name, default_plans):
    method = METHODS[name]
    earlier = default_plans.stage(method.stage).previous_stage
    assert (METHODS[method.after].stage if method.after else None) == earlier


def test_every_stage_of_the_default_plan_is_a_method(default_plans):
    assert set(default_plans.configurations) == {m.stage for m in METHODS.values() if 2 in m.ndims}


def test_names_are_those_of_the_rows_and_companions_name_a_row():
    assert all(name == method.name for name, method in METHODS.items())
    companions = [method for method in METHODS.values() if method.companion_of]
    assert len(companions) >= 2
    for method in companions:
        trained = METHODS[method.companion_of]
        assert (trained.stage, trained.ndims) == (method.stage, method.ndims)
        assert method.truth_prompt and not trained.truth_prompt and method.validation != trained.validation


def test_what_follows_a_stage_names_a_method():
    assert {method.after for method in METHODS.values()} == {None, "finetune"}


def test_a_chosen_method_brings_its_companion():
    assert [m.name for m in chosen_methods(["align", "sam"])] == ["sam", "sam_truth_box", "align"]
    assert chosen_methods(None) == list(METHODS.values())


def test_an_unknown_method_is_a_sentence_with_the_names():
    with pytest.raises(ConfigurationError, match=r"names 'aling'.*finetune, .*align"):
        chosen_methods(["aling"])
    with pytest.raises(ConfigurationError, match="a row of 'sam'"):
        chosen_methods(["sam_truth_box"])


def test_methods_suit_their_dimensions_and_need_unlabelled_images():
    assert not suits(METHODS["sam_med3d"], 2, False) and suits(METHODS["sam_med3d"], 3, False)
    assert suits(METHODS["finetune"], 2, True) and not suits(METHODS["align"], 2, True)


def test_only_fair_rows_compete():
    assert [m.name for m in METHODS.values() if not m.competes] == [
        "sam_truth_box", "sam_med2d_truth_box", "sam_med3d_truth_click", "prompt_only"
    ]
