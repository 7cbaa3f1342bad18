"""Pictures of the pages are there, and small enough for a repository."""

import re

from support.pages import PAGES, page_name

LARGEST = 200_000
"""Bytes."""


def test_every_picture_of_a_page_is_there_and_small():
    shown = [
        (page, page.parent / target)
        for page in PAGES
        for target in re.findall(r'(?:!\[[^\]]*\]\(|<img src=")([^)"]+)', page.read_text(encoding="utf-8"))
    ]
    assert "README.md" in {page_name(page) for page, _ in shown}
    for page, picture in shown:
        assert picture.is_file(), f"{page_name(page)}: {picture.name} is missing"
        assert picture.stat().st_size < LARGEST, f"{page_name(page)}: {picture.name} is too large"
