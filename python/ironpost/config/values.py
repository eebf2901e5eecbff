"""Small readers of the texts that configuration is made of: URLs with passwords, listen addresses."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable

#: What stands where a password stood.
REDACTED = "***REDACTED***"

#: Greedy up to the last ``@``: a password may hold ``/``, ``:`` and ``@`` although a strict URL may not.
_CREDENTIALS = re.compile(
    r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^:]*):(?P<secret>.*)@(?P<rest>[^@]*)$", re.DOTALL
)
_SECRET_QUERY = re.compile(r"(?i)([?&;](?:password|passwd|pwd|token|secret|api_?key|sslpassword)=)[^&;\s]*")


def mask_secrets(text: str) -> str:
    """Replaces passwords inside a URL by :data:`REDACTED`.

    Where it can't be known which ``@`` ends the password, more is hidden rather than less.

    Args:
        text: Any text; only URLs with credentials change.

    Returns:
        The text without its secrets.
    """
    found = _CREDENTIALS.match(text)
    if found is not None:
        text = f"{found['scheme']}{found['user']}:{REDACTED}@{found['rest']}"
    return _SECRET_QUERY.sub(rf"\g<1>{REDACTED}", text)


def parse_bind(text: str) -> tuple[str, int]:
    """Reads ``127.0.0.1:5514`` or ``[::1]:5514``.

    Args:
        text: An address literal and a port.

    Returns:
        The address in its shortest form, and the port.

    Raises:
        ValueError: When a part is missing or out of range.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not ADDRESS:PORT, for example 127.0.0.1:5514 or [::1]:5514")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError as error:
        raise ValueError(f"{host!r} is not an IP address; use 0.0.0.0 or [::] for every interface") from error
    if (address.version == 6) != bracketed:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, an IPv4 address does not")
    number = int(port)
    if number > 65_535:
        raise ValueError(f"port {number} is above 65535")
    return str(address), number


def lies_in_roots(path: str, roots: Iterable[str]) -> bool:
    """Says whether an absolute path lies in one of the directories, as written."""
    whole = os.path.normpath(path)
    return any(os.path.commonpath([os.path.normpath(root), whole]) == os.path.normpath(root) for root in roots)
