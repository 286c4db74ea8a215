"""Makes domains, and contexts of vcoprocs, from what `saving` wrote.

Theory of operation:
    The whole archive is taken in first, in a file without a name, and everything in it is checked
    before anything changes. Memory and contexts are unpacked to files that are nobody's yet; the
    saga that makes the domain gives them their names. Whatever is not taken is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

from vcoproc import limits
from vcoproc.config import DomainConfig, parse_domain
from vcoproc.errors import BadSnapshot, InvalidArgument, InvalidConfig
from vcoproc.model.domain_state import DomainState, DomainVerb, after
from vcoproc_toolstack.changes import (
    Changes,
    DomainSeal,
    VcoprocSeal,
    need_domain,
    need_vcoproc,
)
from vcoproc_toolstack.plans import Staged, domain_steps, load_steps, release_steps
from vcoproc_toolstack.records import DomainRecord, EventKind, LineNow, VcoprocRecord
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.saving import (
    CONFIG_MEMBER,
    DOMAIN,
    VCOPROC,
    context_member,
    memory_member,
)
from vcoproc_toolstack.snapshot_format import SnapshotReader
from vcoproc_toolstack.steps import ResumeVcoproc
from vcoproc_toolstack.store import Change
from vcoproc_toolstack.turns import Request


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a domain is to be restored.

    new_name: empty for the one that it had. paused: it is left so. coprocs: other coprocs than it
    had, by name of the vcoproc.
    """

    new_name: str
    paused: bool
    coprocs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Upload:
    """An archive that was taken in. sha256: of all its bytes."""

    file: IO[bytes]
    sha256: bytes


@dataclass(frozen=True, slots=True)
class _Saved:
    """What the manifest says of a vcoproc."""

    name: str
    compatible: str
    lines: tuple[LineNow, ...]


class Restoring:
    """See the module."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    @contextmanager
    def take_in(self, pieces: Iterable[bytes]) -> Iterator[Upload]:
        """Takes an archive in; it is kept inside.

        Raises:
            BadSnapshot: it is too long.
            LimitExceeded: no space.
        """
        memory = self._changes.memory
        digest = hashlib.sha256()
        size = 0
        with memory.unnamed() as file:
            for piece in pieces:
                size += len(piece)
                if size > limits.SNAPSHOT_BYTES_MAX:
                    raise BadSnapshot(f"is longer than {limits.SNAPSHOT_BYTES_MAX} bytes")
                digest.update(piece)
                memory.put(file, piece)
            memory.flush(file)
            yield Upload(file, digest.digest())

    def restore_domain(
        self, upload: Upload, wishes: Wishes, request: Request, seal: DomainSeal
    ) -> bytes:
        """Makes a domain of an archive, or nothing at all.

        Raises:
            BadSnapshot: the archive is none, or damaged; nothing has changed.
            VcoprocError: it is refused, or a service does not answer; nothing is left of it.
        """
        changes = self._changes
        if (answer := changes.answered(request)) is not None:  # before all of it is read
            return answer
        reader = SnapshotReader(upload.file, DOMAIN)
        saved = _saved(reader.manifest)
        config = _config(reader, wishes)
        verb = DomainVerb.CREATE_PAUSED if wishes.paused else DomainVerb.CREATE
        state = after(DomainState.ABSENT, verb)
        references = [each.coproc for each in config.vcoprocs]
        with changes.turn(references):  # before much is unpacked for nothing
            if (answer := changes.answered(request)) is not None:
                return answer
            with changes.store.read() as view:
                _check(changes.plan_domain(view, config, state), saved)
        with ExitStack() as files:
            staged = self._unpack(reader, config, saved, files)
            with changes.turn(references):
                if (answer := changes.answered(request)) is not None:
                    return answer
                with changes.change() as change:
                    planned = changes.plan_domain(change, config, state)
                    _check(planned, saved)
                    domain = changes.number(change, planned)
                    change.add_domain(domain, _text(reader))
                    coprocs = changes.coprocs(change)
                return changes.carry_out(
                    Saga(
                        domain_steps(domain, coprocs, staged),
                        [step for each in domain.vcoprocs for step in release_steps(domain, each)],
                    ),
                    lambda change: changes.created(change, domain, request, seal),
                    undone=lambda change: change.delete_domain(domain.domid),
                )

    def restore_vcoproc(
        self, upload: Upload, names: tuple[str, str], request: Request, seal: VcoprocSeal
    ) -> bytes:
        """Loads a context into a vcoproc of the same type, or changes nothing.

        Args:
            names: of the domain and of its vcoproc.

        Raises: as `restore_domain`.
        """
        changes = self._changes
        reader = SnapshotReader(upload.file, VCOPROC)
        [saved] = _saved(reader.manifest, count=1)
        member = context_member(saved.name)
        _check_members(reader, {member})
        with ExitStack() as files, changes.turn(changes.coprocs_of(names[0])):
            if (answer := changes.answered(request)) is not None:
                return answer
            with changes.store.read() as view:
                domain = need_domain(view, names[0], DomainVerb.LOAD_VCOPROC)
            vcoproc = need_vcoproc(domain, names[1])
            _check_type(vcoproc, saved)
            context = self._unpack_context(reader, member, files)
            words = f"loaded a context that was saved of {saved.name}"

            def commit(change: Change) -> bytes:
                change.add_event(vcoproc.resource, EventKind.CHANGED, words)
                kept = change.known_vcoproc(vcoproc.vcoproc_id)
                return changes.keep(change, request, seal(kept))

            resume = ResumeVcoproc(vcoproc.coproc, vcoproc.vcoproc_id)
            return changes.carry_out(
                Saga(load_steps(domain, vcoproc, context), [] if domain.held else [resume]), commit
            )

    # --- unpacking --------------------------------------------------------------------------------

    def _unpack(
        self, reader: SnapshotReader, config: DomainConfig, saved: list[_Saved], files: ExitStack
    ) -> Staged:
        """All files of a domain, of the size and contents that the manifest says."""
        size = limits.MEMORY_PIECE_BYTES
        offsets = {memory_member(at): at for at in range(0, config.memory_bytes, size)}
        contexts = {each.name: context_member(each.name) for each in saved}
        _check_members(reader, {CONFIG_MEMBER, *contexts.values()}, {*offsets})
        memory = self._stage(files)
        with self._changes.memory.create(memory, config.memory_bytes) as file:
            for name in reader.members.keys() & offsets.keys():
                piece = reader.read(name, size)
                if len(piece) != min(size, config.memory_bytes - offsets[name]):
                    raise BadSnapshot(f"member {name!r} has {len(piece)} bytes")
                self._changes.memory.put_sparsely(file, offsets[name], piece)
        return Staged(
            memory,
            {
                name: self._unpack_context(reader, member, files)
                for name, member in contexts.items()
            },
            {each.name: each.lines for each in saved},
        )

    def _unpack_context(self, reader: SnapshotReader, member: str, files: ExitStack) -> str:
        name = self._stage(files)
        pieces = reader.pieces(member, limits.CONTEXT_BYTES_MAX)
        self._changes.memory.write(name, pieces, limits.CONTEXT_BYTES_MAX)
        return name

    def _stage(self, files: ExitStack) -> str:
        name = self._changes.memory.stage()
        files.callback(self._changes.memory.remove, name)
        return name


def _text(reader: SnapshotReader) -> str:
    try:
        return reader.read(CONFIG_MEMBER, limits.CONFIG_BYTES_MAX).decode()
    except UnicodeDecodeError:
        raise BadSnapshot(f"member {CONFIG_MEMBER!r} is no text") from None


def _config(reader: SnapshotReader, wishes: Wishes) -> DomainConfig:
    """The domain's file, with what is wished."""
    try:
        config = parse_domain(_text(reader), CONFIG_MEMBER)
    except InvalidConfig as error:
        raise BadSnapshot(f"member {CONFIG_MEMBER!r} is wrong: {error}") from error
    names = {each.name for each in config.vcoprocs}
    if strangers := wishes.coprocs.keys() - names:
        raise InvalidArgument("options.coprocs", f"the domain has no vcoproc {min(strangers)!r}")
    if reader.manifest.get("memory_bytes") != config.memory_bytes:
        raise BadSnapshot("its manifest and the domain's file differ in the size of the memory")
    return replace(
        config,
        name=wishes.new_name or config.name,
        vcoprocs=tuple(
            replace(each, coproc=wishes.coprocs.get(each.name, each.coproc))
            for each in config.vcoprocs
        ),
    )


def _saved(manifest: Mapping[str, Any], count: int | None = None) -> list[_Saved]:
    """What a manifest says of its vcoprocs. count: how many there must be."""
    listed = manifest.get("vcoprocs")
    if not isinstance(listed, list) or len(listed) > limits.VCOPROCS_PER_DOMAIN_MAX:
        raise BadSnapshot("its manifest does not list vcoprocs")
    if count is not None and len(listed) != count:
        raise BadSnapshot(f"its manifest lists {len(listed)} vcoprocs, not {count}")
    saved = []
    for each in listed:
        fields = each if isinstance(each, dict) else {}
        name, compatible, lines = (fields.get(key) for key in ("name", "compatible", "lines"))
        if not isinstance(name, str) or not isinstance(compatible, str):
            raise BadSnapshot("its manifest lists a vcoproc without name or type")
        saved.append(_Saved(name, compatible, _lines(lines)))
    return saved


def _lines(listed: object) -> tuple[LineNow, ...]:
    if not isinstance(listed, list) or len(listed) > limits.LINES_PER_VCOPROC_MAX:
        raise BadSnapshot("its manifest does not list lines")
    lines = []
    for each in listed:
        fields = each if isinstance(each, dict) else {}
        line, pending, masked = (fields.get(key) for key in ("line", "pending", "masked"))
        if type(line) is not int or type(pending) is not bool or type(masked) is not bool:
            raise BadSnapshot("its manifest lists a line that is none")
        lines.append(LineNow(line, pending, masked))
    return tuple(lines)


def _check(planned: DomainRecord, saved: list[_Saved]) -> None:
    """Raises: BadSnapshot (the vcoprocs are others than those that were saved)."""
    of = {each.name: each for each in saved}
    if sorted(of) != sorted(each.name for each in planned.vcoprocs):
        raise BadSnapshot("its manifest and the domain's file differ in the vcoprocs")
    for vcoproc in planned.vcoprocs:
        _check_type(vcoproc, of[vcoproc.name])


def _check_type(vcoproc: VcoprocRecord, saved: _Saved) -> None:
    if vcoproc.compatible != saved.compatible:
        raise BadSnapshot(
            f"vcoproc {saved.name} was a {saved.compatible}, "
            f"and coproc {vcoproc.coproc} is a {vcoproc.compatible}"
        )


def _check_members(reader: SnapshotReader, needed: Set[str], also: Set[str] = frozenset()) -> None:
    """Raises: BadSnapshot (it lacks a member, or has another)."""
    have = set(reader.members)
    if lacking := needed - have:
        raise BadSnapshot(f"has no member {min(lacking)!r}")
    if strange := have - needed - also:
        raise BadSnapshot(f"has a member {min(strange)!r}")
