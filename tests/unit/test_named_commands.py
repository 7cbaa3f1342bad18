"""Commands, options, settings, names and files that messages, docstrings and pages speak of are there."""

import ast
import importlib
import re
from collections.abc import Iterator, Set
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import typer

import tiltlm
from support.pages import PAGES, ROOT, blocks, commands, inline_code, page_name
from tiltlm.cli.main import app
from tiltlm.config.command import DEFAULTS, GROUPS
from tiltlm.recipes.run_settings import RunSettings

PACKAGE = Path(tiltlm.__file__).parent
PLANNED = {"online", "labeling"}
"""Packages to come, of which CONTRIBUTING.md and docs/architecture.md speak."""
ELSEWHERE = {
    "--nproc-per-node", "--multi_gpu", "--max-restarts", "--standalone", "--rdzv-backend", "--logprobs-mode",
    "--generation-config", "--enable-lora", "--max-lora-rank", "--lora-target-modules", "--host", "--logdir",
    "--project",
}  # fmt: skip
"""Options of torchrun, accelerate, vLLM, SGLang, TensorBoard and trackio."""
HISTORY = {"CHANGELOG.md"}
"""A page that speaks of what is no more."""

TOP = typer.main.get_command(app)


def options_by_command(group: typer.core.TyperGroup, prefix: str = "") -> dict[str, set[str]]:
    """Return the options of each command by its name; `label invite` is the command of a group."""
    found = {}
    for name, command in group.commands.items():
        opts = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        found[prefix + name] = opts | {"--help"}
        if isinstance(command, typer.core.TyperGroup):
            found |= options_by_command(command, f"{prefix}{name} ")
    return found


COMMANDS = options_by_command(TOP)
SETTINGS = {
    section: {field.name for field in fields(kind)}
    for section, kind in get_type_hints(RunSettings).items()
    if is_dataclass(kind)
}
"""Keys of each section; an objective's depend on its name."""
OPTIONS = set().union(*COMMANDS.values(), *({*parameter.opts} for parameter in TOP.params))


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every string of a source, docstrings among them, with its line; {} stands for what is filled in."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


@pytest.fixture(scope="module")
def in_source() -> dict[str, str]:
    """All strings and templates of the package, by place."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for line, text in strings(ast.parse(file.read_text(encoding="utf-8"))):
            found[f"{file.relative_to(ROOT)}:{line} {len(found)}"] = text
    found |= {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8") for f in PACKAGE.rglob("templates/*.html")}
    assert len(found) > 3000
    return found


@pytest.fixture(scope="module")
def in_pages() -> dict[str, str]:
    """All code of the pages, inline and a line of a block each, by place."""
    found = {}
    for page in PAGES:
        if page_name(page) not in HISTORY:
            found |= {f"{page_name(page)}:{line} {i}": text for i, (line, text) in enumerate(inline_code(page))}
            for block in blocks(page):
                found |= {f"{block.place} {i}": text for i, text in enumerate(commands(block.text))}
    assert len(found) > 1000
    return found


CALL = re.compile(r"(?:(?<=`)|^|(?<=-m ))tiltlm ([\w-]+)([^`\n]*)", re.MULTILINE)
"""In backticks, at the beginning of a line, or after `python -m`; anywhere else it is a sentence about tiltlm."""


def unknown_commands(text: str) -> list[str]:
    """Return the commands and their options in a text that the command line does not have."""
    bad = []
    for command, rest in CALL.findall(text):
        if command in GROUPS and (inner := re.match(r" +([a-z][\w-]*)", rest)):
            named = f"{command} {inner[1]}"
            if named in COMMANDS or command not in DEFAULTS:
                command, rest = named, rest[inner.end() :]
        if command in DEFAULTS:
            command = f"{command} {DEFAULTS[command]}"
        if command not in COMMANDS and not command.startswith("-"):
            bad.append(f"tiltlm {command}")
        else:
            named = re.findall(r"(?<!\S)--[a-z][\w-]*", f"{'' if command in COMMANDS else command}{rest}")
            bad += [f"tiltlm {command} {o}" for o in named if o not in COMMANDS.get(command, OPTIONS)]
    return bad


def unknown_options(text: str) -> list[str]:
    """Return the options in a text that no command has."""
    return [o for o in re.findall(r"(?<![\w-])--[a-z][\w-]*", text) if o not in OPTIONS | ELSEWHERE]


def unknown_settings(text: str) -> list[str]:
    """Return `section.key`s in a text that are no settings, where they are no modules or files either."""
    bad = []
    for section, key in re.findall(rf"(?<![\w./-])({'|'.join(SETTINGS)})\.([a-z]\w*)(?![\w/(])", text):
        is_file = key in {"json", "jsonl", "yaml", "html", "csv", "parquet", "gz", "safetensors"}
        if key not in SETTINGS[section] and not is_file and not dotted_name_exists(f"tiltlm.{section}.{key}"):
            bad.append(f"{section}.{key}")
    return bad


def dotted_name_exists(name: str) -> bool:
    """Return whether a name of the package, a module or something in one, can be imported."""
    first, *rest = name.split(".")
    if rest[:1] and rest[0] in PLANNED:
        return True
    value = importlib.import_module(first)
    for i, part in enumerate(rest):
        if not hasattr(value, part):
            try:
                importlib.import_module(".".join([first, *rest[: i + 1]]))
            except ModuleNotFoundError:
                return False
        value = getattr(value, part)
    return True


def unknown_names(text: str) -> list[str]:
    """Return the `tiltlm.x.y` in a text that cannot be imported."""
    names = re.findall(r"(?<![\w./-])tiltlm(?:\.[A-Za-z_]\w*)+(?!\w*/)", text)
    return [name for name in names if not dotted_name_exists(name)]


FILE = re.compile(r"(?<![\w./<{*:-])(?:\.\./)*[\w.-]+(?:/[\w.-]+)+\.(?:py|md|toml|yml|html|sh)\b(?!\w)")
"""With a folder: a bare `metrics.py` may be any file of a reader's."""
PLACES = ("", "src/tiltlm", "docs", "benchmarks", "tests")


def unknown_files(text: str, folder: Path = ROOT) -> list[str]:
    """Return the paths in a text at which there is no file, from the usual places or from `folder`."""
    starts = [ROOT / place for place in PLACES] + [folder]
    made = ("runs/", "quickstart-run/", "docs/_build/")
    own = [path for path in FILE.findall(text) if not path.startswith(made) and not Path(path).stem.isupper()]
    return [path for path in own if not any((start / path).exists() for start in starts)]


def complaints(texts: dict[str, str], check) -> dict[str, list[str]]:
    """Return what a check finds, by place."""
    return {place: found for place, text in texts.items() if (found := check(text))}


def test_messages_name_commands_and_options_that_exist(in_source):
    assert sum("`tiltlm " in text for text in in_source.values()) >= 3
    assert complaints(in_source, unknown_commands) == {}
    styles = {place: re.sub(r"var\(--\w+\)", "", text) for place, text in in_source.items()}
    assert complaints(styles, unknown_options) == {}


def test_pages_name_commands_that_exist(in_pages):
    assert sum(text.startswith("tiltlm ") for text in in_pages.values()) > 40
    assert complaints(in_pages, unknown_commands) == {}


@pytest.mark.parametrize("check", [unknown_settings, unknown_names, unknown_files])
def test_messages_and_pages_name_what_exists(check, in_source, in_pages):
    assert complaints(in_source, check) == {}
    assert complaints(in_pages, check) == {}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
        is_made = page.parent.name == "docs" and target.startswith("api/")  # by docs/build, which holds these links
        assert is_made or (page.parent / target).exists(), target


def found_in(check, text: str) -> Set[str]:
    return set(check(text))


def test_the_checks_see_what_is_wrong():
    assert found_in(unknown_commands, "run `tiltlm rapport`") == {"tiltlm rapport"}
    assert found_in(unknown_commands, "`tiltlm score --output x`") == {"tiltlm score --output"}
    assert found_in(unknown_commands, "torchrun -m tiltlm trian x") == {"tiltlm trian"}
    assert found_in(unknown_commands, "`tiltlm label invit ann`, `tiltlm label`") == {"tiltlm label invit"}
    assert found_in(unknown_commands, "`tiltlm label invite ann --rol x --role admin`") == {"tiltlm label invite --rol"}
    assert found_in(unknown_commands, "`tiltlm runs a/b --sort x`, `tiltlm runs diff a b --sort x`") == {
        "tiltlm runs diff --sort"
    }
    assert found_in(unknown_commands, "what tiltlm does, `tiltlm train --resume`, `tiltlm --version`") == set()
    assert found_in(unknown_options, "go on with --resme or --resume") == {"--resme"}
    assert found_in(unknown_settings, "training.batchsize, training.batch_size, training.step") == {
        "training.batchsize"
    }
    assert found_in(unknown_names, "tiltlm.core.Exampel, tiltlm.core.Example, tiltlm.online") == {"tiltlm.core.Exampel"}
    assert found_in(unknown_files, "training/stp.py and training/step.py") == {"training/stp.py"}
