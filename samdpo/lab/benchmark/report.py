"""From run folders to ``benchmark.json``, tables and figures.

A row of a table is one method over its seeds. The first table compares all methods, as the paper's Table 1 with the
components left out one by one; the second is the paper's Table 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from samdpo.lab.benchmark.cells import Cell, cells_on_disk
from samdpo.lab.benchmark.effort import is_covered
from samdpo.lab.benchmark.effort_study import effort_table
from samdpo.lab.benchmark.methods import ABLATIONS, ASKED, EVERY, METHODS, VARIANTS, Ablation, Method, cells_of, suits
from samdpo.lab.benchmark.records import METRICS, Record, assert_same_cases, collect_run, save_records
from samdpo.lab.benchmark.settings import Settings
from samdpo.lab.benchmark.statistics import Comparison, against_best, spread
from samdpo.lab.benchmark.tables import Entry, Notes, Section, Table, write_table
from samdpo.paths import PLANS_NAME

# What the paper itself reports, of its own data and splits: beside our numbers and never among them. Table 1, Table 2,
# and those numbers of its Figure 3 that its Sec. 4.1 states in words. All in percent, as printed.
_PUBLISHED_COLUMNS = (
    "", "X-ray IoU", "X-ray Dice", "ultrasound IoU", "ultrasound Dice", "AMOS-CT mDice", "AMOS-CT mSDC"
)
_PUBLISHED_DICE = ("", "X-ray Dice", "AMOS-CT mDice")
_PUBLISHED_TABLE_1 = (
    ("10% + 10% unannotated: ours", "74.30", "78.87", "64.35", "75.88", "77.69", "78.34"),
    ("20%: - alignment", "75.02", "79.13", "67.51", "81.38", "79.20", "80.66"),
    ("10%: - alignment", "68.43", "75.60", "61.44", "73.62", "74.77", "76.06"),
    ("10%: - alignment - VQA", "66.90", "73.35", "57.60", "70.53", "74.08", "75.41"),
    ("10%: - alignment - VQA - GPT4", "63.16", "72.76", "54.26", "68.89", "73.16", "74.89"),
    ("10%: - alignment - VQA - CAM", "50.38", "57.02", "45.16", "59.05", "69.97", "71.45"),
)
_PUBLISHED_TABLE_2 = (
    ("10% + 10%: loss for best candidate", "70.37", "77.09", "61.76", "73.81", "75.01", "76.36"),
    ("10% + 10%: rating", "73.99", "78.41", "63.97", "75.52", "77.23", "77.98"),
    ("10% + 10%: ranking", "74.30", "78.87", "64.35", "75.88", "77.69", "78.34"),
    ("10% + 20%: ranking", "79.74", "85.15", "73.56", "84.23", "80.54", "81.95"),
    ("10% + 40%: ranking", "88.96", "89.68", "85.92", "88.15", "84.30", "85.70"),
)
_PUBLISHED_FIGURE_3 = (
    ("20%: U-Net", "58.66", "59.35"),
    ("20%: nnU-Net", "60.97", "65.21"),
    ("20%: SAM", "61.64", "64.93"),
    ("20%: SAM-Med2D", "67.81", "66.57"),
    ("20%: SAM-Med3D", None, "72.54"),
    ("20%: Self-prompt", "68.41", "71.83"),
    ("20%: ours", "78.87", "77.69"),
    ("50%: ours", "89.68", "85.70 [1]"),
    ("50%: prompt-only", "91.42", "86.36"),
)
_PUBLISHED_REMARKS = (
    "Published by the paper; not ours. COVID-QU-Ex, BUSI with UDIAT, and AMOS-CT at the paper's sizes and splits, "
    "SAM-Med2D as backbone: other images, other amounts of them, another network than in our tables.",
)
ALL_LABELS = "all labels of the training cases"
TRUTH_PROMPT = "the test image's prompt comes from its truth"
COLUMNS = ("method", "seeds", "Dice", "IoU", "surface Dice", "against", "difference", "p", "p (Holm)", "n",
           "training minutes", "CPU minutes", "asked of an annotator")
_KBIT = 1000.0


def collect(settings: Settings, ablations: Sequence[Ablation], ndims: dict[str, int], plans: str) -> list[Record]:
    """Every run of a plan: all that were asked for, and of other methods, shares and seeds those that are there.

    Raises:
        ConfigurationError: runs that are compared had other cases, or a run's file is damaged.
    """
    asked = settings.cells()
    cells = [*asked, *(c for c in cells_on_disk(settings.root) if c not in asked and c.unlabelled is None)]
    cells.sort(key=lambda cell: cell.labelled)  # seeds stay in the order in which they were asked for
    wanted_variants = {(a.method.name, a.unlabelled) for a in ablations}
    variants = {(a.method.name, a.unlabelled): a for a in VARIANTS if a.unlabelled or a.method.name not in METHODS}
    records: list[Record] = []
    for dataset in settings.datasets:
        for cell in cells:
            for method in METHODS.values():
                wanted = method in settings.methods and suits(method, ndims[dataset], cell.labelled == 1)
                record = collect_run(cell, dataset, plans, method, settings.fold)
                records += [record] if record.status != "missing" or (wanted and cell in asked) else []
        for key, ablation in variants.items():
            for cell in cells_of(ablation, cells) if ndims[dataset] in ablation.ndims else ():
                base = Cell(cell.root, cell.labelled, cell.seed)
                record = collect_run(cell, dataset, plans, ablation.method, settings.fold)
                wanted = key in wanted_variants and base in asked and not is_covered(
                    cell, dataset, record.plans_name, record.stage, settings.fold)
                records += [record] if record.status != "missing" or wanted else []
    assert_same_cases(records, EVERY)
    return records


def write_report(settings: Settings, records_of: dict[str, list[Record]]) -> list[Path]:
    """Write ``benchmark.json``, tables and figures; returns the files, none where nothing was run.

    Args:
        settings: of the benchmark.
        records_of: plan -> its runs; another plan than the usual one has its tables in a folder of its name.
    """
    every = [record for records in records_of.values() for record in records]
    if all(record.status == "missing" for record in every):
        return []
    files = [save_records(every, settings.root, {"budget": settings.budget, "fold": settings.fold})]
    for name, table in published_tables().items():
        files += write_table(table, settings.root, name)
    for plans, records in records_of.items():
        folder = settings.root if plans == PLANS_NAME else settings.root / plans
        others = [r for r in records if r.stage not in ASKED]  # than points of the effort study
        tables = {"table1": table1(others, settings.root), "table2": table2(others, settings.root),
                  "effort": effort_table(records, settings.root)}
        files += [file for name, table in tables.items() if table for file in write_table(table, folder, name)]
        files += _figures(records, cells_on_disk(settings.root), folder)
    return files


def _figures(records: Sequence[Record], cells: Sequence[Cell], folder: Path) -> list[Path]:
    from samdpo.lab.benchmark.effort_study import draw_effort
    from samdpo.lab.benchmark.figure3 import draw_figure3
    from samdpo.lab.benchmark.figure4 import draw_figure4
    from samdpo.lab.benchmark.figure5 import draw_figure5

    return [*draw_figure3(records, folder), *draw_figure4(records, cells, folder),
            *draw_figure5(records, cells, folder), *draw_effort(records, folder)]


def published_tables() -> dict[str, Table]:
    """``published_table1``, ``published_table2``, ``published_figure3`` -> table; only the third has a footnote."""
    return {
        "published_table1": Table(
            "Published: the paper's Table 1, in percent", _PUBLISHED_COLUMNS,
            [Section("Components", _PUBLISHED_TABLE_1)], remarks=_PUBLISHED_REMARKS,
        ),
        "published_table2": Table(
            "Published: the paper's Table 2, in percent", _PUBLISHED_COLUMNS,
            [Section("Preference scoring and unannotated data", _PUBLISHED_TABLE_2)], remarks=_PUBLISHED_REMARKS,
        ),
        "published_figure3": Table(
            "Published: what the paper's text says of its Figure 3, in percent", _PUBLISHED_DICE,
            [Section("Share of data: methods", _PUBLISHED_FIGURE_3)], remarks=_PUBLISHED_REMARKS,
            notes=("So in the paper's text; its Table 2 has 84.30 as mDice and 85.70 as mSDC.",),
        ),
    }


def table1(records: Sequence[Record], root: Path) -> Table | None:
    """All methods, then the components left out one by one as in the paper's Table 1.

    Methods that see all labels, and prompts that come from the truth of a test image, stand in sections of their own:
    they take no part in the tests.
    """
    notes, sections = Notes(), []
    main = [r for r in records if r.unlabelled is None and r.method in METHODS]
    for (dataset, labelled, _), runs in _grouped(main).items():
        title = _section_title(dataset, labelled, None, runs)
        by_method = _by_method(runs)
        done = {name: [r for r in of if r.done] for name, of in by_method.items() if METHODS[name].competes}
        tests = against_best(done)
        parts: dict[str, list[list[Entry]]] = {}
        for name, of_method in by_method.items():
            method = METHODS[name]
            apart = TRUTH_PROMPT if method.truth_prompt else ALL_LABELS if method.all_labels else ""
            row = row_of(method, of_method, tests.get(name), notes)
            parts.setdefault(f"{title}: {apart}" if apart else title, []).append(row)
        sections += [Section(part, rows) for part, rows in parts.items()]
    sections += _component_sections(records, notes)
    return _table("Methods, and components left out (the paper's Table 1)", sections, notes, records, root)


def table2(records: Sequence[Record], root: Path) -> Table | None:
    """Who says what about candidates, how many unlabelled images there are (the paper's Table 2), and further variants
    of Eq. 5 over pixels and of what is asked about places, each beside the stage that it varies."""
    notes, sections = Notes(), []
    variants = {a.method.name: a for a in ABLATIONS if a.group not in ("components", "scoring", "unlabelled")}
    for (dataset, labelled, unlabelled), runs in _grouped(records).items():
        by_method = _by_method(runs)
        scoring = [n for n in ("finetune", "best_candidate", "rating", "align_preferences", "align") if n in by_method]
        about = {bool(r.asked) for r in by_method.get("align", ()) if r.done}
        over_pixels = about == {False} and "align_preferences" not in by_method  # so is align of volumes
        own = "ranking" if over_pixels else "answers about places (align)" if True in about else "align"
        called = {**_SCORING, "align": own}
        title = _section_title(dataset, labelled, unlabelled, runs)
        if set(scoring) - {"finetune"}:
            rows = [row_of(EVERY[n], by_method[n], None, notes, called[n]) for n in scoring]
            sections.append(Section(f"{title}: preference scoring", rows))
        for base, what in (("align_preferences", "variants of Eq. 5 over pixels"), ("align", "variants of align")):
            found = [n for n, variant in variants.items() if variant.base == base and n in by_method]
            first = "align" if over_pixels else base
            rows = [row_of(EVERY[n], by_method[n], None, notes) for n in (first, *found) if n in by_method]
            sections += [Section(f"{title}: {what}", rows)] if found else []
    return _table("Preference scoring and unlabelled images (the paper's Table 2)", sections, notes,
                  [r for r in records if r.method not in METHODS or METHODS[r.method].stage.startswith("align")
                   or r.method == "finetune"], root)


_SCORING = {"finetune": "no alignment", "best_candidate": "best candidate as a label", "rating": "rating",
            "align_preferences": "ranking"}
_LEFT_OUT = ("no_answers", "no_texts", "no_saliency")


def _component_sections(records: Sequence[Record], notes: Notes) -> list[Section]:
    """The paper's Table 1, where one of its prompts was left out in some run."""
    sections, groups = [], _grouped(records)
    for (dataset, labelled, unlabelled), runs in groups.items():
        by_method = _by_method(runs)
        if unlabelled is not None or not set(by_method) & set(_LEFT_OUT):
            continue
        rows: list[tuple[str, Sequence[Record]]] = []
        for share in sorted(u for d, share, u in groups if (d, share) == (dataset, labelled) and u is not None):
            rows.append((f"all of it, +{share:.0%} unlabelled", _runs(groups, "align", dataset, labelled, share)))
            more = round(labelled + share, 6)
            rows.append((f"- alignment, {more:.0%} labelled", _runs(groups, "finetune", dataset, more)))
        rows += [("all of it, all other images unlabelled", by_method.get("align", [])),
                 ("- alignment", by_method.get("finetune", []))]
        rows += [(EVERY[name].title, by_method.get(name, [])) for name in _LEFT_OUT]
        sections.append(Section(
            f"{_section_title(dataset, labelled, unlabelled, runs)}: components left out",
            [row_of(EVERY[of[0].method], of, None, notes, title) for title, of in rows if of],
        ))
    return sections


def _runs(
    groups: Mapping[tuple[str, float, float | None], Sequence[Record]], method: str, dataset: str, labelled: float,
    unlabelled: float | None = None,
) -> list[Record]:
    return [r for r in groups.get((dataset, labelled, unlabelled), ()) if r.method == method]


def _table(
    title: str, sections: Sequence[Section], notes: Notes, records: Sequence[Record], root: Path
) -> Table | None:
    if not sections:
        return None
    return Table(title, COLUMNS, sections, notes.texts, remarks_on(records), sources_of(records, root))


def _section_title(dataset: str, labelled: float, unlabelled: float | None, runs: Sequence[Record]) -> str:
    """``Dataset101_LungXray, 10% labelled, fold 0, 28 test cases``."""
    tested = sorted({len(r.per_case) for r in runs if r.done})
    rest = "" if unlabelled is None else f" + {unlabelled:.0%} unlabelled"
    cases = f", {tested[0]} test cases" if tested else ""
    return f"{dataset}, {labelled:.0%} labelled{rest}, fold {runs[0].fold}{cases}"


def _grouped(records: Sequence[Record]) -> dict[tuple[str, float, float | None], list[Record]]:
    groups: dict[tuple[str, float, float | None], list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 2.0)))


def _by_method(records: Sequence[Record]) -> Mapping[str, list[Record]]:
    order = list(EVERY).index
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.method, []).append(record)
    return {name: found[name] for name in sorted(found, key=order)}


def row_of(method: Method, runs: Sequence[Record], test: Comparison | None, notes: Notes, title: str | None = None
         ) -> list[Entry]:
    """One method over its seeds; failures and missing runs are said in the row."""
    done, lost = [r for r in runs if r.done], [r for r in runs if r.status == "failed"]
    marks = "".join(dict.fromkeys(notes.mark(f"{r.method}, seed {r.seed}: {r.reason}") for r in lost))
    name = f"{title or method.title}{' ' + marks if marks else ''}"
    seeds = f"{len(done)} of {len(runs)}" if len(done) < len(runs) else str(len(done))
    if not done:
        said = "failed" if lost else "not run"
        return [name, seeds, said, *[None] * (len(COLUMNS) - 3)]
    scores: list[Entry] = [spread([r.metrics[metric] for r in done]) for metric in METRICS]
    tested: list[Entry] = [None] * 5 if test is None else [
        METHODS[test.rival].title, test.difference, test.p, test.p_holm, test.n
    ]
    minutes = [_mean_minutes([r.train_minutes for r in done]), _mean_minutes([r.cpu_minutes for r in done])]
    return [name, seeds, *scores, *tested, *minutes, _asked(done)]


def _mean_minutes(values: Sequence[float | None]) -> str | None:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1f}" if known else None


def _asked(runs: Sequence[Record]) -> str | None:
    """``11 masks (12.6 kbit), 100 images judged (1.4 kbit)`` or ``57 answers (8.4 minutes)``: means over the runs."""
    parts = []
    outlines = [(r.n_labelled, r.outline_bits) for r in runs if r.n_labelled and r.outline_bits is not None]
    if outlines:
        parts.append(f"{_mean_count(outlines)} masks ({_mean_kbit(outlines)})")
    judged = [(r.n_unlabelled, r.judgement_bits) for r in runs if r.n_unlabelled and r.judgement_bits]
    if judged:
        parts.append(f"{_mean_count(judged)} images judged ({_mean_kbit(judged)})")
    asked = [(r.asked.answers, r.asked.minutes) for r in runs if r.asked and r.asked.asks]
    if asked:
        parts.append(f"{_mean_count(asked)} answers ({fmean(minutes for _, minutes in asked):.3g} minutes)")
    return ", ".join(parts) or None


def _mean_count(asked: Sequence[tuple[int, float]]) -> str:
    return f"{sum(n for n, _ in asked) / len(asked):.0f}"


def _mean_kbit(asked: Sequence[tuple[int, float]]) -> str:
    kbit = sum(n * bits for n, bits in asked) / len(asked) / _KBIT
    return f"{kbit:.0f} kbit" if kbit >= 100 else f"{kbit:.3g} kbit"


def remarks_on(records: Sequence[Record]) -> list[str]:
    """What must be known to read the numbers."""
    return [
        "Mean ± sample standard deviation over seeds; a seed's number is the mean over test cases of each structure, "
        "then over structures.",
        "p: two-sided paired Wilcoxon signed-rank test over n test cases, Dice averaged over seeds, against the best "
        "other method of the section; Holm's correction over the methods of the section. Methods with all labels or "
        "with the truth's prompt are not tested.",
        "Training minutes: of the optimisation steps, as the budget counts them. CPU minutes: of the method's whole "
        "command with its validation, all threads and children. Methods that start from finetune need its minutes too. "
        "A dash: the run was not measured.",
        "Bits: an outline's Freeman chain code, 3 per boundary pixel at 256 x 256 and where it starts; log2 K! for an "
        "order of K candidates, log2 K for the best, in every epoch, since candidates are drawn anew; log2 of the "
        "places for each round about places. Answers about places have the seconds that they take: the virtual "
        "annotator's are those of people in published studies.",
        "SAM is one that has seen no medical image (MobileSAM with the default planner); Medical SAM, the paper's "
        "SAM-Med2D, is the plan's own network.",
        f"Budget of a training: {_budgets(records)}.",
    ]


def _budgets(records: Sequence[Record]) -> str:
    """``6 minutes: unet (40 to 60 epochs), align (3 epochs)``: as the runs themselves say."""
    epochs: dict[float, dict[str, list[int]]] = {}
    for r in records:
        if r.done:
            epochs.setdefault(r.minutes_allowed or 0.0, {}).setdefault(r.method, []).append(r.epochs or 0)
    said = []
    for minutes, of_method in sorted(epochs.items()):
        trained = [f"{name} ({min(n)} to {max(n)} epochs)" if min(n) < max(n) else f"{name} ({max(n)} epochs)"
                   for name, n in of_method.items()]
        said.append(f"{f'{minutes:g} minutes' if minutes else 'no limit of minutes'}: {', '.join(trained)}")
    return "; ".join(said) or "nothing was run"


def sources_of(records: Sequence[Record], root: Path) -> list[str]:
    """One line a run: its Dice and the file that gave it, or what is known of its failure; below the folder."""
    lines = []
    for r in records:
        if r.status == "missing":
            continue
        rest = "" if r.unlabelled is None else f" + {r.unlabelled:.0%} unlabelled"
        what = f"{r.dataset}, {r.labelled:.0%} labelled{rest}, {r.method}, seed {r.seed}"
        result = f"Dice {r.metrics['Dice']:.4f}" if r.done else "failed"
        lines.append(f"{what}: {result}: `{(r.summary or r.folder).relative_to(root).as_posix()}`")
    return lines
