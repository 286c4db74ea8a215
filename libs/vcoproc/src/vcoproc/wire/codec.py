"""Frames: a fixed header and a msgpack body, in one ZeroMQ message part.

Header, 24 bytes, little endian::

    0  2s  magic "VC"
    2  u8  major version of the wire format; another one is refused
    3  u8  message type
    4  u16 flags, 0 (ignored when received: room for later minors)
    6  u16 credit: how many messages beyond `ack` the receiver of this frame may send
    8  u32 epoch: incarnation of the sending process; another one than in its hello is refused
    12 u32 seq: 1, 2, 3, ... within the session, modulo 2**32; 0 for handshake and credit messages
    16 u32 ack: newest sequence number that the sender of this frame has accepted
    20 u32 bytes in the body
"""

from __future__ import annotations

import functools
import struct
from typing import Any, Final, NamedTuple

import msgpack

from vcoproc.errors import RemoteProtocolError, VersionMismatch
from vcoproc.limits import BATCH_OPS_MAX, FRAME_BYTES_MAX
from vcoproc.wire.messages import (
    MESSAGE_BY_TYPE,
    REQUIRED_FIELDS,
    Message,
    Post,
    Read,
    Reply,
    Write,
)

MAGIC: Final = b"VC"
MAJOR: Final = 1
MINOR: Final = 3
"""1: bounds of a `Grant` in absolute time, and `Vacate`. 2: refusals at switch-in, in `Report` and
`GrantDropped`. 3: `Moved` and `Fence`."""
HEADER: Final = struct.Struct("<2sBBHHIIII")
HEADER_BYTES: Final = HEADER.size

_ARRAY_LENGTH_MAX: Final = max(BATCH_OPS_MAX, 4096)
_REPEATED: Final = frozenset((Read.TYPE, Write.TYPE, Post.TYPE))
"""Drivers say the same few of these again and again; messages are immutable, so that one that was
decoded before can be given once more. A look into the memory takes a tenth of the decoding."""
_REMEMBERED_BYTES_MAX: Final = 16
"""Longest body that the fields of these need; padding must not fill the memory."""

_U32_MAX: Final = 0xFFFF_FFFF

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Header(NamedTuple):
    type: int
    credit: int
    epoch: int
    seq: int
    ack: int


def encode(
    message: Message, *, credit: int = 0, epoch: int = 0, seq: int = 0, ack: int = 0
) -> bytes:
    """One frame. Every argument is an unsigned integer of its header field's width."""
    body: bytes = _pack(message.body())
    return HEADER.pack(MAGIC, MAJOR, message.TYPE, 0, credit, epoch, seq, ack, len(body)) + body


def decode(frame: bytes) -> tuple[Header, Message]:
    """The header and the message of one frame.

    Raises:
        VersionMismatch: the major version is another one.
        RemoteProtocolError: anything else that is not a valid frame.
    """
    kind, credit, epoch, seq, ack, message = take_apart(frame)
    return Header(kind, credit, epoch, seq, ack), message


def take_apart(frame: bytes) -> tuple[int, int, int, int, int, Message]:
    """As `decode`, with the fields of the header one by one: no object on the hot path."""
    if len(frame) < HEADER_BYTES:
        raise RemoteProtocolError(f"frame of {len(frame)} bytes, header has {HEADER_BYTES}")
    if len(frame) > FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"frame of {len(frame)} bytes, at most {FRAME_BYTES_MAX}")
    magic, major, kind, _flags, credit, epoch, seq, ack, body_bytes = HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise RemoteProtocolError(f"bad magic {magic.hex()}")
    if major != MAJOR:
        raise VersionMismatch(MAJOR, major)
    if body_bytes != len(frame) - HEADER_BYTES:
        raise RemoteProtocolError(
            f"body of {len(frame) - HEADER_BYTES} bytes, header says {body_bytes}"
        )
    remembered = kind in _REPEATED and body_bytes <= _REMEMBERED_BYTES_MAX
    message = (_remembered if remembered else _message)(kind, frame[HEADER_BYTES:])
    return kind, credit, epoch, seq, ack, message


def _message(kind: int, body: bytes) -> Message:
    cls = MESSAGE_BY_TYPE.get(kind)
    if cls is None:
        raise RemoteProtocolError(f"unknown message type {kind:#04x}")
    fields = _unpack(body)
    if cls is Reply and (reply := _short_reply(fields)) is not None:
        return reply
    checks = cls.CHECKS
    required = REQUIRED_FIELDS[cls]
    if type(fields) is not list or len(fields) < required:
        raise RemoteProtocolError(f"{cls.__name__}: expected an array of {required} fields")
    try:
        # Fields that a newer minor version appended are left over; those that an older one does not
        # know have their defaults.
        return cls(*[check(raw) for check, raw in zip(checks, fields, strict=False)])
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{cls.__name__}: {error.why}") from None


def _short_reply(fields: Any) -> Reply | None:
    """The answer to a single access, which a driver waits for; None: let the checks decide."""
    if type(fields) is not list or len(fields) != 2:
        return None
    request, values = fields
    if type(request) is not int or not 0 <= request <= _U32_MAX or type(values) is not list:
        return None
    if not values:
        return Reply(request, ())
    value = values[0]
    if len(values) == 1 and type(value) is int and 0 <= value <= _U32_MAX:
        return Reply(request, (value,))
    return None


_remembered = functools.lru_cache(1024)(_message)


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            use_list=True,
            strict_map_key=True,
            # Nothing in the protocol is nested deeper or longer; a bomb is refused while unpacking.
            max_array_len=_ARRAY_LENGTH_MAX,
            max_map_len=0,
            max_str_len=4096,
            max_bin_len=4096,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        # ValueError has msgpack's format, size and extra-data errors and UnicodeDecodeError.
        raise RemoteProtocolError(f"body is not valid msgpack: {error}") from None
