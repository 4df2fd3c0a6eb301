"""``import samdpo``: the commands' verbs as functions of a program or a notebook."""

from __future__ import annotations

import inspect
import logging
import os
import pkgutil
import subprocess
import sys

import pytest

import samdpo
from samdpo.files import read_json
from samdpo.plans import Plans

VERBS = ("plan", "preprocess", "train", "predict", "evaluate")


def test_importing_samdpo_imports_nothing_else() -> None:
    program = "import sys; before = set(sys.modules); import samdpo; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"samdpo", *sys.stdlib_module_names}
    assert "samdpo.api" not in done.stdout.split()


def test_every_public_name_is_there_and_is_itself() -> None:
    assert {*VERBS, "Predictor", "Trainer", "FinetuneTrainer", "AlignTrainer", "load_plans", "SamdpoError"} <= {
        *samdpo.__all__
    }
    for name in set(samdpo.__all__) - {"__version__"}:
        assert getattr(samdpo, name).__name__ == name
        assert name in dir(samdpo)


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing ``samdpo.x`` sets the attribute ``x`` of samdpo, whatever was there."""
    assert {module.name for module in pkgutil.iter_modules(samdpo.__path__)} & {*samdpo.__all__} == set()


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        samdpo.segment  # noqa: B018


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_typed_and_explains_its_arguments(verb: str) -> None:
    function = getattr(samdpo, verb)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for name, parameter in signature.parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, name
        assert f"        {name}: " in function.__doc__, f"{verb}'s documentation does not explain {name}"


def test_from_phantoms_to_scores(roots, tiny_dataset) -> None:
    handlers = logging.getLogger().handlers[:], logging.getLogger("samdpo").handlers[:]
    plans = samdpo.plan(901, labelled=0.5)
    assert isinstance(plans, Plans)
    assert plans == samdpo.load_plans(roots.preprocessed / "Dataset901_TinyXray" / "samdpoPlans.json")
    slices = samdpo.preprocess(901)
    assert len(list(slices.glob("*.b2nd"))) >= 12
    small = {"network.backbone": "tiny_sam", "network.frozen_stages": 0, "prompting.tower_steps": 2,
             "prompting.cross_fit_folds": 2}
    model = samdpo.train(901, "finetune", epochs=1, device="cpu", overrides=small, processes=1)
    assert model == roots.results / "Dataset901_TinyXray" / "FinetuneTrainer__samdpoPlans__finetune"
    assert samdpo.load_plans(model / "plans.json").stage("finetune").epochs == 1
    masks = samdpo.predict(tiny_dataset / "imagesTr", roots.raw.parent / "out", model, device="cpu")
    assert [mask.name for mask in masks] == sorted(f.name for f in (tiny_dataset / "labelsTr").iterdir())
    assert all(mask.with_suffix(".json").is_file() for mask in masks)
    summary = samdpo.evaluate(tiny_dataset / "labelsTr", roots.raw.parent / "out")
    assert 0 <= summary["foreground_mean"]["Dice"] <= 1
    assert len(summary["metric_per_case"]) == 8
    written = read_json(roots.raw.parent / "out" / "summary.json")
    assert written["foreground_mean"]["Dice"] == summary["foreground_mean"]["Dice"]
    assert (logging.getLogger().handlers, logging.getLogger("samdpo").handlers) == handlers


def test_a_trainer_may_be_a_class_of_the_program(planned) -> None:
    class OneStep(samdpo.FinetuneTrainer):
        def recipes(self, epoch):
            return list(super().recipes(epoch))[:1]

    model = samdpo.train(901, "finetune", trainer=OneStep, epochs=1, device="cpu")
    assert model.name == "OneStep__samdpoPlans__finetune"
    assert (model / "fold_0" / "validation" / "summary.json").is_file()


def test_errors_are_sentences_and_the_process_goes_on(roots) -> None:
    for attempt in (
        lambda: samdpo.plan(7), lambda: samdpo.preprocess(7), lambda: samdpo.train(7, "finetune"),
        lambda: samdpo.predict(roots.raw, roots.results / "out"), lambda: samdpo.evaluate(roots.raw, roots.results),
    ):
        with pytest.raises(samdpo.SamdpoError):
            attempt()


def test_a_database_is_only_named_while_it_is_used(planned, monkeypatch) -> None:
    monkeypatch.delenv("samdpo_database", raising=False)
    with pytest.raises(samdpo.SamdpoError, match="finetune"):
        samdpo.train(901, "align", database="sqlite:///elsewhere.sqlite", annotator="recorded", device="cpu")
    assert "samdpo_database" not in os.environ
