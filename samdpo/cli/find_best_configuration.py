"""``samdpo_find_best_configuration DATASET``: which trained model, or which two together, to predict with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from samdpo.cli.common import add_processes, parser, run_command

if TYPE_CHECKING:
    from samdpo.selection.find_best import BestConfiguration, Contestant


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_find_best_configuration``."""
    arguments = parser(
        "Compare trained stages, plans and ensembles of two by their mean Dice on the validation cases of the folds, "
        "try whether largest parts alone are better, and say what to type to predict with the best."
    )
    arguments.add_argument("dataset", help="id or name")
    arguments.add_argument("-p", nargs="+", default=None, metavar="PLANS", help="plans; default: all that are trained")
    arguments.add_argument("-tr", nargs="+", default=None, metavar="TRAINER", help="trainers; default: likewise")
    arguments.add_argument("-c", nargs="+", default=None, metavar="STAGE", help="stages; default: likewise")
    arguments.add_argument("-f", nargs="+", default=["0", "1", "2", "3", "4"], metavar="FOLD",
                           help="folds; a model that is not trained on all of them is left out")
    arguments.add_argument("--disable_ensembling", action="store_true", help="only compare single models")
    add_processes(arguments)
    args = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.selection.find_best import find_best_configuration

        print_result(find_best_configuration(args.dataset, args.tr, args.p, args.c, args.f,
                                             not args.disable_ensembling, args.np))

    run_command(body)


def print_result(found: BestConfiguration) -> None:
    """The table, best first; who took no part and why; what to type."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    names = found.best.summary["samdpo"]["labels"]
    several = len(names) > 1
    n_cases = len(found.best.summary["metric_per_case"])
    table = Table(title=f"{found.dataset}, fold {', '.join(found.folds)}: {n_cases} validation cases",
                  title_justify="left")
    table.add_column("model", overflow="fold")
    for heading in ("Dice", *(names.values() if several else ()), "labelled cases"):
        table.add_column(heading, justify="right")
    for contestant in sorted(found.contestants, key=lambda c: -c.dice):
        structures = [contestant.summary["mean"][label]["Dice"] for label in names] if several else []
        dice = [_number(value) for value in (contestant.dice, *structures)]
        table.add_row(_shown(contestant), *dice, _range(contestant.labelled),
                      style="bold" if contestant is found.best else "")
    console.print(table)
    for name, why in found.left_out.items():
        print(f"Left out: {name}: {why}")
    if found.not_ensembled:
        print("Not ensembled, since probabilities of their validation cases are missing; these commands write them:")
        print("\n".join(f"  {command}" for commands in found.not_ensembled.values() for command in commands))
    for contestant in found.contestants:
        if contestant.dice > found.best.dice:
            print(f"{contestant.name} has a higher Dice, but nnU-Net's own commands predict with it: "
                  f"nnUNetv2_predict_from_modelfolder, see {contestant.models[0].folder}/fold_*/nnunet/results")
    print(f"\n{found.text}", end="")


def _shown(contestant: Contestant) -> str:
    return " + ".join(model.name for model in contestant.models)


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.4f}"


def _range(counts: tuple[int, ...]) -> str:
    if not counts:
        return ""
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}–{max(counts)}"


if __name__ == "__main__":
    main()
