"""``samdpo_weights list|download|verify|path``: the published weights on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from samdpo.cli.common import parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_weights``."""
    arguments = parser(
        "The published weights of the networks: which there are, and which are in the weights folder.",
        "The folder is named by the variable samdpo_weights; see documentation/models.md.",
    )
    arguments.add_argument(
        "action",
        choices=("list", "download", "verify", "path"),
        help="list all files; download one, or go on with it; verify one or all that are there; print the folder",
    )
    arguments.add_argument("name", nargs="?", default=None, help="of the weights, as list shows it")
    args = arguments.parse_args(argv)
    if args.name is not None and args.action not in ("download", "verify"):
        arguments.error(f"{args.action} takes no name")
    if args.name is None and args.action == "download":
        arguments.error("download needs a name; see: samdpo_weights list")

    def body() -> None:
        from samdpo.networks.published import catalogue, folder

        if args.action == "path":
            print(folder.weights_folder())
        elif args.action == "list":
            _list()
        elif args.action == "download":
            print(folder.find_weights(catalogue.published_file(args.name)))
        else:
            _verify(args.name)

    run_command(body, go_on="type the same command again; a download goes on where it stopped")


def _list() -> None:
    from samdpo.networks.published.catalogue import CATALOGUE
    from samdpo.networks.published.folder import weights_folder

    root = weights_folder()
    print(f"{root}\n")
    for name, published in CATALOGUE.items():
        size = f"{published.size / 1e6:.0f} MB" if published.size else "size not stated"
        state = "here" if (root / published.file).is_file() else "download" if published.url else "by hand"
        print(f"{name:15s} {published.file:21s} {size:>15s}  {state:8s}  {published.licence:10s}  {published.home}")


def _verify(name: str | None) -> None:
    from samdpo.networks.published.catalogue import CATALOGUE, published_file
    from samdpo.networks.published.folder import weights_folder
    from samdpo.networks.published.verification import verify

    root = weights_folder()
    wanted = [published_file(name)] if name else [p for p in CATALOGUE.values() if (root / p.file).is_file()]
    if not wanted:
        print(f"There are no published weights in {root}.")
    for published in wanted:
        print(f"{published.name}: {verify(published, root / published.file)}")
