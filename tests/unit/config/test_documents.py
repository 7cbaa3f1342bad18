"""YAML of a stranger: what would fill the memory, or cannot be read, is refused with its line."""

from pathlib import Path

import pytest

import tiltlm
from support.errors import raises
from tiltlm.config.documents import MAX_BYTES, MAX_DEPTH, parse_value, read_document
from tiltlm.core import ConfigError


def bomb(levels):
    """Return aliases that stand for 10 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merged(levels):
    """Return mappings that are merged into each other again and again."""
    lines = ["a0: &a0 {k: 1, l: 2}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb(6), bomb(30), merged(6), merged(30)], ids=["bomb", "long", "merge", "merges"])
def test_aliases_that_stand_for_too_many_values(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with raises(ConfigError, "too_large", key="config", mentions=[f"{path}:"]):
        read_document(path)
    with raises(ConfigError, "too_large", key="config"):
        tiltlm.train(path)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}"])
def test_a_value_that_contains_itself(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(f"x: 1\n{text}\n")
    with raises(ConfigError, "too_large", key="config", mentions=[f"{path}:2"]):
        read_document(path)


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 100_000, "a: " + "{b: " * 5_000, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)]
)
def test_deep_nesting(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with raises(ConfigError, "too_large", key="config", mentions=[f"{path}:1"]):
        read_document(path)


def test_another_file_in_the_place_of_a_configuration(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("{}\n" * (MAX_BYTES // 3 + 1))
    for wrong in (path, Path("/dev/zero")):
        with raises(ConfigError, "too_large", key="config", mentions=[str(wrong)]):
            read_document(wrong)
    path.write_bytes(bytes(range(256)))
    with raises(ConfigError, "not_readable", key="config", mentions=[str(path)]):
        read_document(path)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: 1\na: 2", "duplicate"),
        ("a: {b: 1, b: 2}", "duplicate"),
        ("? [a, b]\n: 1", "not_yaml"),
        ("a: 2024-13-01", "not_yaml"),
        ("a: " + "1" * 5_000, "not_yaml"),
        ("a: !!python/object/apply:os.system [ls]", "not_yaml"),
        ("a: *missing", "not_yaml"),
        ("a: \x00", "not_yaml"),
        ("a: 1\n---\nb: 2", "not_yaml"),
    ],
)
def test_what_cannot_be_a_configuration(tmp_path, text, code):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with raises(ConfigError, code, mentions=[str(path)]):
        read_document(path)


def test_usual_aliases_are_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    document, lines = read_document(path)
    assert document == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}
    assert lines["b"] == 2


def test_values_of_overrides():
    with raises(ConfigError, "too_large"):
        parse_value("[" * 1000)
    with raises(ConfigError, "too_large"):
        parse_value("{" + bomb(6).replace("\n", ", ") + "}")
    with raises(ConfigError, "duplicate", key="a"):
        parse_value("{a: 1, a: 2}")
    assert parse_value("2024-13-01") == "2024-13-01"
    assert parse_value("1" * 5000) == "1" * 5000
