"""Where a structure's description comes from: the plan, a file of the dataset, the bundled ones, its name."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib import resources

import pytest

from samdpo.errors import ConfigurationError
from samdpo.plans import NetworkPlan, Plans, PreprocessingPlan, PromptingPlan, StructurePlan
from samdpo.prompting.descriptions import (
    FILE_NAME,
    describe,
    is_described,
    read_descriptions,
    with_descriptions,
    write_descriptions,
)

AMOS = [
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus",
]
OTHERS = ["lung", "Lungs", "lung infection", "Benign breast tumour", "malignant breast tumor", "breast tumor"]
DATASET = "Dataset905_Chest"


@pytest.mark.parametrize("name", [*AMOS, *OTHERS])
def test_the_bundled_descriptions_cover_the_papers_structures(name):
    assert is_described(name) and len(describe(name)) > 60


def test_every_bundled_description_has_a_source_and_one_structure_a_name():
    text = resources.files("samdpo.prompting").joinpath("descriptions.json").read_text(encoding="utf-8")
    entries = json.loads(text)["structures"]
    assert all(entry["source"] and entry["text"].endswith(".") for entry in entries)
    names = [name for entry in entries for name in entry["names"]]
    assert len(names) == len(set(names))


def test_an_unknown_structure_is_described_by_its_name_with_one_warning(caplog):
    logging.getLogger("samdpo").propagate = True
    with caplog.at_level(logging.WARNING, logger="samdpo"):
        assert describe("zonule of zinn") == "zonule of zinn."
        describe("zonule of zinn")
    (said,) = [r.getMessage() for r in caplog.records if "zonule" in r.getMessage()]
    assert "samdpo_describe" in said


def test_the_users_description_wins():
    assert describe("liver", "A brown organ.") == "A brown organ."


def plans(**structures: StructurePlan) -> Plans:
    return Plans(DATASET, "samdpoPlans", "LitePlanner", ".png", structures, [1.0, 1.0, 1.0], [1, 8, 8], 2,
                 PreprocessingPlan(), PromptingPlan(), NetworkPlan(), {})


def test_the_plan_wins_over_the_preprocessed_folder_and_that_over_the_raw_one(roots):
    described = plans(lung=StructurePlan(1, "lung", description="Of the plan."), heart=StructurePlan(2, "heart"),
                      rib=StructurePlan(3, "rib"), skin=StructurePlan(4, "skin"))
    for root, names in ((roots.preprocessed, ["Lungs", "heart"]), (roots.raw, ["lung", "Hearts", "rib"])):
        write_descriptions(
            root / DATASET / FILE_NAME, {name: {"text": f"{root.name} {name}", "source": ""} for name in names}
        )
    texts = {name: structure.description for name, structure in with_descriptions(described).structures.items()}
    assert texts == {"lung": "Of the plan.", "heart": "nnUNet_preprocessed heart", "rib": "nnUNet_raw rib", "skin": ""}


def test_without_files_or_folders_the_plan_is_as_it_was(monkeypatch, roots):
    plan = plans(lung=StructurePlan(1, "lung"))
    assert with_descriptions(plan) == plan
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.delenv("nnUNet_preprocessed")
    assert with_descriptions(plan) == plan


def test_a_text_alone_counts_and_what_is_written_is_read(tmp_path):
    file = tmp_path / FILE_NAME
    file.write_text('{"descriptions": {"lung": " Two fields. "}}')
    assert read_descriptions(file) == {"lung": {"text": "Two fields.", "source": ""}}
    write_descriptions(file, {"lung": {"text": "Other.", "source": "me"}})
    assert read_descriptions(file) == {"lung": {"text": "Other.", "source": "me"}}


@pytest.mark.parametrize("content", ["{", "[]", '{"descriptions": []}', '{"descriptions": {"lung": 3}}',
                                     '{"descriptions": {"lung": {"source": "me"}}}'])
def test_a_damaged_file_is_named_with_how_to_write_it(roots, content):
    file = roots.preprocessed / DATASET / FILE_NAME
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r'descriptions\.json.*\{"descriptions": \{"lung"'):
        with_descriptions(plans(lung=StructurePlan(1, "lung")))


def test_a_described_plan_keeps_everything_else(roots):
    write_descriptions(roots.raw / DATASET / FILE_NAME, {"lung": {"text": "Two fields.", "source": ""}})
    plan = plans(lung=StructurePlan(1, "lung", components=2))
    assert with_descriptions(plan) == replace(
        plan, structures={"lung": replace(plan.structures["lung"], description="Two fields.")}
    )
