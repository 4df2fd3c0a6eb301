"""A world of folders for a campaign, what happens in it, and what it looked like before."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from children import Children, Ended
from trained_models import NUMBER, Phantoms

PLANNER = "campaign_planner:CampaignPlanner"
CPU = ("-device", "cpu")


@dataclass(frozen=True)
class World(Phantoms):
    """nnU-Net's three folders with images to predict, a home, a folder for temporary files and one to be in."""

    children: Children = None  # type: ignore[assignment]

    @property
    def masks(self) -> Path:
        return self.root / "masks"

    @property
    def here(self) -> Path:
        return self.root / "here"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"),
                "MPLCONFIGDIR": str(self.root / "home")}

    def run(self, command: str, *words: object, **settings: object) -> Ended:
        """A command as typed, in a fork."""
        for name in ("home", "tmp", "here"):
            (self.root / name).mkdir(exist_ok=True)
        return self.children.command(command, *words, environment=self.environment(), folder=self.here, **settings)

    def copied(self, folder: Path) -> World:
        """A world of its own with the same content."""
        shutil.copytree(self.root, folder, symlinks=True)
        return World(folder, self.children)

    # ---- the commands of the documentation ----------------------------------------------------------------------

    def plan(self, **settings: object) -> Ended:
        return self.run("plan_and_preprocess", "-d", NUMBER, "--labelled", 0.5, "-np", 1, "-pl", PLANNER, **settings)

    def prompt(self, **settings: object) -> Ended:
        return self.run("prompt", NUMBER, 0, *CPU, **settings)

    def finetune(self, *words: object, **settings: object) -> Ended:
        return self.run("train", NUMBER, "finetune", 0, *CPU, "-np", 1, *words, **settings)

    def align(self, *words: object, **settings: object) -> Ended:
        return self.run("train", NUMBER, "align", 0, *CPU, "-np", 1, *words, **settings)

    def predict(self, *words: object, **settings: object) -> Ended:
        return self.run("predict", "-i", self.raw / "imagesTs", "-o", self.masks, "-d", NUMBER, *CPU,
                        "--save_probabilities", *words, **settings)


def content(folder: Path) -> dict[str, str]:
    """Of each file below ``folder`` its hash, of each link its target; by path relative to ``folder``."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in sorted(files + folders):
            path = Path(place) / name
            if path.is_symlink():
                found[str(path.relative_to(folder))] = f"-> {os.readlink(path)}"
            elif path.is_file():
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def seen(folder: Path) -> dict[str, tuple[int, int, int]]:
    """As :func:`content` without reading: (inode, size, time of the last change); empty folders count too."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in files + folders:
            path = os.path.join(place, name)
            status = os.lstat(path)
            found[os.path.relpath(path, folder)] = (
                (0, 0, 0) if name in folders and not os.path.islink(path)
                else (status.st_ino, status.st_size, status.st_mtime_ns)
            )
    return found


def differences(before: dict, after: dict) -> dict[str, str]:
    """path -> ``new``, ``gone`` or ``changed``."""
    of = {path: "gone" if path not in after else "new" if path not in before else "changed"
          for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return dict(sorted(of.items()))
