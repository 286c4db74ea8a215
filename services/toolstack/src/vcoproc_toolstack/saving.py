"""Writes domains and vcoprocs down, as archives of `snapshot_format`.

Theory of operation:
    Within a turn everything is copied as fast as it goes while the vcoprocs are kept off their
    coprocs: memory into an unnamed file with the same holes, contexts into others. Then the domain
    goes on, and the archive is made of the copies while the client takes it. A domain that is to be
    shut down is SAVING until the client has taken all of it: it goes on if that comes to nothing.
Not handled:
    Drivers of a domain are not stopped: what they write to its memory meanwhile is in the copy, or
    not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from vcoproc import limits
from vcoproc.errors import LimitExceeded
from vcoproc.model.domain_state import DomainVerb, after
from vcoproc_toolstack.changes import Changes, need_domain, need_vcoproc
from vcoproc_toolstack.domain_file import domain_text
from vcoproc_toolstack.endings import NO_REQUEST, Endings
from vcoproc_toolstack.memory import pieces_with_data
from vcoproc_toolstack.plans import pause_steps, resume_steps
from vcoproc_toolstack.records import DomainRecord, Ending, LineNow, Then, VcoprocRecord
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.snapshot_format import SnapshotWriter
from vcoproc_toolstack.steps import PauseVcoproc, ResumeVcoproc, SaveContext, Step

DOMAIN: Final = "domain"
VCOPROC: Final = "vcoproc"
"""Kinds of snapshots."""
CONFIG_MEMBER: Final = "domain.cfg"
_ZEROS: Final = bytes(limits.MEMORY_PIECE_BYTES)


def context_member(vcoproc: str) -> str:
    """The member with the context of a vcoproc."""
    return f"contexts/{vcoproc}"


def memory_member(offset: int) -> str:
    """The member with the piece of memory that begins there."""
    return f"memory/{offset:08x}"


@dataclass(frozen=True, slots=True)
class _Copy:
    """A domain as it was at one moment. Files are unnamed."""

    domain: DomainRecord
    text: str
    memory: IO[bytes]
    contexts: tuple[IO[bytes], ...]
    lines: dict[int, tuple[LineNow, ...]]


class Saving:
    """See the module."""

    def __init__(self, changes: Changes, endings: Endings) -> None:
        self._changes = changes
        self._endings = endings

    def save_domain(self, name: str, *, shut_down: bool) -> Iterator[bytes]:
        """Writes a domain down; the pieces in order are the archive.

        Args:
            shut_down: stop it once the last piece was taken; otherwise it goes on as it was.

        Raises:
            NotFound, WrongState: there is none, or it cannot be saved now; or somebody did
                something else with it before it was written.
            VcoprocError: a service refuses, or does not answer; it goes on as it was.
        """
        verb = DomainVerb.SAVE_AND_STOP if shut_down else DomainVerb.SAVE
        with ExitStack() as files, ExitStack() as attended:
            with self._changes.turn(self._changes.coprocs_of(name)):
                with self._changes.store.read() as view:
                    domain = need_domain(view, name, verb)
                if not shut_down:
                    copy = self._copied(domain, files)
                else:
                    domain, copy = self._begin(domain, files)
                    attended.enter_context(self._endings.attending(domain.domid))
            yield from _write_domain(copy)
            if shut_down:
                with self._changes.turn():
                    # Once it is decided it must not fail: the client would throw away what is the
                    # only thing left.
                    saved = self._endings.still(domain)
                    self._endings.follow(saved, Ending(Then.PRESERVE), "saved")

    def save_vcoproc(self, domain_name: str, name: str) -> Iterator[bytes]:
        """Writes the context of one vcoproc down. As `save_domain`."""
        with ExitStack() as files:
            with self._changes.turn(self._changes.coprocs_of(domain_name)):
                with self._changes.store.read() as view:
                    domain = need_domain(view, domain_name, DomainVerb.SAVE_VCOPROC)
                vcoproc = need_vcoproc(domain, name)
                seat = vcoproc.coproc, vcoproc.vcoproc_id
                with self._kept_off(domain, [PauseVcoproc(*seat)], [ResumeVcoproc(*seat)]):
                    context = self._save_context(vcoproc, files)
            writer = SnapshotWriter(VCOPROC)
            yield from writer.add(context_member(name), _pieces(context))
            yield from writer.end({"vcoprocs": [_described(vcoproc, ())]})

    def _begin(self, domain: DomainRecord, files: ExitStack) -> tuple[DomainRecord, _Copy]:
        """Keeps a domain off its coprocs for as long as it is SAVING, and copies it."""
        then = Then.STAY_PAUSED if domain.held else Then.GO_ON
        state = after(domain.state, DomainVerb.SAVE_AND_STOP)
        saving = replace(domain.become(state, "is being saved"), ending=Ending(then))
        self._changes.carry_out(
            Saga([] if domain.held else pause_steps(domain)),
            lambda change: self._endings.become(change, saving, NO_REQUEST, "is being saved"),
        )
        try:
            return saving, self._copy(saving, files)
        except BaseException:
            with contextlib.suppress(Exception):
                self._endings.go_on_unsaved(saving)
            raise

    def _copied(self, domain: DomainRecord, files: ExitStack) -> _Copy:
        with self._kept_off(domain, pause_steps(domain), resume_steps(domain)):
            return self._copy(domain, files)

    @contextmanager
    def _kept_off(
        self, domain: DomainRecord, pause: Sequence[Step], resume: Sequence[Step]
    ) -> Iterator[None]:
        """Nothing of it runs inside. What the store says stays, so repairs let it go on."""
        if domain.held:
            yield
            return
        self._changes.carry_out(Saga(pause), lambda _change: b"")
        try:
            yield
        finally:
            self._changes.finish(resume)

    def _copy(self, domain: DomainRecord, files: ExitStack) -> _Copy:
        contexts = tuple(self._save_context(each, files) for each in domain.vcoprocs)
        lines = dict(self._changes.services.router().lines)
        memory = files.enter_context(self._changes.memory.unnamed())
        self._changes.memory.copy_to(domain.memory_file, memory, domain.memory_bytes)
        with self._changes.store.read() as view:
            text = domain_text(domain, view.domain_text(domain.domid))
        if len(text.encode()) > limits.CONFIG_BYTES_MAX:
            raise LimitExceeded("the file of a domain", limits.CONFIG_BYTES_MAX, "bytes")
        return _Copy(domain, text, memory, contexts, lines)

    def _save_context(self, vcoproc: VcoprocRecord, files: ExitStack) -> IO[bytes]:
        """The context of a vcoproc that is kept off, in a file without a name."""
        memory = self._changes.memory
        name = memory.stage()
        try:
            self._changes.services.perform(SaveContext(vcoproc.coproc, vcoproc.vcoproc_id, name))
            return files.enter_context(memory.open(name))
        finally:
            memory.remove(name)


def _write_domain(copy: _Copy) -> Iterator[bytes]:
    writer = SnapshotWriter(DOMAIN)
    domain = copy.domain
    yield from writer.add(CONFIG_MEMBER, [copy.text.encode()])
    for vcoproc, context in zip(domain.vcoprocs, copy.contexts, strict=True):
        yield from writer.add(context_member(vcoproc.name), _pieces(context))
    for offset in pieces_with_data(copy.memory, domain.memory_bytes, limits.MEMORY_PIECE_BYTES):
        copy.memory.seek(offset)
        piece = copy.memory.read(limits.MEMORY_PIECE_BYTES)
        if piece != _ZEROS[: len(piece)]:
            yield from writer.add(memory_member(offset), [piece])
    described = [_described(v, copy.lines.get(v.vcoproc_id, ())) for v in domain.vcoprocs]
    yield from writer.end({"memory_bytes": domain.memory_bytes, "vcoprocs": described})


def _described(vcoproc: VcoprocRecord, lines: tuple[LineNow, ...]) -> dict[str, Any]:
    """A vcoproc in the manifest: what its domain's file does not say."""
    return {
        "name": vcoproc.name,
        "compatible": vcoproc.compatible,
        "lines": [
            {"line": each.line, "pending": each.pending, "masked": each.masked} for each in lines
        ],
    }


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(limits.SNAPSHOT_CHUNK_BYTES):
        yield piece
