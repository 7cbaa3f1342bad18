"""Write the table of rules in docs/checking-data.md from the code.

    python scripts/make_checks_table.py

Run it after a change of a rule: a test compares the page.
"""

from pathlib import Path

from tiltlm.data.quality.inspection import all_rules
from tiltlm.data.quality.languages import Languages
from tiltlm.data.quality.rules import CODES, COLUMN_RULE, LEVELS, Rule
from tiltlm.recipes.data.noise import NOISE_RULES

PAGE = Path(__file__).parents[1] / "docs" / "checking-data.md"
START, END = "<!-- rules: made by scripts/make_checks_table.py -->\n", "<!-- end of rules -->\n"


def rules() -> list[Rule]:
    """Return every rule, by code and level."""
    found = [*all_rules().values(), COLUMN_RULE, *Languages.rules, *NOISE_RULES]
    return sorted(found, key=lambda rule: (rule.code, LEVELS.index(rule.level), rule.key))


def cell(text: str) -> str:
    """Return a text as the cell of a Markdown table."""
    return text.replace("|", "\\|")


def table() -> str:
    """Return the table: a row for each rule, and the code's subject in its first row."""
    lines = ["| code | rule | level | what is found | what to do |", "|---|---|---|---|---|"]
    last = ""
    for rule in rules():
        code = "" if rule.code == last else f"**{rule.code}** {CODES[rule.code]}"
        last = rule.code
        lines.append(f"| {code} | `{rule.key}` | {rule.level} | {cell(rule.cause)} | {cell(rule.fix)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the text of the page with the present table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(rules())} rules")


if __name__ == "__main__":
    main()
