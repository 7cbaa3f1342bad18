"""Turn loaded data into values that `==` compares."""

import dataclasses

import numpy as np


def plain(value):
    """Return a value with arrays and data classes as tuples and mappings."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.tolist()
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    if dataclasses.is_dataclass(value):
        return {name: plain(field) for name, field in vars(value).items()}
    return value


def everything(data):
    """Return all of a `PreferenceData` as plain values."""
    return {
        "train": list(map(plain, data.train)),
        "held_out": list(map(plain, data.held_out)),
        "accounting": data.accounting.to_plain(),
        "table": data.accounting.lines(),
        "rest": (data.fingerprint, data.notes, data.end_token_id, data.max_length),
    }
