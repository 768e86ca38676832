"""YAML is read as its writers mean it, or refused in one sentence that names the line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leap_ray.errors import UserError
from leap_ray.yaml_files import dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-5", 3e-5),
        ("1E-4", 1e-4),
        ("+2.5e+3", 2500.0),
        ("1e1", 10),
        ("1e400", math.inf),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1_000", 1000),
        ("0", 0),
        ("-3", -3),
        ("0x1f", 31),
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2026-11-25", "2026-11-25"),
        ("1:30", "1:30"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("'3e-5'", "3e-5"),
    ],
)
def test_plain_values(text, value):
    read = parse_yaml(f"key: {text}", "x")["key"]
    assert read == value and type(read) is type(value)


def test_nan_is_a_number():
    assert math.isnan(parse_yaml("key: .nan", "x")["key"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' stands twice (first in line 1)"),
        ("s: {a: 1, a: 1}", "'a' stands twice"),
        ("s:\n  a: 1\n  b:\n    c: 1\n    c: 2", "line 5, column 5: 'c' stands twice"),
        ("seed: 010", "begins with a zero: write 10"),
        ("a: [", "line 1"),
        ("\ta: 1", "line 1"),
        ("a: *nothing", "undefined alias"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("? [1]\n: 2", "a key must be a plain word"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: \x00", "special characters"),
    ],
)
def test_refused_in_one_sentence(text, named):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "configuration x")
    message = str(caught.value)
    assert message.startswith("configuration x ") and named in message and "\n" not in message


def test_a_merged_mapping_may_be_overruled():
    assert parse_yaml("a: &x {b: 1, c: 1}\nd:\n  <<: *x\n  b: 2", "x")["d"] == {"b": 2, "c": 1}


@pytest.mark.parametrize(
    ("content", "named"),
    [("name: Zürich".encode("latin-1"), "is not UTF-8 text"), ("name: a".encode("utf-16"), "is not UTF-8 text")],
)
def test_other_encodings_are_named(content, named, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=named):
        read_yaml(path, "configuration")


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes("\ufeffa: 1\r\nb:\r\n  c: ü\r\n".encode())
    assert read_yaml(path, "configuration") == {"a": 1, "b": {"c": "ü"}}


def test_a_folder_or_nothing_in_place_of_the_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(UserError, match="cannot be read"):
            read_yaml(path, "configuration")


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]))
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_what_is_written_is_read_back(value):
    assert parse_yaml(dump_yaml({"key": value}), "x") == {"key": value}


LOOK_ALIKES = [
    "no",
    "1e3",
    "3e-5",
    "010",
    "null",
    "",
    "~",
    "<<",
    "=",
    "0x1",
    "true",
    ".5",
    "1:30",
    "2026-11-25",
    "a: b",
]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_strings_that_look_like_something_else_stay_strings(text):
    assert parse_yaml(dump_yaml({"key": text}), "x") == {"key": text}
