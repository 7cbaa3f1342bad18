"""Every code block of the guides runs on the bundled tiny model, or says before it why not: `<!-- not run: reason -->`.

Shell blocks: each `tiltlm` command runs for one step; scripts and their options are there; `SETUP` is not run. YAML
blocks are configurations, JSON blocks are rows of data, Python blocks of a page run in one namespace. A text block
directly after a Python block is what it prints.
"""

import contextlib
import gzip
import io
import json
import os
import re
import shlex
from importlib import import_module
from itertools import pairwise, zip_longest
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from support.pages import GUIDES, METHODS, PRESETS, ROOT, Block, blocks, commands, page_name
from tiltlm.cli.main import app
from tiltlm.objectives import CATALOG
from tiltlm.recipes import run_settings
from tiltlm.worlds import TextWorld

MODEL = str(TextWorld().model_path())
SETUP = {"git", "cd", "source", "pip", "pre-commit"}
"""Programs that fetch from the network or change the shell. Files that their arguments name must exist."""
ELSEWHERE = {"quickstart", "report"}
"""Commands whose own tests are in tests/e2e/test_quickstart.py and tests/e2e/test_tools.py."""
CHEAP = {
    "train": ("training.max_steps=1", "evaluation.num_prompts=0"),
    "sweep": ("training.max_steps=1", "evaluation.num_prompts=0"),
    "sample": ("max_new_tokens=4", "--limit", "2", "--overwrite"),
    "check": ("--overwrite",),
}
SHAPES = ("dpo", "kto", "pl_dpo", "sft")
"""Methods that read a row of data: one of each shape."""
COLUMNS = {"prompt", "chosen", "completion", "completions", "messages"}


@pytest.fixture
def own_catalog():
    """Remove what a page registers."""
    before = dict(CATALOG)
    yield
    CATALOG.clear()
    CATALOG.update(before)


@pytest.fixture
def folder(tmp_path, monkeypatch, blank_figures):
    """An empty folder to work in, with a store and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TILTLM_STORE", str(tmp_path / "own-store"))
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "own-cache"))
    return tmp_path


def write_data(folder: Path, text: str) -> None:
    """Write pairs to every data file that a page names."""
    corpus = TextWorld().corpus(0, 24)
    rows = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": " Go away now!"} for r in corpus]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name in {"pairs.jsonl", *re.findall(r"(?<![\w./])[\w-]+\.jsonl(?:\.gz)?\b", text)}:
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def invoke(*arguments: str) -> Result:
    """Run `tiltlm` with these arguments."""
    return CliRunner().invoke(app, [*arguments])


def with_value(arguments: list[str], option: str, value: str) -> list[str]:
    """Return the arguments with another value of an option, or with the option."""
    if option in arguments:
        at = arguments.index(option) + 1
        return [*arguments[:at], value, *arguments[at + 1 :]]
    return [*arguments, option, value]


def on_the_tiny_model(arguments: list[str]) -> list[str]:
    """Return the arguments with names of models and placeholders replaced by what is here."""
    for option, value in (("--model", MODEL), ("--reference", MODEL), ("--data", "pairs.jsonl")):
        if option in arguments:
            given = arguments[arguments.index(option) + 1]
            is_word = option == "--reference" and given in ("base", "columns", "initial")
            if not is_word and not Path(given).exists():
                arguments = with_value(arguments, option, value)
    if arguments[:1] == ["chat"]:
        trained = arguments[1] if Path(arguments[1]).exists() else MODEL
        arguments = with_value(["chat", trained, *arguments[2:]], "--beside", MODEL)
    if arguments[:1] == ["sample"]:  # tests/unit/sampling/engines/test_server.py has the servers
        trained = arguments[1] if Path(arguments[1]).exists() else MODEL
        arguments = ["sample", trained, *(re.sub(r"engine=http\S+", "engine=own", a) for a in arguments[2:])]
    judged = ["gold" if argument == "JUDGE" else argument for argument in arguments]
    return [argument.replace("=...", "=0.3") for argument in judged]


RECIPES = {
    path.rpartition(".")[2]: import_module(f"tiltlm.recipes.{path}")
    for path in ("train", "score", "studies.sweep", "preview", "online.loop")
}


class SettingsHoldError(Exception):
    """All settings of a command have been read."""


def stop(*_: object, **__: object) -> None:
    """Take the place of a recipe."""
    raise SettingsHoldError


def assert_settings_hold(arguments: list[str], place: str) -> None:
    """Run a command up to where all settings have been read; its data is not looked at."""
    if "--output" not in arguments and arguments[:1] in (["train"], ["sweep"]):
        arguments = [*arguments, "--output", "new-run"]
    unread = {name: lambda *_: None for name in ("check_inputs", "check_data", "check_preview")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.multiple(run_settings, check_sweep_inputs=lambda runs: [None] * len(runs), **unread))
        for name, recipe in RECIPES.items():
            stack.enter_context(patch.object(recipe, name, stop))
        error = invoke(*with_value(arguments, "--model", MODEL)).exception
    assert isinstance(error, SettingsHoldError), f"{place}: {' '.join(arguments)}: {error!r}"


def find_config(arguments: list[str], candidates: list[Path], place: str) -> list[str]:
    """Return the arguments with the configuration file replaced by the first block of the page that they fit."""
    named = [i for i, argument in enumerate(arguments) if argument.endswith(".yaml") or argument == "CONFIG"]
    named = [i for i in named if not Path(arguments[i]).exists()]  # `tiltlm init` has written it
    if not named:
        return arguments
    failures = []
    for candidate in candidates:
        tried = [*arguments[: named[0]], str(candidate), *arguments[named[0] + 1 :]]
        try:
            assert_settings_hold(tried, place)
        except AssertionError as failure:
            failures.append(str(failure))
        else:
            return tried
    raise AssertionError("\n".join([f"{place}: the command fits no configuration of the page", *failures]))


def run_tiltlm(arguments: list[str], candidates: list[Path], place: str) -> None:
    """Run a command of a page on tiny data."""
    command, *rest = arguments
    if command in ELSEWHERE:
        return
    arguments = on_the_tiny_model([command, *rest])
    found = arguments if command == "init" else find_config(arguments, candidates, place)
    result = invoke(*found, *CHEAP.get(command, ()))
    assert result.exit_code == 0, f"{place}: {' '.join(found)}: {result.exception!r}\n{result.output}"


def run_line(line: str, candidates: list[Path], place: str) -> None:
    """Run or check one command line."""
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    program, *arguments = words
    name = Path(program).name
    if program == "tiltlm":
        run_tiltlm(arguments, candidates, place)
    elif ("-m", "tiltlm") in pairwise(arguments):  # started by a launcher
        after = arguments[arguments.index("tiltlm") + 1 :]
        assert_settings_hold(find_config(on_the_tiny_model(after), candidates, place), place)
    elif name in SETUP or arguments[:2] == ["-m", "venv"]:
        for option, file in pairwise(arguments):
            assert option not in ("-c", "-r") or (ROOT / file).exists(), f"{place}: {file}"
    else:
        script = ROOT / (arguments[0] if name == "python" else program)
        assert script.is_file(), f"{place}: {line}: not a script of the repository"
        assert name == "python" or os.access(script, os.X_OK), f"{place}: {line}: not executable"
        options = [word for word in arguments if word.startswith("--")]
        assert all(option in script.read_text() for option in options), f"{place}: {line}"


def check_json(block: Block, folder: Path) -> None:
    """Parse every row of a block, and load those that are data."""
    rows = [json.loads(line) for line in block.text.splitlines() if line]
    data = [row for row in rows if isinstance(row, dict) and COLUMNS & row.keys()]
    for i, row in enumerate(data):
        file = folder / f"row-{block.line}-{i}.jsonl"
        file.write_text(json.dumps(row) + "\n")
        chat = "data.chat_template={% for m in messages %}{{ m.content }}{% endfor %}"
        tries = [invoke("preview", str(file), *more, "--model", MODEL, "--objective", name) for name in SHAPES
                 for more in ([], [chat])]  # fmt: skip
        assert any(result.exit_code == 0 for result in tries), f"{block.place}: {row}: {tries[0].exception}"


def is_shell(block: Block) -> bool:
    """Return whether a block holds commands. Those without a language do; others are `text`."""
    return block.language in ("", "bash", "sh", "shell", "console")


def run_python(block: Block, after: Block | None, namespace: dict[str, object]) -> None:
    """Run a Python block. If a text block follows it directly, compare what is printed."""
    code = re.sub(r"\"[A-Z]\w*/[\w.-]+\"", repr(MODEL), block.text)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile("\n" * block.line + code, page_name(block.page), "exec"), namespace)
    print(printed.getvalue())
    closing = block.line + block.text.count("\n") + 1
    if after is not None and after.language == "text" and after.line == closing + 2:
        assert printed.getvalue() == after.text, f"{after.place}: this is not what the block before it prints"


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in their order."""
    found = [block for block in blocks(page) if not block.not_run]
    write_data(folder, "".join(block.text for block in found))
    candidates: list[Path] = []
    for block in found:
        if block.language == "yaml":
            candidates.insert(0, folder / f"{page.stem}-{block.line}.yaml")
            document = {"model": MODEL, "data": "pairs.jsonl", "output": "runs/config", **yaml.safe_load(block.text)}
            candidates[0].write_text(yaml.safe_dump(document))
            assert_settings_hold(["train", str(candidates[0])], block.place)
    namespace: dict[str, object] = {}
    for block, after in zip_longest(found, found[1:]):
        if is_shell(block):
            for line in commands(block.text):
                run_line(line, candidates, block.place)
        elif block.language in ("json", "jsonl"):
            check_json(block, folder)
        elif block.language == "python":
            run_python(block, after, namespace)
        else:
            known = block.language in ("text", "yaml") or block.language.startswith("{")  # a directive of Sphinx
            assert known, f"{block.place}: a block of {block.language!r} is run by no test: name a reason before it"


@pytest.mark.parametrize("page", GUIDES, ids=page_name)
def test_the_blocks_of_a_guide_run(page, folder, own_catalog):
    run_page(page, folder)


@pytest.mark.parametrize("page", [*METHODS, *PRESETS], ids=lambda page: f"{page.parent.stem} {page.stem}")
def test_the_command_of_a_method_holds(page, folder):
    lines = [line for block in blocks(page) for line in commands(block.text) if line.startswith("tiltlm ")]
    assert lines
    for line in lines:
        assert_settings_hold(on_the_tiny_model(shlex.split(line)[1:]), page_name(page))


def test_examples_of_extending_are_methods(folder, own_catalog, capsys):
    run_page(ROOT / "docs" / "extending.md", folder)
    assert {"boosted_dpo", "root_dpo"} <= CATALOG.keys()
    assert "Boosted DPO" in capsys.readouterr().out


def test_something_of_each_kind_is_run():
    found = [block for page in GUIDES for block in blocks(page) if not block.not_run]
    assert {"yaml", "json", "python"} <= {block.language for block in found}
    assert sum(line.startswith("tiltlm ") for block in found if is_shell(block) for line in commands(block.text)) >= 6


WRONG = {
    "an unknown command": "```\ntiltlm trian --model M --data D\n```",
    "an unknown setting": "```\ntiltlm score --model M --data D --objective sft data.trian=1\n```",
    "a script that is not there": "```\npython scripts/no_such_script.py\n```",
    "an option that a script does not have": "```\n./quickstart --no-such-option\n```",
    "a file that is not there": "```\npip install -r no-such-file.txt\n```",
    "an unknown program": "```\nprogram\n```",
    "a configuration without its method": "```yaml\nobjective: {name: dpoo}\n```",
    "a configuration that a command does not fit": (
        "```yaml\nobjective: {name: dpo}\n```\n\n```\ntiltlm sweep run.yaml objective.sum.0.beta=1,2\n```"
    ),
    "JSON that is none": '```json\n{"prompt": }\n```',
    "a row that no method reads": '```json\n{"prompt": "Why?", "reply_text": "So."}\n```',
    "Python that fails": "```python\nassert False\n```",
    "Python that prints something else": "```python\nprint(1)\n```\n\n```text\n2\n```",
    "a language that no test runs": "```rust\nfn main() {}\n```",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_a_wrong_block_is_seen_and_a_reason_excuses_it(text, folder):
    page = folder / "page.md"
    page.write_text(text)
    with pytest.raises((AssertionError, ValueError)):
        run_page(page, folder)
    page.write_text(re.sub(r"```(?=\w*\n\S)", "<!-- not run: an example -->\n```", text))
    run_page(page, folder)
