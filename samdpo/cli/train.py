"""``samdpo_train DATASET STAGE FOLD``: train one stage of one fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_processes, parser, run_command
from samdpo.errors import ConfigurationError


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_train``."""
    arguments = parser(
        "Train one stage of one fold; prompts that are missing are made first.",
        "Several GPUs: torchrun --nproc_per_node N $(which samdpo_train) 3 finetune 0",
    )
    arguments.add_argument("dataset", help="id or name")
    arguments.add_argument("stage", help="configuration of the plan: finetune, align, …")
    arguments.add_argument("fold", help="0 to 4, or all")
    arguments.add_argument("-tr", default=None, help="trainer: a class name, module:Class, or an entry point")
    arguments.add_argument("-p", default="samdpoPlans", help="plan")
    arguments.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    arguments.add_argument("-pretrained_weights", type=Path, default=None,
                           help="file of weights to start from, ours or as published")
    arguments.add_argument("--c", action="store_true", help="continue from the latest checkpoint")
    arguments.add_argument("--val", action="store_true", help="only predict the validation cases again")
    arguments.add_argument("--npz", action="store_true", help="save the probabilities of the validation cases")
    arguments.add_argument("--epochs", type=int, default=None, help="instead of the plan's")
    arguments.add_argument("--lr", type=float, default=None, help="instead of the plan's")
    arguments.add_argument("--seed", type=int, default=None, help="instead of the plan's")
    arguments.add_argument("--annotator", choices=("virtual", "recorded", "mixed"), default=None,
                           help="align: who ranks, instead of the plan's; recorded and mixed use people's judgements")
    arguments.add_argument("--database", metavar="URL", default=None,
                           help="of people's judgements, instead of preferences.sqlite in the dataset's results")
    arguments.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend",
                           help="any key of the plan, for example loss.reduction=sum or prompting.n_points=8")
    add_processes(arguments)
    arguments.add_argument("-num_workers", type=int, default=None,
                           help="processes that make training samples; default: nnUNet_n_proc_DA, else 0 on a CPU and "
                                "on a GPU one a core, at most 8")
    args = arguments.parse_args(argv)

    def body() -> None:
        if args.val:
            useless = {"--c": args.c, "--epochs": args.epochs, "--lr": args.lr, "--annotator": args.annotator,
                       "-pretrained_weights": args.pretrained_weights, "-num_workers": args.num_workers}
            for flag, value in useless.items():
                if value is not None and value is not False:
                    raise ConfigurationError(f"--val only predicts the validation cases again, so {flag} would do "
                                             "nothing. Leave one of the two out.")
        from samdpo.api import train
        from samdpo.training.distributed import ending_together

        with ending_together():
            train(args.dataset, args.stage, args.fold, trainer=args.tr, plans_name=args.p, device=args.device,
                  pretrained_weights=args.pretrained_weights, resume=args.c, only_validate=args.val,
                  save_probabilities=args.npz, epochs=args.epochs, lr=args.lr, seed=args.seed,
                  annotator=args.annotator, database=args.database, overrides=args.set, processes=args.np,
                  workers=args.num_workers)

    run_command(body, go_on="type the same command with --c to go on")
