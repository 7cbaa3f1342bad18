"""Markdown for pull requests: signs of users' text show as they are."""

from tiltlm.report.answers.markdown import markdown_summary, write_markdown
from tiltlm.report.tables import Cell, Table, TableRow


def test_a_summary_by_hand(tmp_path):
    table = Table(("rate", "p"), (TableRow("k", "a|b", (Cell("63 %", "57 to 69"), Cell("0.01"))),), title="Rates")
    text = markdown_summary("A *b*", ["One.\nTwo."], [table], ["careful"], "10 prompts")
    assert text == (
        "### A \\*b\\*\n\nOne. Two.\n\n- careful\n\n**Rates**\n\n|   | rate | p |\n|---|---:|---:|\n"
        "| a\\|b | 63 % (57 to 69) | 0.01 |\n\n<sub>10 prompts</sub>\n"
    )
    assert write_markdown(tmp_path / "new" / "summary.md", text).read_text() == text
