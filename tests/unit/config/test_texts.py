"""Places in a TOML text, listen addresses and masked URLs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.config import mask_secrets, parse_bind
from ironpost.config.positions import key_lines, line_of

TEXT = '''\
top = 1 # [not.a.table]
[a]
x = """
[b]
y = 1
"""
"quoted key" = 'lit # eral'
list = [
  "[c]", # ]
  "d",
]
[a.b]
c.d = 2
[[many]]
inline = { p = 1,
 q = [2] }
last = 0 # end#'''


def test_keys_are_found_on_their_lines():
    lines = key_lines(TEXT)
    assert lines == {
        ("top",): 1,
        ("a",): 2,
        ("a", "x"): 3,
        ("a", "quoted key"): 7,
        ("a", "list"): 8,
        ("a", "b"): 12,
        ("a", "b", "c", "d"): 13,
        ("many",): 14,
        ("many", "inline"): 15,
        ("many", "last"): 17,
    }


def test_a_key_inside_an_inline_table_has_its_parents_line():
    assert line_of(key_lines(TEXT), ("many", "inline", "q")) == 15
    assert line_of(key_lines(TEXT), ("nowhere",)) == 0


@given(st.text(alphabet="ab=[]{}\"'#.\n\\ ,", max_size=60))
def test_any_text_is_walked_to_its_end(text):
    assert all(line >= 1 for line in key_lines(text).values())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://localhost:5432/ironpost", "postgresql://localhost:5432/ironpost"),
        ("postgresql://me:pw@db/x", "postgresql://me:***REDACTED***@db/x"),
        ("redis://:pw@db:6379", "redis://:***REDACTED***@db:6379"),
        ("postgresql://me:a/b@c@db/x", "postgresql://me:***REDACTED***@db/x"),
        ("postgresql://db/x?user=me&password=pw", "postgresql://db/x?user=me&password=***REDACTED***"),
        ("no url", "no url"),
    ],
)
def test_passwords_in_urls_are_masked(url, shown):
    assert mask_secrets(url) == shown


@given(st.text(min_size=3, alphabet=st.characters(min_codepoint=33, max_codepoint=126)))
def test_no_password_survives_masking(password):
    secret = f"<{password}>"
    assert secret not in mask_secrets(f"postgresql://me:{secret}@db:5432/x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:5514", ("127.0.0.1", 5514)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:65535", ("0.0.0.0", 65535))],
)
def test_listen_addresses_are_read(text, expected):
    assert parse_bind(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5514", ":5514", "::1:5514", "[127.0.0.1]:1", "127.0.0.1:-1", "127.0.0.1:٣", "a:b"]
)
def test_other_texts_are_no_listen_addresses(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_bind(text)
