"""YAML that people write, and what is no such thing: bounded, each key once, no value written out whole."""

import time
from pathlib import Path

import pytest

from nmerge_core.errors import InputError, shown
from nmerge_core.files.yaml_file import read_mapping
from nmerge_core.merging.recipe.reading import load_recipe

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


def read(text: str | bytes, folder: Path) -> dict:
    file = folder / "read.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_mapping(file, ("a",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "expected at most 100,000 values, found more"),
        (MERGES, "expected at most 100,000 values, found more"),
        ("#" * 20_000_000, "expected a file of at most 1,000,000 bytes, found more"),
        ("a: [" + "1," * 200_000 + "]", "expected at most 100,000 values, found more"),
        ("[" * 900_000, "at most 50 deep, found them deeper"),
        ("- " * 400_000, "at most 50 deep, found them deeper"),
        ("&a [*a]", "found the alias 'a' of nothing that ends before it in line 1"),
        (f"a: {'9' * 5_000}", "found a whole number beyond 64 bits in line 1, column 4"),
        (f"a: 0x{'f' * 5_000}", "found a whole number beyond 64 bits"),
        (f"{'a' * 900}: 1\n{'a' * 900}: 2", "a second time"),
        ("a: !!timestamp soon", "a value is not of its kind"),
        ("a: {b: {c: 1, c: 2}}", "found the key 'c' a second time"),
        ("{1: a, 0x1: b}", "found the key 1 a second time"),
        ('a: "\\0"', "found a NUL, or half a character"),
        ("? [a]\n: b", "found unhashable key"),
        ("a: 1\n---\na: 2", "expected one document, found another in line 2"),
        (b"a: \xff", "invalid leading UTF-8"),
        ("\ta: 1", "cannot start any token"),
    ],
)
def test_what_nobody_wrote_is_refused_at_once_in_a_short_sentence(text, expected, tmp_path) -> None:
    started = time.process_time()
    with pytest.raises(InputError) as error:
        read(text, tmp_path)
    assert time.process_time() - started < 2
    assert expected in str(error.value) and len(str(error.value)) < 900


def test_text_of_a_recipe_is_bounded_as_a_file_is() -> None:
    for text in (BOMB, "# comment\n" * 2_000_000):
        started = time.process_time()
        with pytest.raises(InputError, match="expected"):
            load_recipe(text)
        assert time.process_time() - started < 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_editors_write_other_encodings_and_ends_of_lines(encoding: str, tmp_path: Path) -> None:
    assert read("a: é\r\nb: [1, 2]\r\n".encode(encoding), tmp_path) == {"a": "é", "b": [1, 2]}


def test_a_date_is_text_and_what_is_merged_in_counts_less(tmp_path: Path) -> None:
    assert read("a: 2024-13-45\nb: 2024-01-02", tmp_path) == {"a": "2024-13-45", "b": "2024-01-02"}
    merged = read("a: &a {k: 1, l: 2}\nb: [[&b {<<: *a, k: 3}]]\nc: {<<: *b}", tmp_path)
    assert merged["c"] == merged["b"][0][0] == {"k": 3, "l": 2}


def test_a_value_in_a_message_is_short_whatever_it_is() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (10**5_000, "x" * 10**6, list(range(10**6)), deep, {"a": {"b": {"c": {"d": {"e": 1}}}}}):
        assert len(shown(value)) <= 110
    assert shown({"filter": "mlp", "value": 0.5}) == "{'filter': 'mlp', 'value': 0.5}"
    while deep:  # without recursion
        deep = deep[0]
