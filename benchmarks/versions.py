"""What two versions of samdpo cost a user: the same commands as typed, by turns, in CPU seconds.

    git worktree add ../before 4fa9ddf
    python benchmarks/versions.py --before ../before [--after .] [--images 10] [--rounds 1] [--set KEY=VALUE ...]

Phantoms of one kind, the default plan of each version, one thread. What a command costs before its work begins
(imports, weights, planning's fixed part) is taken off where that can be: an epoch is what training for four more epochs
costs, and a predicted image what twelve more images cost. ``--set`` is given to every training of both versions.

The versions are those of the source trees that are named, in the environment of this Python; so an old one meets the
libraries of today.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

NUMBER, LABELLED, MORE_EPOCHS, MORE_IMAGES = 902, 0.5, 4, 12


class Version:
    """A source tree, and nnU-Net's three folders for what it makes.

    Args:
        tree: that holds the package ``samdpo``.
        root: below which the three folders are made.
    """

    def __init__(self, tree: Path, root: Path) -> None:
        if not (tree / "samdpo" / "__init__.py").is_file():
            sys.exit(f"{tree} holds no samdpo/__init__.py; name the root of a source tree.")
        self.root = root
        self.environment = {
            **os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            **{name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
        }
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir(parents=True)

    def typed(self, command: str, *words: object) -> float:
        """CPU seconds of a command in a process of its own, with those of processes that it waits for."""
        program = f"import sys; from samdpo.cli.{command} import main; sys.exit(main())"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run([sys.executable, "-c", program, *map(str, words)], env=self.environment, cwd=self.root,
                              capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if said.returncode:
            sys.exit(f"samdpo_{command} {' '.join(map(str, words))} ended with {said.returncode}:\n"
                     f"{said.stderr[-3000:]}")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def costs(self, kind: str, images: int, settings: list[str]) -> Iterable[tuple[str, float]]:
        """What is measured, one part after the other: its name and its CPU seconds."""
        yield "phantoms", self.typed("make_phantoms", kind, "-d", NUMBER, "--labelled", images, "--test",
                                     MORE_IMAGES + 2, "--seed", 0)
        yield "plan and preprocess", self.typed("plan_and_preprocess", "-d", NUMBER, "--labelled", LABELLED, "-np", 1)
        yield "prompts of a fold", self.typed("prompt", NUMBER, 0)
        yield "finetune for the first time, one epoch", self._trained(1, settings)
        few, many = self._trained(1, settings), self._trained(1 + MORE_EPOCHS, settings)  # what is kept is there now
        yield "finetune: an epoch", (many - few) / MORE_EPOCHS
        images_of = next((self.root / "nnUNet_raw").glob(f"Dataset{NUMBER}_*")) / "imagesTs"
        few, many = self._predicted(images_of, 2), self._predicted(images_of, 2 + MORE_IMAGES)
        yield "predict: an image", (many - few) / MORE_IMAGES

    def _trained(self, epochs: int, settings: list[str]) -> float:
        return self.typed("train", NUMBER, "finetune", 0, "-np", 1, "--set", f"epochs={epochs}", *settings)

    def _predicted(self, images: Path, number: int) -> float:
        some = self.root / f"some_{number}"
        some.mkdir()
        for image in sorted(images.iterdir())[:number]:
            (some / image.name).symlink_to(image)
        return self.typed("predict", "-i", some, "-o", self.root / f"predicted_{number}", "-d", NUMBER,
                          "-c", "finetune", "-f", 0)


def main() -> None:
    """Measure by turns and print."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--before", type=Path, required=True, help="source tree of the older version")
    command.add_argument("--after", type=Path, default=Path(__file__).resolve().parents[1], help="of the newer one")
    command.add_argument("--kind", choices=("xray", "ultrasound"), default="ultrasound")
    command.add_argument("--images", type=int, default=10, help="images with label, of which half are used with it")
    command.add_argument("--rounds", type=int, default=1)
    command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of every training")
    args = command.parse_args()
    seconds: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for turn in range(args.rounds):
        with tempfile.TemporaryDirectory() as temporary:
            versions = [Version(tree, Path(temporary) / name)
                        for tree, name in ((args.before, "before"), (args.after, "after"))]
            parts = (version.costs(args.kind, args.images, args.set) for version in versions)
            for (name, before), (_, after) in zip(*parts, strict=True):
                seconds[name][0].append(before)
                seconds[name][1].append(after)
                print(f"round {turn}, {name}: {before:.1f} s before, {after:.1f} s after", flush=True)
    print("\n| CPU seconds | before | after | ratio |\n|---|---|---|---|")
    for name, (before, after) in seconds.items():
        first, then = statistics.median(before), statistics.median(after)
        print(f"| {name} | {first:.2f} | {then:.2f} | {first / then:.1f} |")


if __name__ == "__main__":
    main()
