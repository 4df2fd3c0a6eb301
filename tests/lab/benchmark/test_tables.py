"""One table, three formats; what failed says so, and what has seen the truth stands apart."""

from __future__ import annotations

import csv
import io
import math

import pytest
from fake_runs import DATASET, fake_run, plan_cell

from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.effort import Asked
from samdpo.lab.benchmark.execute import failed
from samdpo.lab.benchmark.methods import ABLATIONS, METHODS
from samdpo.lab.benchmark.records import collect_run
from samdpo.lab.benchmark.report import COLUMNS, published_tables, table1, table2
from samdpo.lab.benchmark.statistics import Spread
from samdpo.lab.benchmark.tables import Section, Table, as_csv, as_markdown, as_tex, as_text, write_table

SMALL = Table("A title", ["method", "Dice", "n"], [Section("10% of A_B", [["one & two", Spread(0.5, 0.25, 2), 3]])],
              notes=["why"], remarks=["how"], sources=["one: `a/summary.json`"])


@pytest.mark.parametrize(("entry", "text"), [
    (Spread(0.7049, 0.0538, 3), "0.705 ± 0.054"), (Spread(0.7, None, 1), "0.700"), (Spread(math.nan, None, 0), "–"),
    (None, "–"), (math.nan, "–"), (0.0001, "<0.001"), (-0.0001, "-0.000"), (0.0123, "0.012"), (28, "28"), ("x", "x"),
])
def test_entries_as_text(entry, text):
    assert as_text(entry) == text


def test_markdown_has_the_numbers_the_notes_and_the_folders():
    text = as_markdown(SMALL)
    assert "| one & two | 0.500 ± 0.250 | 3 |" in text and "## 10% of A_B" in text
    assert "[1] why" in text and "how" in text and "- one: `a/summary.json`" in text


def test_csv_has_mean_and_spread_apart():
    rows = list(csv.reader(io.StringIO(as_csv(SMALL))))
    assert rows[0] == ["section", "method", "Dice", "Dice sd", "n"]
    assert rows[1] == ["10% of A_B", "one & two", "0.5", "0.25", "3"]


def test_tex_escapes_what_it_must():
    text = as_tex(SMALL)
    assert r"one \& two & 0.500 $\pm$ 0.250 & 3 \\" in text and r"10\% of A\_B" in text
    assert text.count(r"\begin{tabular}{lcc}") == text.count(r"\end{tabular}") == 1


@pytest.fixture
def cells(tmp_path) -> list[Cell]:
    return [Cell(tmp_path, 0.5, seed) for seed in (1, 2)]


def made(cells, *methods, tables=table1):
    rows = [METHODS[m] if isinstance(m, str) else m for m in methods]
    records = [collect_run(cell, DATASET, "samdpoPlans", method, "0") for cell in cells for method in rows]
    return tables(records, cells[0].root)


def rows_of(table, section: str = "") -> dict[str, dict[str, object]]:
    return {row[0]: dict(zip(COLUMNS, row)) for s in table.sections if s.title.endswith(section) for row in s.rows}


def test_table1_compares_methods_with_their_spread_and_their_test(cells):
    for cell, shift in zip(cells, (0.0, 0.1)):
        plan_cell(cell)
        fake_run(cell, "finetune", dice=[0.3 + shift, 0.4 + shift, 0.5 + shift])
        fake_run(cell, "align", dice=[0.5 + shift, 0.6 + shift, 0.7 + shift],
                 asked=Asked("mixture", 10.0, 8.0 + 10 * shift, 57, 57, "new"))
        fake_run(cell, "align_preferences", dice=[0.4 + shift, 0.5 + shift, 0.6 + shift])
    table = made(cells, "finetune", "align_preferences", "align")
    assert [s.title for s in table.sections] == [f"{DATASET}, 50% labelled, fold 0, 3 test cases"]
    ours = rows_of(table)["Ours (align)"]
    assert ours["Dice"].mean == pytest.approx(0.65) and ours["Dice"].sd == pytest.approx(0.0707, abs=1e-4)
    assert (ours["seeds"], ours["n"], ours["training minutes"]) == ("2", 3, "1.5")
    assert ours["against"] == "Eq. 5 over pixels" and ours["difference"] == pytest.approx(0.1)
    assert ours["p"] == pytest.approx(0.25) and ours["p (Holm)"] == pytest.approx(0.75)
    assert ours["asked of an annotator"] == "57 answers (8.5 minutes)"
    assert rows_of(table)["Eq. 5 over pixels"]["asked of an annotator"] == "2 images judged (0.0275 kbit)"
    assert table.remarks[-1] == (
        "Budget of a training: 6 minutes: finetune (3 epochs), align_preferences (3 epochs), align (3 epochs)."
    )
    assert sum("finetune, seed 1: Dice 0.4000: `labelled_0.5/seed_1/results/" in line for line in table.sources) == 1


def test_failed_says_failed_with_its_reason_and_missing_says_so(cells):
    fake_run(cells[0], "finetune")
    fake_run(cells[1], "finetune")
    fake_run(cells[0], "align")
    failed(cells[1].logs / "samdpo_train_901_align_0.log", "samdpo_train", "no memory")
    for cell in cells:
        failed(cell.logs / "samdpo_train_901_unet_0.log", "samdpo_train", "no network")
    table = made(cells, "unet", "finetune", "align", "fixmatch")
    rows = rows_of(table)
    assert rows["U-Net [1][2]"]["Dice"] == "failed" and rows["FixMatch"]["Dice"] == "not run"
    assert rows["Ours (align) [3]"]["seeds"] == "1 of 2" and rows["Ours (align) [3]"]["Dice"].sd is None
    assert table.notes == ["unet, seed 1: no network", "unet, seed 2: no network", "align, seed 2: no memory"]
    assert "U-Net [1][2] | 0 of 2 | failed" in as_markdown(table)


def test_prompts_from_the_truth_and_all_labels_stand_apart_and_are_nobodys_rival(cells):
    for cell in cells:
        fake_run(cell, "finetune", dice=[0.1, 0.2, 0.3])
        fake_run(cell, "align", dice=[0.2, 0.3, 0.4])
        fake_run(cell, "sam", dice=[0.0, 0.1, 0.2])
        fake_run(cell, "sam_truth_box", dice=[0.9, 0.9, 0.9])
        fake_run(cell, "prompt_only", dice=[0.8, 0.8, 0.8])
    table = made(cells, "finetune", "align", "sam", "sam_truth_box", "prompt_only")
    assert list(rows_of(table, "comes from its truth")) == ["SAM, LoRA, truth's box at test"]
    assert list(rows_of(table, "all labels of the training cases")) == ["Prompt-only, all labels"]
    fair = rows_of(table, "test cases")
    assert {row["against"] for row in fair.values()} == {"Ours (align)", "Ours, stage 1 (finetune)"}


def test_components_left_out_follow_as_in_the_paper(cells):
    variants = {a.method.name: a.method for a in ABLATIONS}
    fewer = [Cell(cell.root, cell.labelled, cell.seed, 0.1) for cell in cells]
    for cell in cells:
        for method in ("align", "finetune", variants["no_answers"], variants["no_saliency"]):
            fake_run(cell, method)
    for cell in fewer:
        fake_run(cell, "align", dice=[0.9, 0.9, 0.9])
    more = Cell(cells[0].root, 0.6, 1)
    fake_run(more, "finetune")
    records = [collect_run(c, DATASET, "samdpoPlans", METHODS["align"], "0") for c in fewer]
    records += [collect_run(more, DATASET, "samdpoPlans", METHODS["finetune"], "0")]
    records += [collect_run(c, DATASET, "samdpoPlans", m, "0") for c in cells
                for m in (METHODS["align"], METHODS["finetune"], variants["no_answers"], variants["no_saliency"])]
    rows = rows_of(table1(records, cells[0].root), "components left out")
    assert list(rows) == ["all of it, +10% unlabelled", "- alignment, 60% labelled",
                          "all of it, all other images unlabelled", "- alignment", "- alignment - answers",
                          "- alignment - answers - saliency"]
    assert rows["all of it, +10% unlabelled"]["Dice"].mean == pytest.approx(0.9)


ASKED = Asked("mixture", 10.0, 8.0, 57, 57, "new")


def test_table2_has_scoring_for_each_share_of_unlabelled_images(cells):
    rating = next(a.method for a in ABLATIONS if a.method.name == "rating")
    fewer = [Cell(cell.root, cell.labelled, cell.seed, 0.1) for cell in cells]
    ranked = ("align_preferences", "best_candidate", rating)
    for cell in cells:
        fake_run(cell, "align_preferences")
    for cell in fewer:
        for method in ranked:
            fake_run(cell, method)
        fake_run(cell, "align", asked=ASKED)
    rows = [METHODS[m] if isinstance(m, str) else m for m in (*ranked, "align")]
    records = [collect_run(c, DATASET, "samdpoPlans", m, "0") for c in fewer for m in rows]
    records += [collect_run(c, DATASET, "samdpoPlans", METHODS["align_preferences"], "0") for c in cells]
    table = table2(records, cells[0].root)
    assert [s.title.partition(", fold")[0] for s in table.sections] == [
        f"{DATASET}, 50% labelled + 10% unlabelled", f"{DATASET}, 50% labelled"
    ]
    assert [row[0] for row in table.sections[0].rows] == [
        "best candidate as a label", "rating", "ranking", "answers about places (align)"
    ]
    assert [row[0] for row in table.sections[1].rows] == ["ranking"]


def test_align_of_volumes_is_the_papers_ranking_and_the_base_of_its_variants(cells):
    noisy = next(a.method for a in ABLATIONS if a.group == "noise")
    for cell in cells:
        fake_run(cell, "align")
        fake_run(cell, noisy)
    table = made(cells, "align", noisy, tables=table2)
    assert [row[0] for row in table.sections[0].rows] == ["ranking"]
    assert table.sections[1].title.endswith("variants of Eq. 5 over pixels")
    assert [row[0] for row in table.sections[1].rows] == ["Ours (align)", "5% of neighbours flipped"]


def test_variants_stand_below_the_stage_that_they_vary(cells):
    of = {a.method.name: a.method for a in ABLATIONS}
    for cell in cells:
        fake_run(cell, "align", asked=ASKED)
        fake_run(cell, of["boxes"], asked=Asked("boxes", 10.0, 8.6, 57, 57, "new"))
        fake_run(cell, "align_preferences")
        fake_run(cell, of["noise_05"])
    table = made(cells, "align", "align_preferences", of["boxes"], of["noise_05"], tables=table2)
    variants = {s.title.rpartition(": ")[2]: [row[0] for row in s.rows] for s in table.sections}
    assert variants["variants of align"] == ["Ours (align)", "Boxes alone"]
    assert variants["variants of Eq. 5 over pixels"] == ["Eq. 5 over pixels", "5% of neighbours flipped"]


def test_without_a_run_there_is_no_table(tmp_path):
    assert table1([], tmp_path) is None and table2([], tmp_path) is None


def test_published_numbers_are_called_so_and_kept_apart(tmp_path):
    tables = published_tables()
    assert all(name.startswith("published_") and "Published" in t.title for name, t in tables.items())
    rows = {row[0]: row for t in tables.values() for s in t.sections for row in s.rows}
    assert rows["10% + 10%: ranking"][1:5] == ("74.30", "78.87", "64.35", "75.88")
    assert all(len(row) == len(t.columns) for t in tables.values() for s in t.sections for row in s.rows)
    files = write_table(tables["published_figure3"], tmp_path, "published_figure3")
    assert [file.suffix for file in files] == [".md", ".csv", ".tex"] and all(file.stat().st_size for file in files)
