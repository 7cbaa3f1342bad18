"""The documentation site builds without a warning, and every public name has an entry on it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

DOCS = Path(__file__).parents[2] / "docs"
PARTS = runpy.run_path(str(DOCS / "site_parts.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. A warning of Sphinx, such as a link that leads nowhere, fails here."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(folder)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_has_an_entry(site):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    entries = {name for kind, found in inventory.data.items() if kind.startswith("py:") for name in found}
    names = PARTS["public_names"]()
    assert {"tiltlm.train", "tiltlm.core.Example", "tiltlm.objectives.dpo", "tiltlm.links.Logistic"} <= set(names)
    assert sorted(set(names) - entries) == []


@pytest.mark.slow
def test_links_outside_the_documentation_lead_to_the_repository_and_shown_files_to_their_pages(site):
    contributing = (site / "contributing.html").read_text()
    assert f'href="{PARTS["REPOSITORY"]}/blob/main/benchmarks/README.md"' in contributing
    assert 'href="changes.html"' in contributing
    assert "Adding a method" in contributing


@pytest.mark.slow
def test_a_type_in_a_signature_leads_to_its_public_entry(site):
    assert 'href="tiltlm.core.html#tiltlm.core.Response"' in (site / "api" / "tiltlm.sampling.html").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Return `x`.", "Return ``x``."),
        ("`Tree`s of 2·`n`", "``Tree``\\ s of 2·\\ ``n``"),
        ("log π(y|x) *all* name_ and π_ref", "log π(y\\|x) \\*all\\* name\\_ and π_ref"),
        ("As in\n\n    a = `b`*c\n\nand on.", "As in\n\n::\n\n    a = `b`*c\n\n\nand on."),
        ("Returns:\n    a\n\n    b", "Returns:\n    a\n\n    b"),
    ],
    ids=["code", "code beside letters", "signs", "indented code", "section"],
)
def test_a_docstring_is_plain_text_with_code(text, expected):
    assert PARTS["as_rst"](text) == expected
