"""A row of the benchmark's tables: one method over its seeds; and what must be known to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samdpo.lab.benchmark.methods import METHODS, Method
from samdpo.lab.benchmark.records import METRICS, Record
from samdpo.lab.benchmark.statistics import Comparison, spread
from samdpo.lab.benchmark.tables import Entry

COLUMNS = ("method", "seeds", "Dice", "IoU", "surface Dice", "against", "difference", "p", "p (Holm)", "n",
           "training minutes", "CPU minutes", "asked of an annotator")
_KBIT = 1000.0


@dataclass
class Notes:
    """Footnotes, each once."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """``[2]``: the number of a footnote, which is added where it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


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
    """``11 masks (12.6 kbit), 100 images judged (1.4 kbit)``: means over the runs."""
    parts = []
    outlines = [(r.n_labelled, r.outline_bits) for r in runs if r.n_labelled and r.outline_bits is not None]
    if outlines:
        parts.append(f"{_mean_count(outlines)} masks ({_mean_kbit(outlines)})")
    judged = [(r.n_unlabelled, r.judgement_bits) for r in runs if r.n_unlabelled and r.judgement_bits]
    if judged:
        parts.append(f"{_mean_count(judged)} images judged ({_mean_kbit(judged)})")
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
        "places for each round about places.",
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
