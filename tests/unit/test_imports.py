"""The layers of docs/architecture.md, held by reading every import."""

import ast
from pathlib import Path

import tiltlm

ROOT = Path(tiltlm.__file__).parent

# Who may import whom; the relation carries on along the chain.
ARROWS = {
    "core": {"rewards", "links", "logprobs", "data", "storage", "distributed"},
    "rewards": {"objectives"},
    "links": {"objectives"},
    "objectives": {"diagnostics", "worlds"},
    "storage": {"data", "reference", "runs", "report"},
    "distributed": {"runs"},
    "runs": {"training", "online"},
    "logprobs": {"models", "sampling"},
    "models": {"reference"},
    "data": {"labeling", "sampling", "judging", "diagnostics", "worlds"},
    "reference": {"judging", "diagnostics"},
    "diagnostics": {"training", "evaluation"},
    "sampling": {"evaluation", "online"},
    "judging": {"evaluation", "online"},
    "evaluation": {"report"},
    "training": {"online"},
}
PACKAGES = {*ARROWS, *(b for bs in ARROWS.values() for b in bs), "recipes", "config", "cli"}
for package in PACKAGES - {"recipes", "config", "cli"}:
    ARROWS.setdefault(package, set()).add("recipes")
ARROWS["recipes"] = {"config"}
ARROWS["config"] = {"cli"}
TORCH_ONLY = {"core", "rewards", "links", "objectives"}
TORCH_ONLY_MAY = {"torch", "numpy", "jaxtyping", "tiltlm"}


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
            if package and parts[0] == "tiltlm" and len(parts) > 1 and parts[1] not in MAY_IMPORT[package]:
                bad.append(f"{file}:{line}: {package} may not import tiltlm.{parts[1]}")
    return bad


def test_every_import_follows_the_arrows():
    files = {f.relative_to(ROOT): imports(f) for f in ROOT.rglob("*.py")}
    assert len(files) > 20
    assert violations(files) == []


def test_the_check_sees_a_violation():
    assert violations({Path("core/x.py"): [(1, "tiltlm.data.rows.records")]}) != []
    assert violations({Path("objectives/x.py"): [(1, "transformers")]}) != []
    assert violations({Path("training/x.py"): [(1, "tiltlm.config")]}) != []
    assert violations({Path("training/x.py"): [(1, "tiltlm.core")]}) == []


def test_every_package_is_placed():
    folders = {f.name for f in ROOT.iterdir() if f.is_dir() and (f / "__init__.py").exists()}
    assert folders <= PACKAGES
