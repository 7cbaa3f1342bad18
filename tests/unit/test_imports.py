"""The layers of docs/architecture.md, no circles, and folders of a readable size, held by reading every import."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import tiltlm

ROOT = Path(tiltlm.__file__).parent

PAGE = ROOT.parents[1] / "docs" / "architecture.md"
EVERYTHING = "everything above"


def read_arrows(text: str) -> dict[str, set[str]]:
    """Return who may import each package, from lines such as `core → rewards, links → objectives`."""
    arrows: dict[str, set[str]] = {}
    for chain in re.split(r"\n|\s{3,}", text.strip()):
        steps = [[name.strip() for name in step.split(",")] for step in chain.split("→")]
        for lower, upper in pairwise(steps):
            above = set(arrows).union(*arrows.values())
            for name in above if EVERYTHING in lower else lower:
                arrows.setdefault(name, set()).update(set(upper) - {name})
    return arrows


(BLOCK,) = [
    block
    for block in re.findall(r"```\w*\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if EVERYTHING in block
]
ARROWS = read_arrows(BLOCK)
"""Who may import whom, as the page says; the relation carries on along the chain."""
PACKAGES = set(ARROWS).union(*ARROWS.values())
SINGLE = {f"tiltlm.{file.stem}" for file in ROOT.glob("[!_]*.py")}
"""Modules beside the packages, which import none of them: anyone may import these."""
TORCH_ONLY = {"core", "rewards", "links", "objectives"}
TORCH_ONLY_MAY = {"torch", "numpy", "jaxtyping", "lazy_loader", "tiltlm"}
MAX_MODULES = 12
"""In one folder."""
CATALOGUES = {"objectives/catalog", "rewards", "links"}
"""Folders of parts that do not know each other, a module each or a few: these may grow."""


def reachable(package: str) -> set[str]:
    """Packages that may import `package`."""
    seen: set[str] = set()
    todo = [package]
    while todo:
        for nxt in ARROWS.get(todo.pop(), ()):
            if nxt not in seen:
                seen.add(nxt)
                todo.append(nxt)
    return seen


MAY_IMPORT = {p: {q for q in PACKAGES if p in reachable(q)} | {p} for p in PACKAGES}


def imports(file: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; name the package"
            found.append((node.lineno, node.module or ""))
    return found


def violations(files: dict[Path, list[tuple[int, str]]]) -> list[str]:
    bad = []
    for file, names in files.items():
        package = file.parts[0] if len(file.parts) > 1 else None
        for line, name in names:
            parts = name.split(".")
            if package in TORCH_ONLY and parts[0] not in TORCH_ONLY_MAY | set(__import__("sys").stdlib_module_names):
                bad.append(f"{file}:{line}: {package} is torch-only and imports {name}")
            of_ours = len(parts) > 1 and parts[0] == "tiltlm" and f"{parts[0]}.{parts[1]}" not in SINGLE
            if package and of_ours and parts[1] not in MAY_IMPORT[package]:
                bad.append(f"{file}:{line}: {package} may not import tiltlm.{parts[1]}")
    return bad


def test_every_import_follows_the_arrows():
    files = {f.relative_to(ROOT): imports(f) for f in ROOT.rglob("*.py")}
    assert len(files) > 20
    assert violations(files) == []


def test_arrows_are_read():
    chains = "a → b, c → d      c → e\neverything above → f\neverything above, f → g"
    expected = {"a": "bcfg", "b": "dfg", "c": "defg", "d": "fg", "e": "fg", "f": "g"}
    assert read_arrows(chains) == {name: set(above) for name, above in expected.items()}
    assert len(PACKAGES) > 15


def test_the_check_sees_a_violation():
    assert violations({Path("core/x.py"): [(1, "tiltlm.data.rows.records")]}) != []
    assert violations({Path("objectives/x.py"): [(1, "transformers")]}) != []
    assert violations({Path("training/x.py"): [(1, "tiltlm.config")]}) != []
    assert violations({Path("training/x.py"): [(1, "tiltlm.core")]}) == []


def test_every_package_is_placed():
    folders = {f.name for f in ROOT.iterdir() if f.is_dir() and (f / "__init__.py").exists()}
    assert folders <= PACKAGES


def module_name(file: Path) -> str:
    """Return the dotted name of a file of the package, given relative to it."""
    return ".".join(("tiltlm", *file.with_suffix("").parts)).removesuffix(".__init__")


FILES = {module_name(f.relative_to(ROOT)): f.relative_to(ROOT) for f in ROOT.rglob("*.py")}


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported: not those of functions or under TYPE_CHECKING."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from run_on_import(node.orelse)
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from run_on_import(node.body)
        elif isinstance(node, ast.Try):
            handled = [statement for handler in node.handlers for statement in handler.body]
            yield from run_on_import([*node.body, *handled, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from run_on_import(node.body)


def needed_on_import(source: str, modules: Set[str]) -> set[str]:
    """Return which of `modules` a module with this source imports while it is imported itself."""
    found = set()
    for node in run_on_import(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules or {node.module or ""}
    return found & modules


def circle(graph: Mapping[str, Set[str]]) -> list[str]:
    """Return one circle of a graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Every module with the modules it needs while it is imported."""
    return {name: needed_on_import((ROOT / f).read_text(encoding="utf-8"), FILES.keys()) for name, f in FILES.items()}


def test_modules_beside_the_packages_import_none(graph):
    assert set().union(*(graph[name] for name in SINGLE)) <= SINGLE


def test_no_modules_import_each_other(graph):
    assert sum(map(len, graph.values())) > len(graph)
    assert circle(graph) == []


def test_no_two_folders_of_a_package_import_each_other(graph):
    """Of data/files and data/rows, say, one may use the other; what both use stands in a third place."""
    siblings: dict[Path, dict[str, set[str]]] = {}
    for name, needed in graph.items():
        own = FILES[name].parent
        for other in {FILES[n].parent for n in needed} - {own}:
            if own.parent == other.parent != Path():
                siblings.setdefault(own.parent, {}).setdefault(own.name, set()).add(other.name)
    assert {"data", "objectives", "training"} <= {folder.name for folder in siblings}
    assert {folder.name: circle(imported) for folder, imported in siblings.items() if circle(imported)} == {}


def test_a_circle_is_seen():
    inside = (
        "class A:\n    import tiltlm.a\ntry:\n    from tiltlm import b\nexcept ImportError:\n    from tiltlm.c import d"
    )
    lazy = "def f():\n    import tiltlm.a\nif TYPE_CHECKING:\n    from tiltlm import b"
    modules = {"tiltlm.a", "tiltlm.b", "tiltlm.c"}
    assert needed_on_import(inside, modules) == modules
    assert needed_on_import(lazy, modules) == set()
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_folder_is_overfull():
    sizes = Counter(file.parent.as_posix() for file in FILES.values() if file.name != "__init__.py")
    assert sizes.keys() >= CATALOGUES
    assert {folder: n for folder, n in sizes.items() if n > MAX_MODULES and folder not in CATALOGUES} == {}
