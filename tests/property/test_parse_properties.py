"""Properties of `ironpost.parse` for all input."""

from __future__ import annotations

import ipaddress
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.events import parse

ANY_BYTES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [
                b"<34>1 - h a - - - ",
                b"Nov 20 18:54:46 h sshd[9]: ",
                b"Failed password for ",
                b" from 1.2.3.4 port 5 ssh2",
                b'{"a":',
                b"[1,",
                b'"x"',
                b"}",
                b"]",
                b"\n",
                b"\x00",
                b"\xff",
                b"%27?",
                b'"',
                b"message repeated 2 times: [",
                b"type=EXECVE msg=audit(1.000:",
                b"1): a0=",
            ]
        ),
        max_size=12,
    ).map(b"".join),
)


@given(ANY_BYTES, st.sampled_from(["auto", "syslog", "rfc5424", "rfc3164", "json", "apache", "nginx", "docker"]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_a_row_for_each_line_and_valid_json(data: bytes, name: str) -> None:
    batch = parse(data, format=name)
    lines = [line for line in data.split(b"\n") if line.removesuffix(b"\r")]
    assert len(batch) == len(lines)
    for row, line in zip(batch.to_ndjson().splitlines(), lines, strict=True):
        event = json.loads(row)
        assert "message" in event
        assert ("event.original_base64" in event) == (not _is_utf8(line))


@given(
    user=st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=60),
    address=st.ip_addresses(),
    port=st.integers(1, 65535),
    template=st.sampled_from(
        [
            "Failed password for invalid user {user} from {address} port {port} ssh2",
            "Invalid user {user} from {address} port {port}",
            "Connection closed by invalid user {user} {address} port {port} [preauth]",
            "Disconnected from invalid user {user} {address} port {port} [preauth]",
        ]
    ),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_user_is_called_the_source_is_the_peer(
    user: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, template: str
) -> None:
    message = template.format(user=user, address=address, port=port)
    row = parse([f"Nov 20 18:54:46 h sshd[9]: {message}"]).row(0)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert ipaddress.ip_address(row["source.ip"]) == (mapped or address)
    assert row["source.port"] == port
    assert row["user.name"] == user


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
