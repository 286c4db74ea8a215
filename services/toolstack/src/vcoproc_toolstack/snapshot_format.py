"""The file that a domain or a vcoproc is written down in: a ZIP archive. docs/snapshots.md.

Knows bytes, not domains: what the members mean is for `saving` and `restoring`.

Theory of operation:
    A writer is fed member by member and gives the archive in pieces, so that it never has all of
    it. The manifest comes last, since it has the size and SHA-256 of every other member. A reader
    needs the whole file; it believes nothing of it before that was checked: the list of members has
    its bound, members are exactly those of the manifest, and each is of the size and hash said
    there.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

from vcoproc import limits
from vcoproc.errors import BadSnapshot

FORMAT: Final = "vcoproc-snapshot"
VERSION: Final = 1
"""A reader takes this one and older ones."""
MANIFEST: Final = "manifest.json"
_LEVEL: Final = 1
"""Of deflate: a domain may be paused as long as this takes."""
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_END_SIGNATURE: Final = b"PK\x05\x06"
_END_BYTES: Final = 22
_END_64_SIGNATURE: Final = b"PK\x06\x07"
_END_64_BYTES: Final = 20
_READ_BYTES: Final = limits.MIB
_ENCRYPTED: Final = 1
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)
"""What zipfile raises for bytes that are wrong."""


class _Pipe:
    """What the archive is written to; cannot be rewound."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is open here."""

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


class SnapshotWriter:
    """Makes one archive. kind: "domain" or "vcoproc"."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._pipe = _Pipe()
        self._zip = zipfile.ZipFile(self._pipe, "w", compresslevel=_LEVEL)
        self._members: dict[str, dict[str, object]] = {}

    def add(self, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Adds a member; gives what has come out so far."""
        digest = hashlib.sha256()
        size = 0
        with self._zip.open(_info(name), "w") as member:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                member.write(piece)
                yield self._pipe.take()
        self._members[name] = {"bytes": size, "sha256": digest.hexdigest()}
        yield self._pipe.take()

    def end(self, what: Mapping[str, Any]) -> Iterator[bytes]:
        """Writes the manifest and the end. what: further fields of the manifest."""
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self._kind,
            **what,
            "members": self._members,
        }
        self._zip.writestr(_info(MANIFEST), json.dumps(manifest, indent=1))
        self._zip.close()
        yield self._pipe.take()


def _info(name: str) -> zipfile.ZipInfo:
    """Always the same time, so that the same contents give the same bytes."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o600 << 16
    return info


@dataclass(frozen=True, slots=True)
class Member:
    """What the manifest says of a member."""

    size_bytes: int
    sha256: str


class SnapshotReader:
    """Reads one archive.

    Args:
        file: all of it; must stay open.
        kind: what it must be.

    Attributes:
        manifest: its fields, not yet checked but for those that all kinds have.
        members: all but the manifest, by name.

    Raises:
        BadSnapshot: it is damaged, too large, of another version, or something else.
    """

    def __init__(self, file: IO[bytes], kind: str) -> None:
        _check_end(file)
        with _damage_told():
            self._zip = zipfile.ZipFile(file)
        infos = self._zip.infolist()
        if len(infos) > limits.SNAPSHOT_MEMBERS_MAX:
            raise BadSnapshot(f"has {len(infos)} members, at most {limits.SNAPSHOT_MEMBERS_MAX}")
        for info in infos:
            if info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED:
                raise BadSnapshot(f"member {info.filename!r} is packed in a way that is not known")
        names = [info.filename for info in infos]
        if len(set(names)) != len(names):
            raise BadSnapshot("has two members of one name")
        if MANIFEST not in names:
            raise BadSnapshot(f"has no {MANIFEST}")
        self.manifest = self._read_manifest(kind)
        self.members = _members(self.manifest)
        if set(names) != {MANIFEST, *self.members}:
            raise BadSnapshot("its members are not those that its manifest names")

    def read(self, name: str, bytes_max: int) -> bytes:
        """A whole small member. Raises: BadSnapshot."""
        return b"".join(self.pieces(name, bytes_max))

    def pieces(self, name: str, bytes_max: int) -> Iterator[bytes]:
        """A member piece by piece; whoever takes the last one knows that it is whole.

        Raises:
            BadSnapshot: there is no such member, it is too large, or damaged.
        """
        member = self.members.get(name)
        if member is None:
            raise BadSnapshot(f"has no member {name!r}")
        if member.size_bytes > bytes_max:
            raise BadSnapshot(f"member {name!r} has more than {bytes_max} bytes")
        digest = hashlib.sha256()
        size = 0
        for piece in self._raw(name):
            size += len(piece)
            if size > member.size_bytes:
                break
            digest.update(piece)
            yield piece
        if size != member.size_bytes or digest.hexdigest() != member.sha256:
            raise BadSnapshot(f"member {name!r} is damaged")

    def _raw(self, name: str) -> Iterator[bytes]:
        with _damage_told(), self._zip.open(name) as file:
            while piece := file.read(_READ_BYTES):
                yield piece

    def _read_manifest(self, kind: str) -> Mapping[str, Any]:
        text = b""
        for piece in self._raw(MANIFEST):
            text += piece
            if len(text) > limits.MANIFEST_BYTES_MAX:
                raise BadSnapshot(f"its manifest is longer than {limits.MANIFEST_BYTES_MAX} bytes")
        try:
            manifest = json.loads(text)
        except (ValueError, RecursionError):
            raise BadSnapshot("its manifest is no JSON") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BadSnapshot(f"is no {FORMAT}")
        version = manifest.get("version")
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            raise BadSnapshot(f"is of version {version!r}, this program knows 1 to {VERSION}")
        if manifest.get("kind") != kind:
            raise BadSnapshot(f"is of a {manifest.get('kind')!r}, not of a {kind}")
        return manifest


@contextmanager
def _damage_told() -> Iterator[None]:
    """What zipfile says of a damaged archive, in our words."""
    try:
        yield
    except _DAMAGE as error:
        raise BadSnapshot(f"is damaged: {error}") from error


def _check_end(file: IO[bytes]) -> None:
    """Bounds the list of members before anything reads it: it is held in memory."""
    size = file.seek(0, 2)
    if size > limits.SNAPSHOT_BYTES_MAX:
        raise BadSnapshot(f"is longer than {limits.SNAPSHOT_BYTES_MAX} bytes")
    file.seek(max(0, size - _END_BYTES - _END_64_BYTES))
    tail = file.read(_END_BYTES + _END_64_BYTES)
    file.seek(0)
    before, end = tail[:-_END_BYTES], tail[-_END_BYTES:]
    # Ours has no comment behind it, and no larger numbers before it.
    if len(end) != _END_BYTES or not end.startswith(_END_SIGNATURE):
        raise BadSnapshot("is no archive, or its end is missing")
    if before.startswith(_END_64_SIGNATURE):
        raise BadSnapshot("is larger than any that this program makes")
    count, list_bytes = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if count > limits.SNAPSHOT_MEMBERS_MAX or list_bytes > limits.SNAPSHOT_DIRECTORY_BYTES_MAX:
        raise BadSnapshot(f"names {count} members in {list_bytes} bytes, which is too much")


def _members(manifest: Mapping[str, Any]) -> dict[str, Member]:
    members = manifest.get("members")
    if not isinstance(members, dict):
        raise BadSnapshot("its manifest has no members")
    found = {}
    for name, said in members.items():
        fields = said if isinstance(said, dict) else {}
        size, sha256 = fields.get("bytes"), fields.get("sha256")
        if type(size) is not int or size < 0 or not isinstance(sha256, str):
            raise BadSnapshot(f"its manifest says nothing good of member {name!r}")
        found[name] = Member(size, sha256)
    return found
