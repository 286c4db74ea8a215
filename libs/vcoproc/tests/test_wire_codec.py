"""The wire format: golden frames, round trips, and whatever a hostile peer may send."""

from __future__ import annotations

import dataclasses
import inspect
import re
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcoproc.errors import PeerError, RemoteProtocolError, VersionMismatch
from vcoproc.limits import BATCH_OPS_MAX, FRAME_BYTES_MAX
from vcoproc.wire.codec import HEADER_BYTES, MAJOR, Header, decode, encode
from vcoproc.wire.fields import Check, boolean
from vcoproc.wire.messages import (
    MESSAGE_CLASSES,
    Batch,
    Eoi,
    Grant,
    Hello,
    Message,
    Read,
    Reply,
    Wake,
)

ANY_FRAME = settings(max_examples=250, deadline=None, derandomize=True)
REFUSED_WITHIN_NS = 500_000_000
"""For a frame of the longest kind, on a machine that does much else."""

# --- golden frames --------------------------------------------------------------------------------


def vectors() -> list[tuple[str, Message, dict[str, int], bytes]]:
    """(direction, message, header fields, bytes) of golden_frames.txt."""
    text = Path(__file__).with_name("golden_frames.txt").read_text("utf-8")
    names = {cls.__name__: cls for cls in MESSAGE_CLASSES}
    found = []
    for block in re.split(r"\n\s*\n", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip()):
        head, *rows = block.splitlines()
        parsed = re.fullmatch(r"(both|decode) (\w+\(.*\))((?: \w+=\w+)*)", head)
        assert parsed, head
        direction, constructor, fields = parsed.groups()
        header = {key: int(value, 0) for key, value in re.findall(r"(\w+)=(\w+)", fields)}
        message = eval(constructor, {"__builtins__": {}}, names)
        found.append((direction, message, header, bytes.fromhex("".join(rows))))
    return found


VECTORS = vectors()


@pytest.mark.parametrize(
    ("direction", "message", "header", "frame"), VECTORS, ids=[str(v[1])[:40] for v in VECTORS]
)
def test_a_golden_frame_is_what_we_send_and_what_we_read(
    direction: str, message: Message, header: dict[str, int], frame: bytes
) -> None:
    if direction == "both":
        assert encode(message, **header).hex(" ") == frame.hex(" ")
    want = {"credit": 0, "epoch": 0, "seq": 0, "ack": 0, **header}
    assert decode(frame) == (Header(type=message.TYPE, **want), message)


def test_every_message_type_has_a_golden_frame() -> None:
    assert {type(message) for _, message, _, _ in VECTORS} == set(MESSAGE_CLASSES)


# --- round trips ----------------------------------------------------------------------------------


def values_of(check: Check) -> st.SearchStrategy[Any]:
    """What a field with this check may hold, from the check's own bounds."""
    if check is boolean:
        return st.booleans()
    kind = check.__qualname__.split(".")[0]
    bounds = inspect.getclosurevars(check).nonlocals
    if kind == "unsigned":
        top = bounds["top"]
        return st.integers(0, top) | st.sampled_from((0, 127, 128, 255, top))
    if kind == "text":
        most = bounds["bytes_max"]
        return st.text(max_size=most).filter(lambda text: len(text.encode()) <= most)
    if kind == "blob":
        return st.binary(max_size=bounds["bytes_max"])
    # Long lists only make it slow; the longest have a test of their own.
    if kind == "unsigned_list":
        items = st.integers(0, bounds["top"])
        return st.lists(items, max_size=min(bounds["count_max"], 20)).map(tuple)
    if kind == "list_of":
        most = min(bounds["count_max"], 20)
        return st.lists(values_of(bounds["item"]), max_size=most).map(tuple)
    assert kind == "record", kind
    return st.tuples(*(values_of(item) for item in bounds["items"]))


ANY_MESSAGE: st.SearchStrategy[Message] = st.sampled_from(MESSAGE_CLASSES).flatmap(
    lambda cls: st.tuples(*(values_of(check) for check in cls.CHECKS)).map(lambda row: cls(*row))
)
u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF)


@ANY_FRAME
@given(ANY_MESSAGE, u16, u32, u32, u32)
def test_what_is_encoded_is_decoded(
    message: Message, credit: int, epoch: int, seq: int, ack: int
) -> None:
    frame = encode(message, credit=credit, epoch=epoch, seq=seq, ack=ack)
    assert decode(frame) == (Header(message.TYPE, credit, epoch, seq, ack), message)
    # Twice, since the codec may remember what it has decoded.
    assert decode(frame) == (Header(message.TYPE, credit, epoch, seq, ack), message)


@ANY_FRAME
@given(ANY_MESSAGE, st.integers(1, 4))
def test_fields_that_a_newer_minor_appends_are_ignored(message: Message, more: int) -> None:
    fields = [*every_field(message), *[None, -1, "x", [b"y"]][:more]]
    assert decode(frame_of(message.TYPE, fields))[1] == message


def every_field(message: Message) -> list[Any]:
    """Also those that a frame leaves out because they have their defaults."""
    return [getattr(message, field.name) for field in dataclasses.fields(message)]  # type: ignore[arg-type]


@ANY_FRAME
@given(st.integers(0, 1), st.integers(1, 2**64 - 1))
def test_fields_that_an_older_minor_does_not_know_have_their_defaults(
    more: int, bound_ns: int
) -> None:
    """A grant had five fields once."""
    old = [7, 11, 5_000_000, False, 1000]
    want = Grant(7, 11, 5_000_000, False, 1000, bound_ns if more else 0)
    assert decode(frame_of(Grant.TYPE, [*old, *[bound_ns][:more]]))[1] == want
    assert msgpack.unpackb(encode(want)[HEADER_BYTES:]) == [*old, *[bound_ns][:more]]
    with pytest.raises(RemoteProtocolError):
        decode(frame_of(Grant.TYPE, old[:4]))


def test_the_longest_batch_fits_into_a_frame() -> None:
    longest = Batch(((True, 255, 0xFFFF_FFFF, 255, 0xFFFF_FFFF),) * BATCH_OPS_MAX)
    frame = encode(longest)
    assert len(frame) <= FRAME_BYTES_MAX
    assert decode(frame)[1] == longest


# --- refusals -------------------------------------------------------------------------------------


def frame_of(kind: int, fields: object, *, major: int = MAJOR) -> bytes:
    return raw_frame(kind, msgpack.packb(fields), major=major)


def raw_frame(kind: int, body: bytes, *, major: int = MAJOR) -> bytes:
    # By hand, not with the codec's own Struct: the layout is what is under test.
    head = b"VC" + bytes((major, kind)) + bytes(16) + len(body).to_bytes(4, "little")
    return head + body


def refused(frame: bytes) -> None:
    """A message or a PeerError of these two kinds; never anything else, and quickly."""
    began_ns = time.monotonic_ns()
    try:
        header, message = decode(frame)
    except (RemoteProtocolError, VersionMismatch):
        pass
    else:
        assert type(message) in MESSAGE_CLASSES and header.type == message.TYPE
    assert time.monotonic_ns() - began_ns < REFUSED_WITHIN_NS


@ANY_FRAME
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(noise: bytes) -> None:
    refused(noise)


@ANY_FRAME
@given(st.sampled_from(MESSAGE_CLASSES), st.binary(max_size=100))
def test_any_body_under_a_valid_header_is_a_message_or_a_protocol_error(
    cls: type[Message], body: bytes
) -> None:
    refused(raw_frame(cls.TYPE, body))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=1), inner),
    max_leaves=6,
)


@settings(ANY_FRAME, max_examples=150)
@given(st.sampled_from(MESSAGE_CLASSES), st.lists(ANYTHING, max_size=6))
def test_any_msgpack_is_a_message_or_a_protocol_error(cls: type[Message], body: list[Any]) -> None:
    refused(frame_of(cls.TYPE, body))


@ANY_FRAME
@given(ANY_MESSAGE, st.data())
def test_a_damaged_frame_is_a_message_or_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    frame = bytearray(encode(message, credit=1, epoch=2, seq=3, ack=4))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    refused(bytes(frame))
    refused(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    refused(bytes(frame) + data.draw(st.binary(max_size=8)))


BOMBS = {
    "arrays in arrays": b"\x91" * (FRAME_BYTES_MAX - HEADER_BYTES),
    "long arrays in long arrays": b"\xdc\x10\x00" * 80_000,
    "array of 2**32-1": b"\xdd\xff\xff\xff\xff",
    "map of 2**32-1": b"\xdf\xff\xff\xff\xff",
    "maps in maps": b"\x81" * 100_000,
    "text of 2**32-1": b"\x91\xdb\xff\xff\xff\xff",
    "bytes of 2**32-1": b"\x91\xc6\xff\xff\xff\xff",
    "extension of 2**32-1": b"\x91\xc9\xff\xff\xff\xff\x01",
    "array a little too long": b"\xdc\x10\x01" + b"\x00" * 4097,
    "timestamp": b"\x91\xd6\xff\x00\x00\x00\x00",
    "empty extension": b"\x91\xc7\x00\xff",
    "reserved byte": b"\x91\xc1",
    "text that is not UTF-8": b"\x91\xa2\xff\xfe",
    "trailing bytes": b"\x91\x01\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("cls", [Hello, Batch, Eoi, Read])
def test_a_msgpack_bomb_is_refused_quickly(cls: type[Message], body: bytes) -> None:
    began_ns = time.monotonic_ns()
    with pytest.raises(RemoteProtocolError):
        decode(raw_frame(cls.TYPE, body))
    assert time.monotonic_ns() - began_ns < REFUSED_WITHIN_NS


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Eoi.TYPE, []),
        (Eoi.TYPE, 64),
        (Eoi.TYPE, {0: 64}),
        (Eoi.TYPE, [True]),
        (Eoi.TYPE, [-1]),
        (Eoi.TYPE, [2**32]),
        (Eoi.TYPE, [1.0]),
        (Eoi.TYPE, ["1"]),
        (Eoi.TYPE, [None]),
        (Read.TYPE, [256, 0, 4]),
        (Read.TYPE, [0, 0, True]),
        (Wake.TYPE, [1, 2**64 - 1, 1]),
        (Hello.TYPE, [1, "text", 0, 0, "name"]),
        (Hello.TYPE, [1, b"x" * 65, 0, 0, "name"]),
        (Hello.TYPE, [1, b"", 0, 0, b"name"]),
        (Hello.TYPE, [1, b"", 0, 0, "x" * 64]),
        (Hello.TYPE, [1, b"", 0, 0, "\u00e4" * 32]),  # 64 bytes in 32 characters
        (Batch.TYPE, [[[True, 0, 0, 4]]]),
        (Batch.TYPE, [[[1, 0, 0, 4, 0]]]),
        (Batch.TYPE, [[5]]),
        (Batch.TYPE, [[[True, 0, 0, 4, 0]] * (BATCH_OPS_MAX + 1)]),
        (Reply.TYPE, [1, [-1]]),
        (0x00, []),
        (0x16, []),
        (0xFF, []),
    ],
)
def test_a_field_that_does_not_fit_is_refused(kind: int, fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(frame_of(kind, fields))


def test_a_true_is_not_taken_for_a_one_that_was_seen_before() -> None:
    """Python's 1 == True == 1.0: memories keyed by value would mix them up."""
    assert decode(frame_of(Read.TYPE, [0, 1, 4]))[1] == Read(0, 1, 4)
    for wrong in (True, 1.0):
        with pytest.raises(RemoteProtocolError):
            decode(frame_of(Read.TYPE, [0, wrong, 4]))


@pytest.mark.parametrize("major", [0, MAJOR + 1, 255])
def test_another_major_version_is_named(major: int) -> None:
    with pytest.raises(VersionMismatch) as caught:
        decode(frame_of(Eoi.TYPE, [64], major=major))
    assert (caught.value.ours, caught.value.theirs) == (MAJOR, major)


def test_another_major_version_is_named_before_anything_else_is_judged() -> None:
    """A newer version may change all that follows the version byte."""
    with pytest.raises(VersionMismatch):
        decode(b"VC" + bytes((MAJOR + 1, 0xEE)) + b"\xff" * 30)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"VC",
        frame_of(Eoi.TYPE, [64])[:-1],
        frame_of(Eoi.TYPE, [64]) + b"\x00",
        b"XY" + frame_of(Eoi.TYPE, [64])[2:],
        raw_frame(Eoi.TYPE, b"\x91\x40" + bytes(FRAME_BYTES_MAX)),
    ],
    ids=["empty", "short", "truncated", "too long", "magic", "huge"],
)
def test_a_frame_of_another_shape_is_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(frame)


def test_errors_of_the_codec_are_peer_errors() -> None:
    assert issubclass(RemoteProtocolError, PeerError) and issubclass(VersionMismatch, PeerError)
