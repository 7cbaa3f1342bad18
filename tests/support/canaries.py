"""Files that would run code when they are opened as a pickle: the canary file shows that it happened."""

import pickle
from pathlib import Path
from typing import Any


class Canary:
    """A file that exists once a pickle of this canary was opened."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "canary-was-here"

    @property
    def sang(self) -> bool:
        """Whether code of a pickle ran."""
        return self.file.exists()

    @property
    def pickle(self) -> bytes:
        """The bytes of a pickle that makes the file."""
        return pickle.dumps(_Singing(self.file))

    @property
    def source(self) -> str:
        """Python code that makes the file."""
        return f"import pathlib\npathlib.Path({str(self.file)!r}).touch()\n"


class _Singing:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)
