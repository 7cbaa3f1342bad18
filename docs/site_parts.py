"""Write the reference pages from what the code exports, and adapt pages and docstrings to the site.

- Reference: one page a public package, one entry a name of its `__all__`. Nothing is listed by hand.
- Links of the pages in this folder to files outside it lead to the repository.
- Docstrings are plain text with Markdown's backticks; Sphinx reads reStructuredtext.
"""

import importlib
import inspect
import pkgutil
import re
import textwrap
from functools import cache
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import PycodeError
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

import tiltlm

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BRANCH = "main"
VERSION = metadata("tiltlm")["Version"]
REPOSITORY = dict(url.split(", ") for url in metadata("tiltlm").get_all("Project-URL"))["Repository"]

INTERNAL = {"cli", "config", "recipes"}
"""Packages whose names are not promised to anyone; `tiltlm` itself exports what is meant of them."""

SHOWN = {"changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages whose content is a file outside the documentation."""

NAPOLEON: Any = Config(napoleon_use_rtype=False)

KINDS = ("Methods", "Functions", "Classes", "Constants and types")


@cache
def public_modules() -> list[str]:
    """Return the names of `tiltlm` and of all its packages that export something and are not internal."""
    packages = [f"tiltlm.{m.name}" for m in pkgutil.iter_modules(tiltlm.__path__) if m.name not in INTERNAL and m.ispkg]
    return ["tiltlm", *(p for p in sorted(packages) if getattr(importlib.import_module(p), "__all__", ()))]


@cache
def public_names() -> dict[str, Any]:
    """Return every public name, as `tiltlm.core.Example`, with what it stands for."""
    modules = {name: importlib.import_module(name) for name in public_modules()}
    return {f"{name}.{entry}": getattr(module, entry) for name, module in modules.items() for entry in module.__all__}


# Reference pages


def kind_of(value: Any) -> str:
    """Return the heading that a public object stands under."""
    if inspect.isclass(value):
        return "Classes"
    if inspect.isfunction(value):
        return "Methods" if value in _methods() else "Functions"
    return "Constants and types"


def entry(name: str, value: Any) -> str:
    """Return the directive of one public name.

    A class that its own package exports as well is written out there only, and here a link leads to it.
    """
    if inspect.isclass(value):
        home = _home(name, value)
        package, _, short = name.rpartition(".")
        link = f".. py:class:: {short}\n   :module: {package}\n\n   The same class as :py:class:`{home}`.\n"
        return f".. autoclass:: {name}\n" if home == name else link
    if inspect.isfunction(value):
        return f".. autofunction:: {name}\n"
    readable = len(repr(value)) <= 80 and " at 0x" not in repr(value)
    return f".. autodata:: {name}\n" + ("" if readable else "   :no-value:\n")


def page(module: str) -> str:
    """Return the reference page of a package, as reStructuredText."""
    names = {name: value for name, value in public_names().items() if name.rpartition(".")[0] == module}
    parts = [":tocdepth: 3\n", f"{module}\n{'=' * len(module)}\n", f".. automodule:: {module}\n   :no-members:\n"]
    for kind in KINDS:
        entries = [entry(name, value) for name, value in names.items() if kind_of(value) == kind]
        if entries:
            parts += [f"{kind}\n{'-' * len(kind)}\n", *entries]
    return "\n".join(parts)


def write_pages(_app: Sphinx) -> None:
    """Write the reference pages that changed and remove those of packages that are gone."""
    pages = {DOCS / "api" / f"{module}.rst": page(module) for module in public_modules()}
    for old in set((DOCS / "api").glob("*.rst")) - set(pages):
        old.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def _methods() -> list[Any]:
    return list(importlib.import_module("tiltlm.objectives").CATALOG.values())


def _home(name: str, value: Any) -> str:
    """Return the public name nearest to where an object is defined; `name` if there is no other."""
    module, short = getattr(value, "__module__", ""), name.rpartition(".")[2]
    packages = [p for p in public_modules() if f"{module}.".startswith(f"{p}.")]
    homes = [f"{p}.{short}" for p in packages if short in importlib.import_module(p).__all__]
    return max(homes, key=len, default=name)


# Links


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put shown files in place, lead links outside the documentation to the repository, and list the methods."""
    folder = DOCS / Path(docname).parent
    if docname in SHOWN:
        path = ROOT / SHOWN[docname]
        app.env.note_dependency(str(path))
        source[0], folder = path.read_text(), path.parent
    if docname == "objectives":
        source[0] += "\n```{toctree}\n:glob:\n:hidden:\n\nmethods/*\n```\n"
    if Path(app.env.doc2path(docname)).suffix == ".md":
        source[0] = re.sub(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)", lambda m: _link(m, folder), source[0])


def _link(match: re.Match[str], folder: Path) -> str:
    target, anchor = (folder / match[1]).resolve(), match[2] or ""
    shown = {ROOT / file: f"/{name}.md" for name, file in SHOWN.items()}
    if target in shown:
        return f"]({shown[target]}{anchor})"
    if target.is_relative_to(DOCS) and target.is_file():
        return f"](/{target.relative_to(DOCS).as_posix()}{anchor})"
    if target == DOCS / "methods":
        return "](/objectives.md)"
    if target.exists():
        kind = "tree" if target.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/{BRANCH}/{target.relative_to(ROOT).as_posix()}{anchor})"
    return match[0]  # nothing is there: Sphinx warns


def resolve_type(
    app: Sphinx, env: BuildEnvironment, reference: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Lead a type annotation, which names the module that defines a class, to the class's public name."""
    if reference.get("refdomain") != "py":
        return None
    short = reference["reftarget"].rpartition(".")[2]
    names = {name: value for name, value in public_names().items() if name.endswith(f".{short}")}
    found = [name for name, value in names.items() if _home(name, value) == name]
    if len(found) != 1:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, reference["refdoc"], app.builder, "obj", found[0], reference, content)


# Docstrings


def process_docstring(_app: Sphinx, what: str, name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """Turn one docstring into reStructuredText."""
    text = "\n".join(_comment_of(name) if what == "data" else lines)
    if what == "function" and obj in _methods():
        lines[:] = method_as_rst(text, name).split("\n")
    else:  # "object": of attributes Google's style reads `words: more words` as a type and its meaning
        lines[:] = GoogleDocstring(as_rst(text), NAPOLEON, what="object").lines()


def as_rst(text: str) -> str:
    """Return plain text with Markdown's backticks and indented blocks as reStructuredText."""
    blocks: list[tuple[bool, list[str]]] = [(False, [])]
    section = False
    for line in text.split("\n"):
        is_code, block = blocks[-1]
        if line and not line.startswith(" "):
            section = re.fullmatch(r"[A-Z]\w+:", line) is not None
            if is_code:
                blocks.append((False, []))
        elif line.startswith("    ") and not (section or is_code) and (not block or not block[-1].strip()):
            blocks.append((True, []))
        blocks[-1][1].append(line)
    return "\n".join(
        "\n".join(["::", "", *block, ""]) if is_code else _inline("\n".join(block)) for is_code, block in blocks
    )


def method_as_rst(text: str, name: str) -> str:
    """Return the docstring of a method with its formula set apart and its sections as fields."""
    title, *formula, sections = text.strip().split("\n\n")
    fields = re.sub(r"\n(?=\w+: )", "\n:", f"\n{sections}")
    fields = re.sub(r"\n(?=[^:])", "\n    ", re.sub(r"(?m)^:(\w+): ", r":\1: ", fields)).lstrip("\n")
    page = f":Page: :doc:`/methods/{name.rpartition('.')[2]}`"
    code = textwrap.indent("\n\n".join(formula), "    ")
    return "\n\n".join([_inline(title), "::", code, f"{_inline(fields)}\n{page}"])


def _inline(text: str) -> str:
    """Turn `code` into literals, and escape what reStructuredText would read as markup in the rest."""
    parts = re.split(r"`+([^`]+)`+", text)
    for i in range(1, len(parts), 2):
        # Markup next to a letter or sign is no markup to reStructuredText, unless an escaped space stands between.
        before = "\\ " if parts[i - 1][-1:] not in ("", *" \n([{<-/:'\"") else ""
        after = "\\ " if parts[i + 1][:1] not in ("", *" \n)]}>-/\\:.,;!?'\"") else ""
        parts[i] = f"{before}``{parts[i].strip()}``{after}"
    return "".join(part if i % 2 else _escape(part) for i, part in enumerate(parts))


def _escape(text: str) -> str:
    return re.sub(r"[\\*|]|(?<=\w)_(?!\w)", r"\\\g<0>", text)


def _comment_of(name: str) -> list[str]:
    """Return the string below a constant, in whichever module of its package defines it."""
    package, _, short = name.rpartition(".")
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        try:
            comments = ModuleAnalyzer.for_module(module.name).find_attr_docs()
        except PycodeError:
            continue
        if ("", short) in comments:
            return comments["", short]
    return []


def process_signature(_app: Sphinx, what: str, _name: str, obj: Any, *_rest: Any) -> tuple[str, None] | None:
    """Leave out the signature of a protocol, which nobody constructs."""
    return ("", None) if what == "class" and getattr(obj, "_is_protocol", False) else None


def setup(app: Sphinx) -> None:
    """Connect the functions of this module to Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", read_source)
    app.connect("missing-reference", resolve_type)
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("autodoc-process-signature", process_signature)
