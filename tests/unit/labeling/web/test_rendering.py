"""Markdown to safe HTML."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiltlm.labeling.web.rendering import ATTRIBUTES, TAGS, plain_html, to_html


class Seen(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.others: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def assert_inert(html: str) -> Seen:
    """Check that HTML has only tags and attributes that can do no harm."""
    seen = Seen(html)
    assert not seen.others
    for tag, attributes in seen.tags:
        assert tag in TAGS, html
        assert set(attributes) <= ATTRIBUTES.get(tag, set()) | ({"rel", "target"} if tag == "a" else set()), html
        if "href" in attributes:
            assert str(attributes["href"]).lower().startswith(("http://", "https://", "mailto:")), html
        if tag == "a":
            assert attributes["target"] == "_blank"
            assert set(str(attributes["rel"]).split()) == {"noopener", "noreferrer", "nofollow"}
    return seen


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<!--<img src='--><img src=x onerror=alert(1)>'>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:msgbox(1))",
    "[x](file:///etc/passwd)",
    "[x](/admin) [y](//evil.test) [z](?a=b) [w](#x)",
    "<javascript:alert(1)>",
    "![x](https://evil.test/pixel.png)",
    '![x"onerror="alert(1)](https://evil.test/"onerror="alert(1))',
    "![](data:image/svg+xml,<svg onload=alert(1)>)",
    '[x](https://a.test "onmouseover=alert(1)")',
    "[x](https://a.test/\"onmouseover='alert(1)')",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "`</code><script>alert(1)</script>`",
    "$</p><script>alert(1)</script>$",
    r"\(<img src=x onerror=alert(1)>\)",
    "| a |\n|:-:|\n| <style>*{display:none}</style> |",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<form action=https://evil.test><input name=x><button>go",
    "<base href=https://evil.test/><meta http-equiv=refresh content='0;url=//evil.test'>",
    "<div style='position:fixed;inset:0' class='dialog' id='main'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<scr\0ipt>alert(1)</scr\0ipt>",
    "\ud800<script>alert(1)</script>\udfff",
    "{{ 7 * 7 }} ${7*7} <%= 7 %>",
    "[![a](https://evil.test/a.png)](javascript:alert(1))",
    "<details open ontoggle=alert(1)>",
    "<object data=x><embed src=x>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_become_text(text: str) -> None:
    for html in (to_html(text), plain_html(text)):
        seen = assert_inert(html)
        assert not {"img", "script", "style"} & {tag for tag, _ in seen.tags}


@given(st.text(alphabet="<>\"'&[]()!`*_#|-:/\\$ \n\0\ud800ajavscriptonerror=", max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_becomes_inert(text: str) -> None:
    assert_inert(to_html(text))
    assert_inert(plain_html(text))


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert Seen(plain_html(text)).text == text.replace("\0", "\ufffd")


def test_what_people_write_is_shown_as_meant() -> None:
    html = to_html("**bold** *slanted* ~~gone~~ `x < y`\n\n- one\n- two\n\n2. three\n\n> said\n\n---\n")
    for part in (
        *("<strong>bold</strong>", "<em>slanted</em>", "<s>gone</s>", "<code>x &lt; y</code>", "<li>one</li>"),
        *('<ol start="2">', "<blockquote>", "<hr>"),
    ):
        assert part in html


def test_code_keeps_its_lines() -> None:
    assert to_html("```py\nif x < 1:\n    y\n```") == "<pre><code>if x &lt; 1:\n    y\n</code></pre>"


def test_tables_are_aligned_without_style() -> None:
    html = to_html("|a|b|\n|:-|-:|\n|1|2|")
    assert '<th align="left">a</th>' in html
    assert '<td align="right">2</td>' in html


def test_headings_fit_below_those_of_the_page() -> None:
    """No level is missing between two, whatever a model writes."""
    tags = [tag for tag, _ in Seen(to_html("### a\n\n# b\n\n###### c\n\n# d\n\nx\n===")).tags if tag.startswith("h")]
    assert tags == ["h3", "h3", "h4", "h3", "h3"]


def test_a_picture_is_shown_as_its_address() -> None:
    assert to_html("![a *cat*](https://x.test/cat.png)") == "<p>[image: a cat] (https://x.test/cat.png)</p>"


@pytest.mark.parametrize(
    "text", ["$a_1*b*c_2$", r"\(x_1 * y_1\)", r"\[ a_1 * b * c \]", "$$\na_1 * b * c_1\n$$", r"$\$$"]
)
def test_formulas_are_shown_as_they_were_written(text: str) -> None:
    assert Seen(to_html(text)).text == text


def test_money_is_no_formula() -> None:
    assert Seen(to_html("$5 and *not* $6")).text == "$5 and not $6"


def test_a_definition_of_a_link_is_shown() -> None:
    """It would vanish otherwise, and a part of the response with it."""
    assert "[1]: https://x.test" in to_html("see [here][1]\n\n[1]: https://x.test")
