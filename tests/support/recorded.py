"""Which settings a call reads, and other values of them: for the tests that no setting has no effect in silence."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

CHECKS = {
    *("__post_init__", "_check_moving", "_at_least_one", "_known", "is_set", "identity", "demand", "refuse"),
    *("default_of", "<lambda>"),
}
"""Functions that look at settings without using them: checks, and the identity of a run."""


@contextmanager
def recorded(sections: Mapping[str, type]) -> Iterator[set[str]]:
    """Yield a set that gets every setting that the block reads, as `section.name`.

    Args:
        sections: The class of settings of each section.
    """
    found: set[str] = set()

    def spy(section: str, kind: type) -> Any:
        names = {field.name for field in fields(kind)}

        def read(self: Any, name: str) -> Any:
            if name in names:
                code = sys._getframe(1).f_code
                if code.co_name not in CHECKS and Path(code.co_filename).name != "dataclasses.py":
                    found.add(f"{section}.{name}")
            return object.__getattribute__(self, name)

        return read

    with pytest.MonkeyPatch.context() as patch:
        for section, kind in sections.items():
            patch.setattr(kind, "__getattribute__", spy(section, kind))
        yield found


def another(settings: type, name: str, value: Any) -> Any:
    """Return a value of the setting's type that is not `value`."""
    kind = get_type_hints(settings)[name]
    kinds = [k for k in (kind, *get_args(kind)) if k is not type(None)]
    if choices := [choice for k in kinds if get_origin(k) is Literal for choice in get_args(k)]:
        return next(choice for choice in choices if choice != value)
    if bool in kinds and isinstance(value, bool):
        return not value
    if int in kinds or float in kinds:
        return 0.25 if float in kinds and value != 0.25 else (value or 0) + 1
    return ["any"] if kind == tuple[str, ...] else "any"
