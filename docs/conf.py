"""Settings of the documentation site. `./docs/build` makes it; what is particular to tiltlm is in `site_parts.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import site_parts

project = "tiltlm"
author = "the tiltlm authors"
copyright = "the tiltlm authors, Apache-2.0"
release = site_parts.VERSION
version = release

extensions = ["sphinx.ext.autodoc", "myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 3
highlight_language = "text"

# Docstrings
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "special-members": "__call__"}
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 110
add_module_names = False
toc_object_entries_show_parents = "hide"

# Pages
html_theme = "furo"
html_title = f"tiltlm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "top_of_page_buttons": [],  # the sources of half of the pages are made, so that no link would lead to them
    "footer_icons": [{"name": "Repository", "url": site_parts.REPOSITORY, "html": "Repository", "class": ""}],
}
html_copy_source = False

setup = site_parts.setup
