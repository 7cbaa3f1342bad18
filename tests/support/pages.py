"""The pages of the repository as readers see them: code blocks, inline code, and why a block is not run."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
"""Written by hand; docs/objectives.md in part."""
METHODS = sorted((ROOT / "docs" / "methods").glob("*.md"))
PRESETS = sorted((ROOT / "docs" / "presets").glob("*.md"))
OTHERS = [*(ROOT / f"{name}.md" for name in ("CHANGELOG", "RELEASING", "SECURITY")), ROOT / "benchmarks" / "README.md"]
PAGES = [*GUIDES, *METHODS, *PRESETS, *OTHERS]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None
    """The reason in an HTML comment before it: `<!-- not run: TRL is not installed -->`."""

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{page_name(self.page)}:{self.line}"


def page_name(page: Path) -> str:
    """Return the path from the root of the repository."""
    return (page.relative_to(ROOT) if page.is_relative_to(ROOT) else page).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page in order."""
    source = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(source):
        reason = NOT_RUN.search(source[: match.start()])
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = source.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match["language"].strip(), text, reason and reason["reason"]))
    return found


def commands(text: str) -> list[str]:
    """Return the command lines of a shell block: continued lines joined, comments and prompts left out."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ") for line in joined.splitlines())
    return [part.strip() for line in lines if line for part in line.split(" && ")]


def inline_code(page: Path) -> list[tuple[int, str]]:
    """Return what stands between single backticks outside code blocks, each with its line."""
    source = FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))
    spans = re.finditer(r"(?<!`)`([^`]+)`(?!`)", source)
    return [(source.count("\n", 0, span.start()) + 1, " ".join(span[1].split())) for span in spans]
