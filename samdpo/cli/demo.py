"""``samdpo_demo``: the whole method on phantoms, in minutes, ending with a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_processes, log, parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_demo``."""
    arguments = parser("Draw phantoms and run plan, prompts, finetune, align, predict and evaluate on them.")
    arguments.add_argument("-o", type=Path, default=Path("demo"), help="folder for everything the demo makes")
    arguments.add_argument("--kinds", nargs="+", default=["xray", "ultrasound"], help="of phantoms")
    arguments.add_argument("--seed", type=int, default=0, help="of the phantoms")
    add_processes(arguments)
    args = arguments.parse_args(argv)

    def body() -> None:
        from rich.console import Console
        from rich.table import Table

        from samdpo.demo import METRICS, DemoSize, run_demo

        result = run_demo(args.o, args.kinds, args.seed, DemoSize(), args.np)
        table = Table("phantoms", "stage", *METRICS, title="Unseen phantoms, mean")
        for kind, stages in result["scores"].items():
            for stage, scores in stages.items():
                table.add_row(kind, stage, *(f"{scores[m]:.3f}" for m in METRICS))
        Console().print(table)
        log.info("%.0f s in all. Look at %s", result["seconds"], args.o / "demo.png")
        log.info("Your own data: put DatasetXXX_Name into $nnUNet_raw, then samdpo_plan_and_preprocess -d XXX")

    run_command(body)
