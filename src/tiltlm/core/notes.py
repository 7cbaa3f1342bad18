"""Sentences for people that carry a stable code."""


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
