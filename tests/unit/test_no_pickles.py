"""No module opens a pickle, or another format that runs code when it is read."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "tiltlm"
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"torch.load", "pandas.read_pickle", "pd.read_pickle", "yaml.unsafe_load", "yaml.full_load"}


def found_in(source: str) -> set[str]:
    """Return what a module uses that can run code of a file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            found.add(ast.unparse(node.func))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.add(node.arg)
    return found


def test_the_search_finds_them():
    assert found_in("from pickle import loads\nimport joblib\nnp.load(f, allow_pickle=True)\ntorch.load(f)") == {
        "pickle",
        "joblib",
        "allow_pickle",
        "torch.load",
    }


def test_no_module_opens_what_can_run_code():
    modules = {
        str(file.relative_to(SOURCE)): found_in(file.read_text(encoding="utf-8")) for file in SOURCE.rglob("*.py")
    }
    assert len(modules) > 300
    assert not {name: found for name, found in modules.items() if found}
