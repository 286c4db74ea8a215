"""The archive: what is written is read, and nothing else is believed."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from typing import Any

import pytest

from vcoproc import limits
from vcoproc.errors import BadSnapshot
from vcoproc_toolstack.snapshot_format import MANIFEST, SnapshotReader, SnapshotWriter

MEMBERS = {"domain.cfg": b'name = "fir"\n', "contexts/audio": bytes(range(256)) * 40, "empty": b""}


def write(members: dict[str, bytes] = MEMBERS, kind: str = "domain", **what: Any) -> bytes:
    writer = SnapshotWriter(kind)
    pieces = [piece for name, data in members.items() for piece in writer.add(name, [data])]
    return b"".join([*pieces, *writer.end(what)])


def read(data: bytes, kind: str = "domain") -> dict[str, bytes]:
    reader = SnapshotReader(io.BytesIO(data), kind)
    return {name: reader.read(name, limits.MIB) for name in reader.members}


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Any archive, made by somebody else."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return file.getvalue()


def manifest(**changes: Any) -> dict[str, Any]:
    said = {"format": "vcoproc-snapshot", "version": 1, "kind": "domain", "members": {}}
    return {**said, **changes}


def with_manifest(**changes: Any) -> bytes:
    return archive({MANIFEST: json.dumps(manifest(**changes)).encode()})


def test_what_was_written_is_read() -> None:
    data = write(note="kept")
    assert read(data) == MEMBERS
    assert SnapshotReader(io.BytesIO(data), "domain").manifest["note"] == "kept"


def test_the_same_contents_are_the_same_bytes() -> None:
    assert write() == write()


def test_it_is_an_archive_that_everybody_can_open() -> None:
    with zipfile.ZipFile(io.BytesIO(write())) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == [*MEMBERS, MANIFEST]


def test_the_writer_never_has_all_of_it() -> None:
    writer = SnapshotWriter("domain")
    noise = random.Random(1)
    pieces = (noise.randbytes(100_000) for _ in range(50))
    longest = max(len(piece) for piece in writer.add("noise", pieces))
    assert longest < 300_000


@pytest.mark.parametrize("size", [*range(0, 60, 7), 200, 400, 600])
def test_a_file_that_was_cut_off_is_refused(size: int) -> None:
    with pytest.raises(BadSnapshot):
        read(write()[:size])


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_refused_or_as_it_was(seed: int) -> None:
    """Whatever byte changes, what is read is what was written, or nothing is."""
    good = write()
    rng = random.Random(seed)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            assert read(bytes(data)) == MEMBERS
        except BadSnapshot:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("seed", range(4))
def test_garbage_is_refused_in_our_words(seed: int) -> None:
    rng = random.Random(seed)
    end = b"PK\x05\x06" + bytes(4)
    for length in (0, 1, 21, 22, 100, 5000):
        for tail in (b"", end + rng.randbytes(14)):
            with pytest.raises(BadSnapshot):
                read(rng.randbytes(length) + tail)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (archive({"x": b"1"}), "has no manifest.json"),
        (archive({MANIFEST: b"{"}), "its manifest is no JSON"),
        (archive({MANIFEST: b"[" * 100_000}), "its manifest is no JSON"),
        (archive({MANIFEST: b"[]"}), "is no vcoproc-snapshot"),
        (with_manifest(format="other"), "is no vcoproc-snapshot"),
        (with_manifest(version=2), "is of version 2, this program knows 1 to 1"),
        (with_manifest(version="1"), "is of version '1'"),
        (with_manifest(kind="vcoproc"), "is of a 'vcoproc', not of a domain"),
        (with_manifest(members=[]), "its manifest has no members"),
        (with_manifest(members={"x": 7}), "says nothing good of member 'x'"),
        (with_manifest(members={"x": {"bytes": -1, "sha256": ""}}), "nothing good"),
        (with_manifest(members={"x": {"bytes": True, "sha256": ""}}), "nothing good"),
        (with_manifest(members={"x": {"bytes": 1, "sha256": "0"}}), "members are not those"),
        (
            archive({MANIFEST: json.dumps(manifest()).encode(), "more": b""}),
            "members are not those",
        ),
        (archive({MANIFEST: b"{}"}, zipfile.ZIP_BZIP2), "packed in a way that is not known"),
        (archive({MANIFEST: b" " * (limits.MANIFEST_BYTES_MAX + 1)}), "manifest is longer than"),
    ],
)
def test_what_is_no_snapshot_of_ours_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadSnapshot, match=words):
        read(data)


def test_two_members_of_one_name_are_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr(MANIFEST, json.dumps(manifest()))
            zipped.writestr(MANIFEST, "{}")
    with pytest.raises(BadSnapshot, match="two members of one name"):
        read(file.getvalue())


def test_a_member_that_is_larger_than_it_may_be_is_not_unpacked() -> None:
    """A few kilobytes that would become a megabyte."""
    data = write({"bomb": bytes(limits.MIB)})
    assert len(data) < 10_000
    reader = SnapshotReader(io.BytesIO(data), "domain")
    with pytest.raises(BadSnapshot, match="'bomb' has more than 1000 bytes"):
        reader.read("bomb", 1000)


def test_a_member_that_is_larger_than_the_manifest_says_is_cut_off() -> None:
    said = manifest(members={"bomb": {"bytes": 10, "sha256": "0" * 64}})
    data = archive({"bomb": bytes(50 * limits.MIB), MANIFEST: json.dumps(said).encode()})
    reader = SnapshotReader(io.BytesIO(data), "domain")
    pieces = reader.pieces("bomb", limits.MIB)
    with pytest.raises(BadSnapshot, match="'bomb' is damaged"):
        list(pieces)


def test_a_list_of_members_that_would_fill_the_memory_is_not_read() -> None:
    good = write()
    for place, value, form in ((10, 65_000, "<H"), (12, 2**31, "<L")):
        data = bytearray(good)
        start = len(good) - 22 + place
        data[start : start + struct.calcsize(form)] = struct.pack(form, value)
        with pytest.raises(BadSnapshot, match="which is too much"):
            read(bytes(data))
    with pytest.raises(BadSnapshot, match="larger than any"):
        read(good[:-22] + b"PK\x06\x07" + bytes(16) + good[-22:])


def test_a_file_that_is_too_long_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_BYTES_MAX", 100)
    with pytest.raises(BadSnapshot, match="is longer than 100 bytes"):
        read(write())


def test_a_member_that_is_not_there() -> None:
    reader = SnapshotReader(io.BytesIO(write()), "domain")
    with pytest.raises(BadSnapshot, match="has no member 'x'"):
        reader.read("x", 1)
