"""A domain: its memory, its vcoprocs and its interrupts."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import zmq
from zmq.backend import zmq_poll

from vcoproc.api.v1 import toolstack_pb2
from vcoproc.errors import (
    BadCredential,
    DomainGone,
    InvalidArgument,
    NotFound,
    PeerRejected,
    PeerTimeout,
    VcoprocError,
    VcoprocGone,
)
from vcoproc.guest.memory import Region, map_region
from vcoproc.guest.owner import Owner
from vcoproc.guest.trap_link import LOOK_NS, Place
from vcoproc.guest.vcoproc import Vcoproc, place_of, resource_id
from vcoproc.limits import CALL_TIMEOUT_NS, IRQ_CREDIT, MS, TRAP_TIMEOUT_NS
from vcoproc.runtime.grpc_kit import RemoteUnavailable
from vcoproc.runtime.link import LinkClient, LinkDown, LinkUp
from vcoproc.runtime.process import new_epoch
from vcoproc.wire.messages import Eoi, Inject, LineEnable, Message, Role

_NOT_KNOWN = (NotFound.reason, BadCredential.reason)
"""What the irq-router says to a domain that it does not have."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """An interrupt that the domain has taken; it is active until `Domain.eoi`.

    vcoproc, line: whose. raised_ns: CLOCK_MONOTONIC of the coproc's host when the line rose.
    """

    irq: int
    vcoproc: str
    line: str
    level: bool
    raised_ns: int


class Domain:
    """What runs in a virtual machine: opens the domain of that name and drives its vcoprocs.

    The domain and each of its vcoprocs are for one thread each.

    Args:
        name: as in the domain's file.
        run_dir: of the cluster; default as for the `vcoproc` command.

    Raises:
        NotFound (as RemoteRefusal with that reason): there is no such domain.
        RemoteUnavailable: the cluster does not answer.
    """

    def __init__(self, name: str, run_dir: Path | None = None) -> None:
        self._owner = Owner(name, run_dir)
        access = self._owner.open()
        epoch = new_epoch()
        self.domid: int = access.domain.domid
        self._regions: list[Region] = [map_region(region) for region in access.memory]
        resources = {vcoproc.name: vcoproc for vcoproc in access.domain.vcoprocs}
        self._vcoprocs = {
            resource_id(one.name): Vcoproc(
                resource_id(one.name),
                resources[one.name],
                one,
                partial(self._find, resources[one.name].vcoproc_id),
                epoch=epoch,
            )
            for one in access.vcoprocs
        }
        self._line_of = {
            line.irq: (resource_id(vcoproc.name), line.name)
            for vcoproc in resources.values()
            for line in vcoproc.lines
        }
        self._pending: deque[Interrupt] = deque()
        self._active: set[int] = set()
        """Interrupt numbers that this session has injected and that have not ended."""
        self._masked: set[int] = set()
        self._last_error: VcoprocError | None = None
        self._gone: DomainGone | None = None
        self._look_at_ns = 0
        self._link = LinkClient(
            zmq.Context.instance(),
            access.irq_endpoint,
            role=Role.DOMAIN,
            credential=access.irq_credential,
            name=name,
            epoch=epoch,
            window=IRQ_CREDIT,
        )

    @property
    def name(self) -> str:
        """As it was when the toolstack was asked last."""
        return self._owner.name

    # --- memory -----------------------------------------------------------------------------------

    @property
    def memory(self) -> memoryview:
        """The domain's memory, writable; its first byte is at `memory_ipa`."""
        return self._regions[0].buffer

    @property
    def memory_ipa(self) -> int:
        """Guest-physical address of the memory."""
        return self._regions[0].base_ipa

    @property
    def regions(self) -> list[tuple[int, int]]:
        """(guest-physical address, bytes) of all memory."""
        return [(region.base_ipa, region.size_bytes) for region in self._regions]

    def at(self, ipa: int, size_bytes: int) -> memoryview:
        """The `size_bytes` at a guest-physical address, writable.

        Raises:
            InvalidArgument: not all of it is memory of this domain.
        """
        for region in self._regions:
            start = ipa - region.base_ipa
            if start >= 0 and start + size_bytes <= region.size_bytes and size_bytes >= 0:
                return region.buffer[start : start + size_bytes]
        raise InvalidArgument("address", f"{ipa:#x} + {size_bytes} bytes is not in this domain")

    def vcoproc(self, name: str) -> Vcoproc:
        """The vcoproc of that name.

        Raises:
            NotFound: the domain has none.
        """
        try:
            return self._vcoprocs[name]
        except KeyError:
            raise NotFound("vcoproc", name) from None

    @property
    def vcoprocs(self) -> list[str]:
        """Names of its vcoprocs."""
        return list(self._vcoprocs)

    # --- interrupts -------------------------------------------------------------------------------

    def wait_irq(self, timeout_ns: int = TRAP_TIMEOUT_NS) -> Interrupt | None:
        """The next interrupt, or None when none came within the time.

        Finish with `eoi`, after the cause of a level interrupt was cleared.

        Raises:
            DomainGone: the domain was destroyed or shut down.
            VcoprocGone: so was a vcoproc to which a write was posted.
        """
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + timeout_ns
        while not self._pending:
            self._pump(max(deadline_ns - now_ns, 0), now_ns)
            now_ns = time.monotonic_ns()
            if not self._pending and now_ns >= deadline_ns:
                return None
        return self._pending.popleft()

    def eoi(self, interrupt: Interrupt | int) -> None:
        """Ends an interrupt. A level line that is still high interrupts again.

        One that was taken before the connection to the irq-router was lost needs no end.
        """
        irq = interrupt if isinstance(interrupt, int) else interrupt.irq
        if irq in self._active:
            self._active.discard(irq)
            # Not `_say`, which waits for the next session: there it would end another injection.
            self._link.send(Eoi(irq))

    def enable_irq(self, irq: int, enabled: bool = True) -> None:
        """Unmasks or masks an interrupt number; what comes while masked stays pending."""
        (self._masked.discard if enabled else self._masked.add)(irq)
        self._say(LineEnable(irq, enabled))

    def _say(self, message: Message) -> None:
        deadline_ns = time.monotonic_ns() + TRAP_TIMEOUT_NS
        while not self._link.send(message):
            now_ns = time.monotonic_ns()
            if now_ns > deadline_ns:
                raise self._last_error or PeerTimeout("irq-router", TRAP_TIMEOUT_NS)
            self._pump(deadline_ns - now_ns, now_ns)

    def _pump(self, wait_ns: int, now_ns: int) -> None:
        if self._gone is not None:
            raise self._gone
        retry_ns = self._link.next_deadline_ns()
        if retry_ns is not None:
            wait_ns = min(wait_ns, max(retry_ns - now_ns, 0))
        unsure = [each for each in self._vcoprocs.values() if each.traps.unsure]
        if unsure:
            self._watch(unsure, wait_ns, now_ns)
            wait_ns = 0
        # One frame: the interrupt that is waited for is nearly always all that there is.
        for event in self._link.receive(1, -(-wait_ns // MS)):
            if isinstance(event, LinkUp):
                self._last_error = None
                # The router injects again whatever it did not hear the end of. An old EOI said
                # now would end the new injection before the driver has seen it.
                for irq in self._masked:
                    self._link.send(LineEnable(irq, False))
            elif isinstance(event, LinkDown):
                self._last_error = event.error
                self._pending.clear()
                self._active.clear()
                if isinstance(event.error, PeerRejected) and event.error.their_reason in _NOT_KNOWN:
                    self._look()
            elif isinstance(event.message, Inject):
                inject = event.message
                self._active.add(inject.irq)
                vcoproc, line = self._line_of.get(inject.irq, ("", ""))
                self._pending.append(
                    Interrupt(inject.irq, vcoproc, line, inject.level, inject.raised_ns)
                )
        self._link.flush()

    def _watch(self, unsure: list[Vcoproc], wait_ns: int, now_ns: int) -> None:
        """Waits for an interrupt, and looks after writes that were posted to those vcoprocs."""
        sockets = [*self._link.sockets]
        for vcoproc in unsure:
            sockets += vcoproc.traps.sockets
            due_ns = vcoproc.traps.next_deadline_ns()
            if due_ns is not None:
                wait_ns = min(wait_ns, max(due_ns - now_ns, 0))
        zmq_poll([(socket, int(zmq.POLLIN)) for socket in sockets], -(-wait_ns // MS))
        for vcoproc in unsure:
            vcoproc.traps.serve()

    # --- the toolstack ----------------------------------------------------------------------------

    def _find(self, vcoproc_id: int, timeout_ns: int) -> Place:
        """Where a vcoproc of this domain is now. Raises: see `TrapLink`."""
        access = self._open_again(min(timeout_ns, CALL_TIMEOUT_NS))
        ids = {vcoproc.name: vcoproc.vcoproc_id for vcoproc in access.domain.vcoprocs}
        for one in access.vcoprocs:
            if ids.get(one.name) == vcoproc_id:
                return place_of(one)
        name = next(each.name for each in self._vcoprocs.values() if each.vcoproc_id == vcoproc_id)
        raise VcoprocGone(name, "it was detached from its domain")

    def _open_again(self, timeout_ns: int) -> toolstack_pb2.DomainAccess:
        try:
            access = self._owner.open_again(timeout_ns)
            for region, mapped in zip(access.memory, self._regions, strict=False):
                if not mapped.is_behind(region.path):
                    raise DomainGone(self.name, "it was started anew; open it again")
        except DomainGone as error:
            self._gone = error
            raise
        return access

    def _look(self) -> None:
        """The irq-router does not know this domain: perhaps it has only been restarted.

        Raises:
            DomainGone: the domain is gone.
        """
        now_ns = time.monotonic_ns()
        if now_ns < self._look_at_ns:
            return
        self._look_at_ns = now_ns + LOOK_NS
        with contextlib.suppress(RemoteUnavailable):
            self._open_again(CALL_TIMEOUT_NS)

    def crash(self, why: str) -> None:
        """Declares that this domain has crashed, for a guest that cannot go on.

        Its vcoprocs leave their coprocs at once, and it stays as it is for whoever looks into it,
        or does what `on_crash` of its file says.

        Args:
            why: for people; what is longer than 1024 bytes is cut.

        Raises:
            DomainGone: there is no such domain any more.
            RemoteRefusal, RemoteUnavailable: the toolstack refuses, or does not answer.
        """
        self._owner.crash(why)

    # --- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnects. The domain itself goes on existing."""
        for vcoproc in self._vcoprocs.values():
            vcoproc.close()
        self._link.close()
        for region in self._regions:
            region.close()

    def __enter__(self) -> Domain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
