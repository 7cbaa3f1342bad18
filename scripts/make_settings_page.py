"""Write docs/settings.md, the page of all settings, from the settings dataclasses.

    python scripts/make_settings_page.py

Run it after a change of a setting, its default or its docstring: a test compares the page.
"""

from pathlib import Path

from tiltlm.config.listing import all_settings, further_sections, further_settings, sections

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """\
# Settings

All settings with their types and defaults. They are YAML keys, `key=value` on the command line, and keyword arguments
in Python, with the same names; a key that only one section has needs no section (`batch_size=8`).

```
tiltlm settings training
tiltlm settings batch_size --json
```

The first prints a section of this page, the second one setting for programs. `tiltlm init` writes all of them as a
commented file: see [below](#a-file-to-start-from).

*Made by `scripts/make_settings_page.py` from the code; change it there.*
"""
FURTHER = """\
`tiltlm train` does not have the next sections. They belong to [`tiltlm sample`](sampling.md), to commands that take a
[judge](judges.md), and to [`tiltlm loop`](loop.md).
"""
TAIL = """\
## A file to start from

```
tiltlm init run.yaml --model Qwen/Qwen2.5-0.5B-Instruct --data pairs.jsonl --objective dpo --output runs/first
tiltlm train run.yaml
```

Every setting stands in `run.yaml` with its meaning: the necessary ones with a value, the others as comments with
their defaults. `--from` translates a configuration of TRL or axolotl: see
[coming from TRL](coming-from-trl.md#your-yaml).
"""


def cell(text: str) -> str:
    """Return a text as the cell of a Markdown table."""
    return text.replace("|", "\\|")


def page() -> str:
    """Return the text of docs/settings.md."""
    parts = [HEAD]
    settings = [*all_settings(), *further_settings()]
    for section, meaning in {**sections(), **further_sections()}.items():
        own = [setting for setting in settings if setting.section == section]
        rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for s in own:
            default = "required" if s.is_required else f"`{s.shown_default}`"
            rows.append(f"| `{s.key}` | {s.type} | {default} | {cell(s.meaning)} |")
        more = "All other keys depend on the method: [objectives](objectives.md), [composing](composing.md).\n"
        if section == next(iter(further_sections())):
            parts.append(FURTHER)
        parts.append(
            f"## {section}\n\n{meaning}\n\n" + "\n".join(rows) + "\n" + (f"\n{more}" if section == "objective" else "")
        )
    return "\n".join([*parts, TAIL])


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len([*all_settings(), *further_settings()])} settings")


if __name__ == "__main__":
    main()
