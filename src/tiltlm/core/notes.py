"""What is said to people: sentences that carry a stable code, and texts of strangers, made safe to print."""

import json
import re
import unicodedata
from typing import Any

KEPT = frozenset("\n\t\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")
"""Control characters that stay: line ends, tabs, joiners that letters and emoji need, signs of Arabic and Syriac."""
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Classes of characters that are no visible text: controls, formats, halves of surrogate pairs, separators."""
SUSPECT = re.compile(r"[^\n -~]")


class Note(str):
    """A sentence to print, with the code of the fact that it states.

    The sentence may be reworded at any time. `code` is stable, so programs and tests read that, as with errors.
    """

    code: str

    def __new__(cls, text: str, code: str) -> "Note":
        """Make a note from its sentence and its code in snake case, such as `not_equal`."""
        note = super().__new__(cls, text)
        note.code = code
        return note

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Return the arguments of `__new__`: pickle and copy call it with these."""
        return str(self), self.code


def visible(text: str) -> str:
    """Return a text in which every control character, and each that cannot be seen, has a visible name.

    Those of ASCII become their pictures, such as ␛; others their number, such as ⟨U+202E⟩. Line ends of Windows become
    plain ones.
    """
    return SUSPECT.sub(lambda found: _visible_character(found.group()), text.replace("\r\n", "\n"))


def _visible_character(one: str) -> str:
    if is_seen(one):
        return one
    code = ord(one)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def printable_json(value: Any) -> str:
    """Return a value as indented JSON that a terminal prints as it is: what `visible` would name is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return SUSPECT.sub(lambda found: found.group() if is_seen(found.group()) else json.dumps(found.group())[1:-1], text)


def is_seen(one: str) -> bool:
    """Return whether a character may be printed as it is."""
    return one in KEPT or unicodedata.category(one) not in HIDDEN
