"""Texts in the terminal: nothing is obeyed, nothing is hidden, nothing is lost."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from support.terminal_texts import ESCAPES, MARKUP, UNSEEN
from tiltlm.core.notes import visible
from tiltlm.labeling.terminal.texts import diff, markdown, plain, turns
from tiltlm.labeling.words import Part, word_diff


def printed(renderable: object, width: int = 60) -> str:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def is_inert(text: str) -> bool:
    """Return True if a terminal prints the text as it is, and a person sees all of it."""
    return all(
        one in "\n\u200c\u200d" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in text
    )


@pytest.mark.parametrize("name", [*ESCAPES, *UNSEEN])
def test_control_characters_are_shown_by_name(name):
    text = {**ESCAPES, **UNSEEN}[name]
    for shown in (visible(text), printed(plain(text)), printed(markdown(text)), printed(diff([Part("changed", text)]))):
        assert is_inert(shown)
    assert visible(text) != text
    assert len(visible(text)) >= len(text)


def test_names():
    assert visible("\x1b[31m\x07\x7f\x00") == "␛[31m␇␡␀"
    assert visible("\u202e\x9b\ud83d\U000e0041") == "⟨U+202E⟩⟨U+009B⟩⟨U+D83D⟩⟨U+E0041⟩"
    assert visible("a\r\nb\rc") == "a\nb␍c"


@pytest.mark.parametrize("text", ["a\tb\nc", "שלום, العربية", "می‌خواهم", "👩‍👩‍👧 é é 中文", "\u0600 \u06dd"])
def test_other_characters_stay(text):
    assert visible(text) == text


@given(st.text())
def test_any_text_is_inert_and_can_be_printed(text):
    shown = visible(text)
    assert is_inert(
        shown.replace("\t", "").translate(
            dict.fromkeys(map(ord, "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2"))
        )
    )
    shown.encode()
    assert is_inert(printed(plain("".join(one for one in text if ord(one) < 0x600))))


@pytest.mark.parametrize("name", MARKUP)
def test_markup_of_the_library_is_text(name):
    assert printed(plain(MARKUP[name])) == MARKUP[name]
    wanted = "[bold]x" if name == "escaped" else MARKUP[name]  # a backslash before a bracket is Markdown's
    assert printed(markdown(MARKUP[name])) == wanted


def test_markdown_is_rendered():
    shown = printed(
        markdown("# Title\n\n## Part\n\n**bold** `code`\n\n1. one\n2. two\n\n```python\nx = 1\n\ty\n```\n> quote")
    )
    assert "# Title" in shown
    assert "## Part" in shown
    assert "bold code" in shown
    assert " 1 one\n 2 two" in shown
    assert "  x = 1\n      y" in shown
    assert "▌ quote" in shown


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("see [words](https://example.org/x) there", "see words (https://example.org/x) there"),
        ("see ![a cat](https://evil.example/p.png) there", "see [image: a cat] (https://evil.example/p.png) there"),
        ("<b>bold</b> <script>x</script>", "<b>bold</b> <script>x</script>"),
        ("<div>\nblock\n</div>", "<div> block </div>"),
        ("[1]: https://example.org", "[1]: https://example.org"),
        ("[x](javascript:alert)", "[x](javascript:alert)"),
        (r"$a_1 * b_2 * c$ and \(x_1\)", r"$a_1 * b_2 * c$ and \(x_1\)"),
    ],
)
def test_links_pictures_html_and_formulas_are_text(text, wanted):
    assert printed(markdown(text), 100) == wanted


def test_no_link_can_be_opened():
    console = Console(width=80, force_terminal=True, legacy_windows=False)
    with console.capture() as capture:
        console.print(markdown("[words](https://example.org) <https://example.org> ![p](https://example.org)"))
    assert "\x1b]8" not in capture.get()


def test_turns_have_their_roles():
    assert printed(turns([("assistant", "*hi*")], is_raw=False)) == "hi"
    assert printed(turns([("assistant", "*hi*")], is_raw=True)) == "*hi*"
    assert printed(turns([("tool", "4")], is_raw=True)) == "tool:\n4"
    assert printed(turns([("user", "a"), ("assi\x1bstant", " ")], is_raw=True)) == "user:\na\n\nassi␛stant:\n(no text)"
    assert printed(turns([("assistant", "")], is_raw=False)) == "(no text)"


def test_a_diff_is_marked_without_colours_too():
    left, _ = word_diff("one two\nthree", "one 2\nthree")
    console = Console(width=40, force_terminal=True, no_color=True, legacy_windows=False)
    with console.capture() as capture:
        console.print(diff(left))
    assert capture.get() == "one \x1b[1;4mtwo\x1b[0m\nthree\n"
    assert printed(diff(word_diff("a\n\nb", "a\nb")[0])) == "a↵\n↵\nb"


def test_the_end_of_a_very_long_text_is_left_out_and_that_is_said():
    text = "12345678 \n" * 20_000
    for shown in (plain(text), diff([Part("same", text[:50]), Part("changed", text[50:])])):
        assert shown.plain.startswith(text[:100_000])
        assert "(100,000 more characters" in shown.plain[100_000:]
        assert len(shown.plain) < 100_200
    assert plain(text[:100_000]).plain == text[:100_000]
