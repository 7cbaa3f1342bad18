"""The names of the layouts of a batch. They stand apart from `inputs`, so that settings need no torch."""

from typing import Literal

LayoutName = Literal["shared", "packed", "padded"]
