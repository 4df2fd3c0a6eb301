"""Mean, spread, and tests that agree with numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from samdpo.lab.benchmark.records import Record
from samdpo.lab.benchmark.statistics import against_best, holm, spread, wilcoxon_p


def run(method: str, seed: int, per_case: dict[str, float]) -> Record:
    mean = sum(per_case.values()) / len(per_case)
    return Record("Dataset901_Fake", method, method, "samdpoPlans", 0.1, seed, "0", "done", Path(method),
                  metrics={"Dice": mean}, per_case=per_case)


def test_spread_is_the_sample_standard_deviation():
    assert spread([1.0, 2.0, 3.0]).mean == 2 and spread([1.0, 2.0, 3.0]).sd == 1
    assert spread([0.5]).sd is None
    assert spread([]).n == 0 and math.isnan(spread([]).mean)


def test_wilcoxon_is_exact_for_few_pairs():
    # All 6 differences positive: the two extreme of 2^6 signs.
    assert wilcoxon_p([1.1, 1.2, 1.3, 1.4, 1.5, 1.6], [1.0] * 6) == pytest.approx(2 / 2**6)
    assert wilcoxon_p([0.5, 0.6], [0.5, 0.6]) == 1


def test_holm_multiplies_the_smallest_most_and_never_falls():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_each_method_is_tested_against_the_best_other_one():
    cases = [f"case_{i}" for i in range(6)]
    runs = {
        name: [run(name, seed, {case: base + 0.01 * i for i, case in enumerate(cases)}) for seed in (1, 2)]
        for name, base in {"best": 0.8, "second": 0.7, "third": 0.5}.items()
    }
    tests = against_best(runs)
    assert {name: test.rival for name, test in tests.items()} == {"best": "second", "second": "best", "third": "best"}
    assert tests["best"].difference == pytest.approx(0.1) and tests["third"].difference == pytest.approx(-0.3)
    assert {(test.n, test.seeds) for test in tests.values()} == {(6, 2)}
    assert all(test.p_holm >= test.p for test in tests.values())
    assert tests["third"].p_holm == pytest.approx(3 * 2 / 2**6)


def test_only_seeds_and_cases_that_both_have_are_paired():
    runs = {
        "one": [run("one", 1, {"a": 0.5, "b": 0.6}), run("one", 2, {"a": 0.9, "b": 0.9})],
        "other": [run("other", 1, {"a": 0.4, "b": math.nan})],
    }
    test = against_best(runs)["one"]
    assert (test.n, test.seeds) == (1, 1) and test.difference == pytest.approx(0.1)


def test_a_single_method_has_nothing_to_be_tested_against():
    assert against_best({"one": [run("one", 1, {"a": 0.5})]}) == {}
    assert against_best({"one": [run("one", 1, {"a": 0.5})], "other": [run("other", 2, {"a": 0.4})]}) == {}
