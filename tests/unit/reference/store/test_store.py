"""The store: what it finds, what it must not find, and what it does with damaged files and other writers."""

import logging
import os
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.errors import has_event, raises
from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.reference import ReferenceStore, default_store_folder
from tiltlm.reference.store import maintenance
from tiltlm.reference.store import shard as shard_module
from tiltlm.reference.store import store as store_module
from tiltlm.reference.store.shard import Entry

CONTEXT = token_ids([5, 6, 7])
WEIGHTS = "weights"
PATH = "float32"


def store(folder: Path | None, weights: str = WEIGHTS, path: str = PATH) -> ReferenceStore:
    return ReferenceStore(folder, weights, path)


def entry(response: list[int], context: TokenIds = CONTEXT) -> Entry:
    """Return values that differ between tokens and sequences."""
    values = -np.cumsum(np.array(response, dtype=np.float32)) / 7 - float(context.sum())
    return context, token_ids(response), values.astype(np.float32)


def asked(response: list[int], context: TokenIds = CONTEXT) -> tuple[TokenIds, TokenIds]:
    return context, token_ids(response)


def has(kept: ReferenceStore, sequence: tuple[TokenIds, TokenIds]) -> bool:
    return kept.get([sequence])[0] is not None


@pytest.fixture(params=["memory", "disk"])
def folder(request, tmp_path) -> Path | None:
    return None if request.param == "memory" else tmp_path


def test_what_was_put_is_found(folder):
    kept = store(folder)
    entries = [entry([1, 2, 3]), entry([9]), entry([1, 2, 3], token_ids([8]))]
    assert kept.get([asked([1, 2, 3])]) == [None]
    kept.put(entries)
    found = kept.get([asked([9]), asked([1, 2, 3]), asked([4]), asked([1, 2, 3], token_ids([8]))])
    assert found[2] is None
    for got, (_, _, put) in zip([found[1], found[0], found[3]], entries, strict=True):
        assert got is not None
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, put)
    assert len(kept) == 3
    assert kept.get([]) == []


def test_a_response_cut_on_the_right_is_found_and_nothing_else_is(folder):
    kept = store(folder)
    kept.put([entry([1, 2, 3, 4]), entry([1, 2, 9])])
    whole = entry([1, 2, 3, 4])[2]
    for length in (1, 2, 3, 4):
        (found,) = kept.get([asked([1, 2, 3, 4][:length])])
        assert found is not None
        np.testing.assert_array_equal(found[:length], whole[:length])
        assert len(found) == length
    misses = [[2], [1, 3], [1, 2, 4], [2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 9, 9]]
    assert kept.get([asked(r) for r in misses]) == [None] * len(misses)
    other_contexts = [token_ids(c) for c in ([6, 7], [5, 6], [5, 6, 7, 1], [5, 6, 8])]
    assert kept.get([asked([1, 2, 3, 4], c) for c in other_contexts]) == [None] * 4


@pytest.fixture(params=["as it is", "half", "constant"])
def digests(request, monkeypatch) -> str:
    """Make digests whose first half, which the index sorts by, is equal for all contexts or a small number."""
    real = shard_module.context_digest

    def colliding(context: bytes) -> bytes:
        number = zlib.crc32(context) % 3 if request.param == "half" else 0
        return number.to_bytes(8, "big") + real(context)[8:]

    if request.param != "as it is":
        for module in (shard_module, store_module):
            monkeypatch.setattr(module, "context_digest", colliding)
    return request.param


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
context_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=2).map(tuple)
sequences = st.tuples(context_tokens, tokens)


def value_of(context: tuple[int, ...], response: tuple[int, ...]) -> np.ndarray:
    """Return a number per token that depends on the tokens before it, as log-probabilities do."""
    texts = [f"{context}{response[: i + 1]}" for i in range(len(response))]
    return np.array([-zlib.crc32(text.encode()) / 2**32 for text in texts], np.float32)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.lists(sequences, max_size=12), max_size=6), st.lists(sequences, max_size=30), st.integers(0, 5))
def test_agrees_with_a_dictionary(tmp_path_factory, digests, puts, queries, num_merged):
    """Few distinct tokens give many duplicates, prefixes and shared contexts. Some of the files are merged."""
    root = None if num_merged == 0 else tmp_path_factory.mktemp("store")
    kept = store(root)
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], np.ndarray] = {}
    for asked_for in puts:
        kept.put([(token_ids(c), token_ids(r), value_of(c, r)) for c, r in asked_for])
        known |= {(c, r[: n + 1]): value_of(c, r)[: n + 1] for c, r in asked_for for n in range(len(r))}
    if root is not None:
        with patch.object(maintenance, "MANY", num_merged):
            kept._merge(kept.folder)
        assert len(files(root)) <= max(num_merged, 1)
        if num_merged % 2:
            kept = store(root)
    everything = [*queries, *known]
    for sequence, found in zip(everything, kept.get([tuple(map(token_ids, s)) for s in everything]), strict=True):
        if sequence in known:
            np.testing.assert_array_equal(found, known[sequence])
        else:
            assert found is None


def test_other_weights_or_another_numeric_path_find_nothing(tmp_path):
    store(tmp_path).put([entry([1])])
    assert has(store(tmp_path), asked([1]))
    assert store(tmp_path, weights="others").get([asked([1])]) == [None]
    assert store(tmp_path, path="bf16").get([asked([1])]) == [None]


def test_another_definition_finds_nothing(tmp_path, monkeypatch):
    store(tmp_path).put([entry([1])])
    monkeypatch.setattr(store_module, "DEFINITION", "another")
    assert store(tmp_path).get([asked([1])]) == [None]


def test_stores_see_each_other_after_refresh(tmp_path):
    one, other = store(tmp_path), store(tmp_path)
    one.put([entry([1])])
    other.put([entry([2])])
    assert one.get([asked([2])]) == [None]
    one.refresh()
    assert has(one, asked([2]))
    one.refresh()
    assert len(one) == 2


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.arrow"))


def test_a_torn_file_is_skipped_and_said(tmp_path, caplog):
    kept = store(tmp_path)
    kept.put([entry([1, 2, 3])])
    kept.put([entry([9])])
    torn = files(tmp_path)[0]
    whole = torn.read_bytes()
    for length in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        torn.write_bytes(whole[:length])
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="tiltlm"):
            again = store(tmp_path)
        assert has_event(caplog, "store_damaged", file=torn.name, rows=None)
        assert str(torn) in caplog.text
        assert again.get([asked([1, 2, 3])]) == [None]
        assert has(again, asked([9]))
    again.put([entry([1, 2, 3])])
    assert has(again, asked([1, 2, 3]))


def test_no_altered_bit_becomes_a_wrong_number(tmp_path, caplog):
    """Whichever byte of a file is changed, a value is found unchanged or not at all."""
    entries = [entry([1, 2, 3]), entry([1, 2, 4, 5]), entry([9], token_ids([8]))]
    store(tmp_path).put(entries)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    queries = [(c, r) for c, r, _ in entries]
    num_lost = 0
    caplog.set_level(logging.CRITICAL, logger="tiltlm")
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1 << (position % 8)
        file.unlink()  # a new file: the old one may still be mapped
        file.write_bytes(altered)
        for got, (_, _, put) in zip(store(tmp_path).get(queries), entries, strict=True):
            if got is None:
                num_lost += 1
            else:
                np.testing.assert_array_equal(got, put)
    assert num_lost > 4 * sum(len(r) for _, r, _ in entries)


def test_a_damaged_value_is_said_when_it_is_read(tmp_path, caplog):
    store(tmp_path).put([entry([1, 2, 3])])
    (file,) = files(tmp_path)
    whole, value = file.read_bytes(), entry([1, 2, 3])[2].tobytes()
    assert whole.count(value) == 1
    file.write_bytes(whole.replace(value, value[::-1]))
    kept = store(tmp_path)
    with caplog.at_level(logging.WARNING, logger="tiltlm"):
        assert kept.get([asked([1, 2, 3])]) == [None]
    assert has_event(caplog, "store_damaged", file=file.name, code="wrong_checksum", rows=1)
    caplog.clear()
    assert kept.get([asked([1, 2, 3])]) == [None]
    assert not caplog.text, "logged once"
    kept.put([entry([1, 2, 3])])
    for reader in (kept, store(tmp_path)):
        np.testing.assert_array_equal(reader.get([asked([1, 2, 3])])[0], entry([1, 2, 3])[2])


def test_a_file_in_the_wrong_folder_is_skipped(tmp_path, caplog):
    store(tmp_path, weights="others").put([entry([1])])
    (file,) = files(tmp_path)
    here = store(tmp_path).folder
    assert here is not None
    (here / file.name).write_bytes(file.read_bytes())
    with caplog.at_level(logging.WARNING, logger="tiltlm"):
        assert store(tmp_path).get([asked([1])]) == [None]
    assert has_event(caplog, "store_damaged", file=file.name, code="other_contents", rows=None)


def test_a_write_that_was_cut_short_leaves_nothing_to_find(tmp_path):
    kept = store(tmp_path)
    kept.put([entry([1])])
    assert kept.folder is not None
    (kept.folder / "0-0.tmp").write_bytes(b"half")
    assert len(store(tmp_path)) == 1


def test_a_full_disk_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    kept = store(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with raises(
        RunError, "not_writable", key="reference.store", mentions=["No space left on device", str(tmp_path), "--store"]
    ):
        kept.put([entry([1])])
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_a_folder_that_cannot_be_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with raises(ConfigError, "not_writable", key="reference.store", mentions=[str(tmp_path / "file"), "--store"]):
        store(tmp_path / "file")


def test_the_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("TILTLM_STORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store_folder() == tmp_path / "tiltlm" / "reference"
    monkeypatch.setenv("TILTLM_STORE", str(tmp_path / "mine"))
    assert default_store_folder() == tmp_path / "mine"
    monkeypatch.delenv("TILTLM_STORE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store_folder() == tmp_path / ".cache" / "tiltlm" / "reference"
