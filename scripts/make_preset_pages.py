"""Write the documentation of the presets of `tiltlm loop` from their declarations.

    python scripts/make_preset_pages.py

It writes docs/presets/NAME.md, one page a preset, and the marked table in docs/loop.md. Run it after a change of a
preset: a test compares the pages.
"""

import textwrap
from pathlib import Path

import yaml

from tiltlm.online.presets import PRESETS
from tiltlm.recipes.online.presets import facts_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTE = "*Made by `scripts/make_preset_pages.py` from the code; change it there.*"
BEGIN, END = "<!-- presets: made by scripts/make_preset_pages.py -->\n", "<!-- end of presets -->"


def prose(text: str) -> str:
    """Return a text wrapped to lines."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def page(name: str) -> str:
    """Return the page docs/presets/NAME.md."""
    preset = PRESETS[name]
    facts = facts_of(preset)
    title, _, meaning = preset.title.partition(": ")
    rows = [
        ("samples of a prompt", facts.draws),
        ("judge", facts.judge),
        ("trains", facts.trains),
        ("reference", facts.reference),
        ("a round", facts.a_round),
        ("stops", facts.stop),
    ]
    needs_judge = facts.judge != "none" and not preset.judge
    command = f"tiltlm loop --preset {name} --model MODEL --data PROMPTS{' --judge JUDGE' * needs_judge}"
    if preset.judge:
        command += " --held-out-judge JUDGE --unaudited"
    settings = yaml.safe_dump(dict(preset.settings), sort_keys=False, default_flow_style=None, width=100).strip()
    pieces = [
        f"# `{name}`",
        prose(f"**{title}**: {meaning}."),
        f"Source: {preset.source}",
        "| | |\n|---|---|\n" + "\n".join(f"| {what} | {text} |" for what, text in rows),
        f"```\n{command} --output runs/{name}\n```",
        "## Differences from the paper, and what must be given",
        prose(preset.differs),
        "## How it fails",
        prose(preset.fails),
        "## Settings",
        "Each of them may be changed; all others have their [defaults](../settings.md#loop).",
        f"```yaml\n{settings}\n```",
        f"[All presets](../loop.md). {NOTE}",
    ]
    return "\n\n".join(pieces) + "\n"


def table() -> str:
    """Return the table of docs/loop.md."""
    lines = ["| preset | samples of a prompt | examples and objective | reference | a round |", "|---|---|---|---|---|"]
    for name, preset in PRESETS.items():
        facts = facts_of(preset)
        reference = facts.reference.partition(":")[0]
        lines.append(
            f"| [`{name}`](presets/{name}.md) | {facts.draws} | {facts.trains} | {reference} | {facts.a_round} |"
        )
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Return the text of every generated page, by path."""
    loop = DOCS / "loop.md"
    before, found, rest = loop.read_text().partition(BEGIN)
    assert found, "docs/loop.md has no table of presets"
    _, _, after = rest.partition(END)
    made = {DOCS / "presets" / f"{name}.md": page(name) for name in PRESETS}
    return made | {loop: before + BEGIN + table() + END + after}


def main() -> None:
    """Write all pages, and remove the pages of presets that no longer exist."""
    written = pages()
    for path in (DOCS / "presets").glob("*.md"):
        if path not in written:
            path.unlink()
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    print(f"{len(written)} pages")


if __name__ == "__main__":
    main()
