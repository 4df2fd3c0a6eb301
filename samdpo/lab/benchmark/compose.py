"""Records into tables: the comparison of all methods, and the paper's Tables 1 and 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from samdpo.lab.benchmark.ablations import ABLATIONS
from samdpo.lab.benchmark.methods import METHODS, Method
from samdpo.lab.benchmark.records import Record
from samdpo.lab.benchmark.rows import COLUMNS, Notes, remarks_on, row_of, sources_of
from samdpo.lab.benchmark.statistics import against_best
from samdpo.lab.benchmark.tables import Entry, Section, Table

ALL_LABELS = "all labels of the training cases"
TRUTH_PROMPT = "the test image's prompt comes from its truth"


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
    of ``align``."""
    notes, sections = Notes(), []
    variants = {a.method.name: a for a in ABLATIONS if a.group not in ("components", "scoring", "unlabelled")}
    for (dataset, labelled, unlabelled), runs in _grouped(records).items():
        by_method = _by_method(runs)
        scoring = [n for n in ("finetune", "best_candidate", "rating", "align") if n in by_method]
        title = _section_title(dataset, labelled, unlabelled, runs)
        if set(scoring) - {"finetune"}:
            rows = [row_of(_method(n), by_method[n], None, notes, _SCORING.get(n)) for n in scoring]
            sections.append(Section(f"{title}: preference scoring", rows))
        found = [n for n in variants if n in by_method]
        if found:
            rows = [row_of(_method(n), by_method[n], None, notes) for n in ("align", *found) if n in by_method]
            sections.append(Section(f"{title}: variants of align", rows))
    return _table("Preference scoring and unlabelled images (the paper's Table 2)", sections, notes,
                  [r for r in records if r.method not in METHODS or METHODS[r.method].stage.startswith("align")
                   or r.method == "finetune"], root)


_SCORING = {"finetune": "no alignment", "best_candidate": "best candidate as a label", "rating": "rating",
            "align": "ranking"}
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
        rows += [(_method(name).title, by_method.get(name, [])) for name in _LEFT_OUT]
        sections.append(Section(
            f"{_section_title(dataset, labelled, unlabelled, runs)}: components left out",
            [row_of(_method(of[0].method), of, None, notes, title) for title, of in rows if of],
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


def _method(name: str) -> Method:
    return METHODS[name] if name in METHODS else next(a.method for a in ABLATIONS if a.method.name == name)


def _grouped(records: Sequence[Record]) -> dict[tuple[str, float, float | None], list[Record]]:
    groups: dict[tuple[str, float, float | None], list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 2.0)))


def _by_method(records: Sequence[Record]) -> Mapping[str, list[Record]]:
    order: Callable[[str], int] = [*METHODS, *(a.method.name for a in ABLATIONS)].index
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.method, []).append(record)
    return {name: found[name] for name in sorted(found, key=order)}
