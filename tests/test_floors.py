"""The package's floors: no import points up, and no two modules need each other; imports inside functions count."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

import samdpo

# From the ground up. A file of the package itself is of the first floor, unless it is named on another one. The one
# other way up is a name as text in samdpo.extensions.
FLOORS = (
    "ground", "dataset", "preprocessing", "planning", "networks", "prompting", "preferences", "evaluation", "model",
    "training", "align", "inference", "selection", "annotate", "lab", "demo", "api", "__init__", "cli",
)
# What still points up; the list only ever becomes shorter.
STILL_UP = {
    "align.recorded -> annotate.database.database", "align.recorded -> annotate.database.locate",
    "model.folder -> training.description", "model.folder -> training.manifest", "model.folder -> training.trainer",
    "model.places -> training.batches", "model.predictor -> training.trainer",
    "training.validation -> inference.export",
}
STILL_ROUND = {
    "align.candidate_set", "align.prompt_alignment", "align.recorded", "align.trainer", "inference.export",
    "lab.sam_med3d.network", "lab.sam_med3d.predictor", "lab.sam_med3d.windows", "model.folder", "model.predictor",
    "selection.find_best", "selection.instructions", "training.confidence", "training.description", "training.resume",
    "training.trainer", "training.validation",
}


@lru_cache
def imports() -> dict[str, set[str]]:
    """Module of the package -> modules of the package that any line of it imports; names without ``samdpo.``."""
    root = Path(samdpo.__file__).parent
    files = {_name(file.relative_to(root)): file for file in root.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, file in files.items():
        named = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        named = {name.removeprefix("samdpo.") for name in named if name.startswith("samdpo.")}
        found[module] = (named & files.keys()) - {module}
    return found


def _name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _floor(module: str) -> int:
    first = module.partition(".")[0]
    return FLOORS.index(first) if first in FLOORS else 0


def test_no_import_points_up() -> None:
    up = {f"{one} -> {other}" for one, others in imports().items() for other in others if _floor(other) > _floor(one)}
    up = {arrow for arrow in up if not arrow.startswith("__init__")}  # the package's own names, read when asked for
    assert up <= STILL_UP


def test_no_module_needs_one_that_needs_it() -> None:
    def reached(module: str) -> set[str]:
        seen, todo = set(), list(imports()[module])
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += imports()[one]
        return seen

    assert {module for module in imports() if module in reached(module)} <= STILL_ROUND


def test_the_package_is_read_as_it_is() -> None:
    assert len(imports()) > 200
    assert "files" in imports()["dataset.raw_dataset"] and "dask_cluster" in imports()["cli.common"]
