"""What a user asked of a benchmark, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samdpo.errors import ConfigurationError
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.methods import Method
from samdpo.paths import PLANS_NAME, is_fold
from samdpo.planning.subsets import check_fractions

SEEDS = (12345, 1, 2, 3, 4, 5, 6, 7, 8, 9)  # the first is nnU-Net's
MINUTES = 3.0  # 12 methods on 2 data sets with 3 seeds are about 8 core-hours


@dataclass(frozen=True)
class Settings:
    """A benchmark.

    Attributes:
        root: its folder.
        datasets: names ``DatasetXXX_Name``.
        methods: rows of the tables, companions among them.
        labelled: shares of the training cases whose labels are used.
        seeds: one cell each.
        fold: number, or ``all``.
        minutes: of computing that each training may spend; 0 leaves each method its planned length.
        epochs: of every training instead of the plan's; given, there are no minutes.
        plans: names of plans; each is compared within itself.
        planner: that makes them; None for the default.
        backbone: of their network; None for the planner's.
        ablations: groups of variants to run beside the methods.
        device: of training.
        processes: for case-level work.
    """

    root: Path
    datasets: Sequence[str]
    methods: Sequence[Method]
    labelled: Sequence[float] = (0.1,)
    seeds: Sequence[int] = SEEDS[:3]
    fold: str = "0"
    minutes: float = MINUTES
    epochs: int | None = None
    plans: Sequence[str] = (PLANS_NAME,)
    planner: str | None = None
    backbone: str | None = None
    ablations: Sequence[str] = ()
    device: str = "auto"
    processes: int = 1

    def __post_init__(self) -> None:
        for share in self.labelled:
            check_fractions(share, None)
        _check(self.minutes >= 0, "--minutes", self.minutes, "0 or more; 0 leaves each method its planned length")
        _check(self.epochs is None or self.epochs >= 1, "--epochs", self.epochs, "1 or more")
        _check(is_fold(self.fold), "-f", self.fold, "a number like 0, or all")
        _check(len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds), "--seed_list", list(self.seeds),
               "one seed or more, each once")

    def cells(self) -> list[Cell]:
        """The cells of the main comparison."""
        return [Cell(self.root, share, seed) for share in self.labelled for seed in self.seeds]

    @property
    def length(self) -> tuple[str, ...]:
        """How long a stage trains, as words of ``samdpo_train``."""
        if self.epochs is not None:
            return "--epochs", str(self.epochs), "--set", "minutes=0"
        return ("--set", f"minutes={self.minutes:g}") if self.minutes else ()

    @property
    def budget(self) -> str:
        """The same in words."""
        if self.epochs is not None:
            return f"{self.epochs} epochs for every training, without a limit of minutes"
        if self.minutes == 0:
            return "each training as long as its plan says"
        return (f"{self.minutes:g} minutes of computing for every training, or the plan's epochs if they take less; "
                "--epochs N lifts it")


def seeds_of(count: int, listed: Sequence[int] | None) -> tuple[int, ...]:
    """The first ``count`` of :data:`SEEDS`, or those that were listed."""
    if listed:
        return tuple(listed)
    _check(1 <= count <= len(SEEDS), "--seeds", count, f"1 to {len(SEEDS)}; name more with --seed_list")
    return SEEDS[:count]


def _check(condition: bool, flag: str, found: object, expected: str) -> None:
    if not condition:
        raise ConfigurationError(f"{flag} is {found}; expected {expected}.")
