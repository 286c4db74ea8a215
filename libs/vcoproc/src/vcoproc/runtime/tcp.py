"""Addresses of TCP, as they are typed."""

from __future__ import annotations

from typing import Final

from vcoproc.errors import InvalidArgument

_PORT_MAX: Final = 65535


def check_address(field: str, address: str) -> str:
    """Checks a "host:port"; gives it. gRPC itself takes 99999 for 34463, and no port for 443.

    Raises:
        InvalidArgument: it has no host, or no port of 0 (which a server takes for a free one) to
            65535.
    """
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and len(port) <= len(str(_PORT_MAX))
    if not host or not is_port or int(port) > _PORT_MAX:
        why = f"{address!r} is not HOST:PORT with a port up to {_PORT_MAX}, as in localhost:7443"
        raise InvalidArgument(field, why)
    return address
