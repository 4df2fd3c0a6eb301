"""Everything that lies in a benchmark's folder is collected, checked and written."""

from __future__ import annotations

import pytest
from fake_runs import DATASET, fake_run, plan_cell

from samdpo.errors import ConfigurationError
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.methods import ABLATIONS, chosen_ablations, chosen_methods
from samdpo.lab.benchmark.records import load_records
from samdpo.lab.benchmark.report import collect, write_report
from samdpo.lab.benchmark.settings import Settings

TWO = {DATASET: 2}


def settings(root, *methods: str, **changes) -> Settings:
    return Settings(root, [DATASET], chosen_methods(methods), **{"labelled": (0.5,), "seeds": (1,), **changes})


def runs(records) -> list[tuple[str, float, int, str]]:
    return [(r.method, r.labelled, r.seed, r.status) for r in records]


def test_what_was_asked_for_is_missing_and_what_is_there_is_collected(tmp_path):
    fake_run(Cell(tmp_path, 0.5, 1), "align")
    fake_run(Cell(tmp_path, 0.2, 7), "unet")  # of another share and seed, and not asked for
    records = collect(settings(tmp_path, "finetune"), [], TWO, "samdpoPlans")
    assert runs(records) == [("unet", 0.2, 7, "done"), ("finetune", 0.5, 1, "missing"), ("align", 0.5, 1, "done")]


def test_variants_are_collected_where_they_are_and_missed_where_asked_for(tmp_path):
    noise = next(a.method for a in ABLATIONS if a.method.name == "noise_10")
    fake_run(Cell(tmp_path, 0.5, 1), noise)
    fake_run(Cell(tmp_path, 0.5, 1, 0.2), "align")
    found = collect(settings(tmp_path, "finetune"), chosen_ablations(["loss"]), TWO, "samdpoPlans")
    assert {(r.method, r.unlabelled, r.status) for r in found} == {
        ("finetune", None, "missing"), ("noise_10", None, "done"), ("align", 0.2, "done"),
        *((f"loss_{name}", None, "missing") for name in ("ipo", "hinge", "robust")),
    }


def test_runs_with_other_cases_are_refused_before_anything_is_written(tmp_path):
    fake_run(Cell(tmp_path, 0.5, 1), "align")
    fake_run(Cell(tmp_path, 0.5, 1), "finetune", labelled=["c"])
    with pytest.raises(ConfigurationError, match="cannot be compared"):
        collect(settings(tmp_path, "finetune"), [], TWO, "samdpoPlans")
    assert [path.name for path in tmp_path.iterdir()] == ["labelled_0.5"]


def test_tables_lie_beside_benchmark_json_and_those_of_another_plan_in_its_folder(tmp_path):
    asked = settings(tmp_path, "finetune", plans=("samdpoPlans", "myPlans"))
    fake_run(Cell(tmp_path, 0.5, 1), "align")
    plan_cell(Cell(tmp_path, 0.5, 1))
    records = {plans: collect(asked, [], TWO, plans) for plans in asked.plans}
    files = write_report(asked, records)
    assert all(file.is_file() for file in files)
    assert {tmp_path / "table1.md", tmp_path / "table2.csv", tmp_path / "published_table1.md"} <= set(files)
    assert load_records(tmp_path) == [*records["samdpoPlans"], *records["myPlans"]]
    assert "not run" in (tmp_path / "myPlans" / "table1.md").read_text()


def test_where_nothing_was_run_nothing_is_written(tmp_path):
    asked = settings(tmp_path, "finetune")
    assert write_report(asked, {"samdpoPlans": collect(asked, [], TWO, "samdpoPlans")}) == []
    assert not list(tmp_path.iterdir())
