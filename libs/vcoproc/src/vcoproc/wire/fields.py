"""Checked field types of message bodies.

A body is one msgpack array with the fields of the message in order. A newer minor version may
append fields; the ones a reader does not know are ignored, the ones a writer does not know have
their defaults. Anything else that does not fit is a `RemoteProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from vcoproc.errors import RemoteProtocolError

Check = Callable[[Any], Any]
"""Takes what msgpack decoded, gives the field's value, or raises RemoteProtocolError."""


def unsigned(bits: int) -> Check:
    """An integer of 0 to 2**bits - 1."""
    top = (1 << bits) - 1

    def check(raw: Any) -> int:
        # type() and not isinstance(): True is an int, and msgpack tells them apart.
        if type(raw) is int and 0 <= raw <= top:
            return raw
        raise RemoteProtocolError(f"expected an unsigned {bits}-bit integer, got {_show(raw)}")

    return check


def boolean(raw: Any) -> bool:
    if raw is True or raw is False:
        return raw
    raise RemoteProtocolError(f"expected a boolean, got {_show(raw)}")


def text(bytes_max: int) -> Check:
    """UTF-8 text of at most `bytes_max` bytes."""

    def check(raw: Any) -> str:
        if type(raw) is str and len(raw.encode("utf-8", "surrogatepass")) <= bytes_max:
            return raw
        raise RemoteProtocolError(f"expected text of at most {bytes_max} bytes, got {_show(raw)}")

    return check


def blob(bytes_max: int) -> Check:
    """Bytes, at most `bytes_max`."""

    def check(raw: Any) -> bytes:
        if type(raw) is bytes and len(raw) <= bytes_max:
            return raw
        raise RemoteProtocolError(f"expected at most {bytes_max} bytes, got {_show(raw)}")

    return check


def list_of(item: Check, count_max: int) -> Check:
    """A tuple of at most `count_max` items of one type."""

    def check(raw: Any) -> tuple[Any, ...]:
        if type(raw) is not list or len(raw) > count_max:
            raise RemoteProtocolError(f"expected at most {count_max} items, got {_show(raw)}")
        return tuple([item(element) for element in raw])

    return check


def unsigned_list(bits: int, count_max: int) -> Check:
    """A tuple of at most `count_max` integers of 0 to 2**bits - 1; quicker than `list_of`."""
    top = (1 << bits) - 1

    def check(raw: Any) -> tuple[int, ...]:
        if type(raw) is not list or len(raw) > count_max:
            raise RemoteProtocolError(f"expected at most {count_max} items, got {_show(raw)}")
        for item in raw:
            if type(item) is not int or not 0 <= item <= top:
                raise RemoteProtocolError(
                    f"expected an unsigned {bits}-bit integer, got {_show(item)}"
                )
        return tuple(raw)

    return check


def record(*items: Check) -> Check:
    """A tuple with one item of each of the given types; further items are ignored."""
    count = len(items)

    def check(raw: Any) -> tuple[Any, ...]:
        if type(raw) is not list or len(raw) < count:
            raise RemoteProtocolError(f"expected a record of {count} fields, got {_show(raw)}")
        return tuple([items[place](raw[place]) for place in range(count)])

    return check


def _show(raw: Any) -> str:
    if isinstance(raw, (str, bytes, list, dict)):
        return f"{type(raw).__name__} of length {len(raw)}"
    return repr(raw) if isinstance(raw, (int, float, bool, type(None))) else type(raw).__name__


u8: Final = unsigned(8)
u16: Final = unsigned(16)
u32: Final = unsigned(32)
u64: Final = unsigned(64)
