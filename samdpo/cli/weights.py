"""``samdpo_weights list|download|verify|path``: the models that plans may name, and their weights on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from samdpo.cli.common import parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_weights``."""
    arguments = parser(
        "The models that a plan may name: what they are for, their weights, licence and size, and which are here.",
        "The folder is named by the variable samdpo_weights; see documentation/models.md.",
    )
    arguments.add_argument(
        "action",
        choices=("list", "download", "verify", "path"),
        help="list all models; download one, or go on with it; verify one file or all that are there; print the folder",
    )
    arguments.add_argument("name", nargs="?", default=None, help="of the weights, as list shows it")
    args = arguments.parse_args(argv)
    if args.name is not None and args.action not in ("download", "verify"):
        arguments.error(f"{args.action} takes no name")
    if args.name is None and args.action == "download":
        arguments.error("download needs a name; see: samdpo_weights list")

    def body() -> None:
        from samdpo.networks.published.folder import weights_folder

        if args.action == "path":
            print(weights_folder())
        elif args.action == "list":
            _list()
        elif args.action == "download":
            _download(args.name)
        else:
            _verify(args.name)

    run_command(body, go_on="type the same command again; a download goes on where it stopped")


def _list() -> None:
    from samdpo.networks.published.catalogue import MODELS
    from samdpo.networks.published.folder import state_of, weights_folder

    print(f"{weights_folder()}\n")
    rows = [("model", "named by", "", "size", "licence", "from")]
    for model in MODELS.values():
        size = f"{model.size / 1e6:,.0f} MB" if model.size else "-"
        rows.append((model.name, model.named_by, state_of(model), size, model.licence or "-", model.origin))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(text.rjust(w) if place == 3 else text.ljust(w) for place, (text, w) in
                        enumerate(zip(row, widths))).rstrip())


def _download(name: str) -> None:
    from samdpo.errors import ConfigurationError
    from samdpo.networks.published.catalogue import CATALOGUE, known_model
    from samdpo.networks.published.folder import find_weights, state_of

    if name in CATALOGUE:
        print(find_weights(CATALOGUE[name]))
        return
    model = known_model(name)
    if model.named_by == "prompting.image_text_model" and model.repository:
        from samdpo.prompting.open_clip_files import find_open_clip

        print(find_open_clip(name).folder)
    elif model.repository:
        raise ConfigurationError(f"{name} is not one of samdpo's own. Type: hf download {model.repository}")
    else:
        raise ConfigurationError(f"{name} has nothing to download ({model.origin}; {state_of(model)}).")


def _verify(name: str | None) -> None:
    from samdpo.networks.published.catalogue import CATALOGUE, published_file
    from samdpo.networks.published.folder import weights_folder
    from samdpo.networks.published.loading import verify

    root = weights_folder()
    wanted = [published_file(name)] if name else [p for p in CATALOGUE.values() if (root / p.file).is_file()]
    if not wanted:
        print(f"There are no published weights in {root}.")
    for published in wanted:
        print(f"{published.name}: {verify(published, root / published.file)}")
