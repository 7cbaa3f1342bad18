"""Figures with the colours and fonts of their page."""

import re

from tiltlm.report.svg import COLOURS, FIRST, INK, figure, inline, styled


def drawn(name: str, label: str = "x") -> str:
    with styled():
        made = figure(6, 3)
        axes = made.subplots()
        axes.plot([0, 1], [0, 1], "o-", color=FIRST, label=label)
        axes.text(0.5, 0.5, label, color=INK)
        axes.legend()
        return str(inline(made, name, f"about {label}"))


def test_colours_become_variables_of_the_page():
    svg = drawn("a")
    assert "var(--first)" in svg
    assert "var(--muted)" in svg
    assert not [placeholder for placeholder in COLOURS.values() if placeholder in svg]
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}


def test_every_variable_is_defined_in_light_and_dark():
    from tiltlm.report.page import template_file

    light, dark = template_file("style.css").split("prefers-color-scheme: dark")
    for variable in COLOURS:
        assert f"--{variable}:" in light
        assert f"--{variable}:" in dark


def test_no_address_no_document_no_foreign_font():
    svg = drawn("a")
    assert svg.startswith("<svg class=")
    assert not re.search(r"http|xmlns|DOCTYPE|<style|metadata|DejaVu", svg)


def test_ids_carry_the_name_of_the_figure():
    a, b = (set(re.findall(r'\bid="([^"]*)"', drawn(name))) for name in ("a", "b"))
    assert a
    assert not a & b
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', drawn("a")))
    assert used <= a


def test_labels_are_text_and_neither_markup_nor_formulas():
    svg = drawn("a", label='$x^2$ <script>alert(1)</script> "quoted"')
    assert "<script" not in svg
    assert "$x^2$" in svg
    assert 'aria-label="about $x^2$ &lt;script&gt;' in svg
