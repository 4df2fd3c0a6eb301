"""``samdpo_plot_overlay_pngs``: look at labels or predictions, as nnU-Net's command of that name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_processes, parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    arguments = build_parser().parse_args(argv)
    run_command(lambda: plot(arguments))


def build_parser() -> argparse.ArgumentParser:
    """nnU-Net's flags, and folders of other images, labels and predictions."""
    result = parser(
        "Draw every labelled image of a dataset with its label map as a PNG; with --predictions the predicted label "
        "map is filled and the true one dashed. Of a volume the slice with the most foreground is drawn."
    )
    result.add_argument("-d", required=True, help="dataset id or name")
    result.add_argument("-o", type=Path, required=True, help="folder for the PNGs")
    result.add_argument("-i", type=Path, default=None, help="folder of images, instead of the dataset's labelled ones")
    result.add_argument("-l", type=Path, default=None, help="folder of true label maps of these images")
    result.add_argument("--predictions", type=Path, default=None, help="folder of predicted label maps")
    result.add_argument("-channel_idx", type=int, default=None, help="channel that is shown; default: the "
                        "first, of R, G, B all three")
    result.add_argument("-overlay_intensity", type=float, default=0.3, help="opacity of the label map, 0 to 1")
    add_processes(result)
    return result


def plot(arguments: argparse.Namespace) -> None:
    """Draw and say what was written."""
    from samdpo.errors import ConfigurationError
    from samdpo.evaluation.overlay_folder import plot_overlays

    if not 0 <= arguments.overlay_intensity <= 1:
        raise ConfigurationError(f"-overlay_intensity is {arguments.overlay_intensity}; expected 0 to 1.")
    written = plot_overlays(
        arguments.d,
        arguments.o,
        images=arguments.i,
        labels=arguments.l,
        predictions=arguments.predictions,
        channel=arguments.channel_idx,
        fill=arguments.overlay_intensity,
        processes=arguments.np,
    )
    from rich.console import Console
    from rich.table import Table

    table = Table("drawn", "first", "last")
    table.add_row(f"{len(written)} case{'s' if len(written) != 1 else ''}", written[0].name, written[-1].name)
    Console().print(table)
    print(f"Wrote {len(written)} PNGs to {arguments.o}")


if __name__ == "__main__":
    main()
