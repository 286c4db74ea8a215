"""The irq-router without its sockets: whose every interrupt is, and when it is injected.

Theory of operation:
    A coproc says what its lines do, by vcoproc: the coproc knows in which switch epoch a line rose,
    so the vcoproc in the message is the one that caused it, whoever is on the hardware by now. The
    lines of a vcoproc belong to one domain. A line that wants to be injected is injected in the
    same step if its domain takes it (listens, is not paused, has room), and waits in the domain's
    queue if not. At most one injection of a line is unfinished, so everything is bounded by the
    number of lines.
Invariants:
    Between two steps the queue of a domain that takes interrupts is empty; that of another one
    holds exactly the lines that are enabled and wait, in the order in which they began to.
    An `Inject` goes to the domain that the line is mapped to.
Not handled:
    A restart of the irq-router itself: an edge that it had acknowledged to the coproc and not yet
    delivered is lost with it. Levels are said again by the coprocs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    LimitExceeded,
    NotFound,
)
from vcoproc.limits import (
    DOMAINS_MAX,
    DOMID_FIRST,
    DOMID_MAX,
    LINES_PER_VCOPROC_MAX,
)
from vcoproc.model.irq_line import IrqLine
from vcoproc.wire.messages import Eoi, Inject, LineLevel, LineSync, Resample
from vcoproc_irq_router.early import EarlyLines, EarlyMessages
from vcoproc_irq_router.events import (
    AddDomain,
    CoprocDown,
    CoprocSaid,
    DomainDown,
    DomainRoom,
    DomainSaid,
    DomainUp,
    DropDomain,
    Effect,
    Event,
    LineView,
    MapLines,
    MoveLines,
    PauseDomain,
    RemoveDomain,
    ResumeDomain,
    SendInject,
    SendResample,
    UnmapLines,
)
from vcoproc_irq_router.invariants import check_router
from vcoproc_irq_router.owners import Domain, Vcoproc, check_coproc, check_lines

CREDENTIAL_BYTES_MIN: Final = 16
CREDENTIAL_BYTES_MAX: Final = 64


class IrqRouterCore:
    """See the module.

    Args:
        validate: check the invariants after each step; for tests, costs time.
    """

    def __init__(self, *, validate: bool = False) -> None:
        self.early = EarlyMessages()
        self.guest_error_count = 0
        """Messages of domains about an interrupt that they do not have, or that is not active."""
        self.starved: set[int] = set()
        """Domains that listen and have no room: to be told (`DomainRoom`) when they have."""
        self._domains: dict[int, Domain] = {}
        self._vcoprocs: dict[int, Vcoproc] = {}
        self._refused_count = 0
        self._validate = validate
        self._now_ns = 0

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        """Takes an event; gives what is to be done, in that order.

        Raises:
            RequestError: a control event is refused; nothing has changed.
        """
        assert now_ns >= self._now_ns
        self._now_ns = now_ns
        effects = _HANDLERS[type(event)](self, event)
        if self._validate:
            self.check_invariants()
        return effects

    def next_deadline_ns(self) -> None:
        """Nothing here happens by time alone."""

    @property
    def refused_count(self) -> int:
        """Messages about another coproc's vcoproc, or a line that is not of that kind."""
        return self._refused_count + self.early.refused_count

    def paused_domids(self) -> list[int]:
        return [domain.domid for domain in self._domains.values() if domain.paused]

    def credentials(self) -> Iterator[tuple[int, bytes]]:
        """Each domain's domid and secret."""
        return ((domain.domid, domain.credential) for domain in self._domains.values())

    def list_lines(self) -> list[LineView]:
        """All lines, by domain and interrupt number."""
        return [
            LineView(
                domid, line.vcoproc_id, line.line, irq, line.level, line.high, line.pending,
                line.active, line.enabled, line.raised_count, line.injected_count,
                line.merged_count, self._vcoprocs[line.vcoproc_id].coproc,
            )
            for domid, domain in sorted(self._domains.items())
            for irq, line in sorted(domain.lines.items())
        ]  # fmt: skip

    # --- hot path ---------------------------------------------------------------------------------

    def _offer(self, domain: Domain, line: IrqLine) -> list[Effect]:
        """To be called after every change of a line."""
        if not line.deliverable:
            domain.waiting.pop(line.irq, None)
            return []
        if domain.room and not domain.paused:
            return [self._inject(domain, line)]
        domain.waiting.setdefault(line.irq, line)
        return []

    def _inject(self, domain: Domain, line: IrqLine) -> Effect:
        line.inject()
        domain.room -= 1
        if not domain.room:
            self.starved.add(domain.domid)
        return SendInject(domain.domid, Inject(line.irq, line.level, line.raised_ns))

    def _release(self, domain: Domain) -> list[Effect]:
        """Injects what waits, as far as the domain takes it."""
        effects: list[Effect] = []
        waiting = domain.waiting
        while waiting and domain.room and not domain.paused:
            effects.append(self._inject(domain, waiting.pop(next(iter(waiting)))))
        return effects

    def _coproc_said(self, event: CoprocSaid) -> list[Effect]:
        coproc, message = event
        vcoproc = self._vcoprocs.get(message.vcoproc)
        if vcoproc is None:
            self.early.keep(coproc, message)
            return []
        if vcoproc.coproc != coproc:
            self._refused_count += 1
            return []
        if isinstance(message, LineSync):
            return self._sync(vcoproc, message)
        number = message.line
        line = vcoproc.lines[number] if number < LINES_PER_VCOPROC_MAX else None
        if line is None or line.level is not isinstance(message, LineLevel):
            self._refused_count += 1
            return []
        if isinstance(message, LineLevel):
            line.set_level(message.high, message.raised_ns)
        else:
            line.pulse(message.raised_ns)
        return self._offer(vcoproc.domain, line)

    def _sync(self, vcoproc: Vcoproc, message: LineSync) -> list[Effect]:
        effects: list[Effect] = []
        rest = message.high_mask
        for line in vcoproc.lines:
            if line is not None and line.level:
                bit = 1 << line.line
                # When it rose is not said; 0 is "unknown" for whoever measures latency.
                line.set_level(bool(message.high_mask & bit), 0)
                rest &= ~bit
                effects += self._offer(vcoproc.domain, line)
        if rest:
            self._refused_count += 1
        return effects

    def _domain_said(self, event: DomainSaid) -> list[Effect]:
        domain = self._domains.get(event.domid)
        if domain is None:  # its last words, after it was removed
            return []
        message = event.message
        line = domain.lines.get(message.irq)
        if isinstance(message, Eoi):
            if line is None or not line.active:
                self.guest_error_count += 1
                return []
            line.end()
            if line.sampling:
                vcoproc = self._vcoprocs[line.vcoproc_id]
                return [SendResample(vcoproc.coproc, Resample(line.vcoproc_id, line.line))]
        else:
            if line is None:
                self.guest_error_count += 1
                return []
            line.enabled = message.enabled
        return self._offer(domain, line)

    def _catch_up(self, vcoproc: Vcoproc, early: EarlyLines) -> list[Effect]:
        """Does for a vcoproc that is mapped now what its coproc said before."""
        effects: list[Effect] = []
        for number, line in enumerate(vcoproc.lines):
            pulsed = early.pulses.get(number)
            risen_ns = early.high.get(number)
            if (pulsed and (line is None or line.level)) or (
                risen_ns is not None and (line is None or not line.level)
            ):
                self._refused_count += 1
            if line is None:
                continue
            if pulsed and not line.level:
                line.pulse(pulsed[0], times=pulsed[1])
            elif risen_ns is not None and line.level:
                line.set_level(True, risen_ns)
            effects += self._offer(vcoproc.domain, line)
        return effects

    # --- links come and go ------------------------------------------------------------------------

    def _coproc_down(self, event: CoprocDown) -> list[Effect]:
        # It says its levels again when it is back. Without this, a domain would be interrupted for
        # ever by a line of a coproc that it cannot reach to make it fall.
        for vcoproc in self._vcoprocs.values():
            if vcoproc.coproc == event.coproc:
                for line in vcoproc.lines:
                    if line is not None and line.level:
                        line.set_level(False, 0)
                        self._offer(vcoproc.domain, line)
        self.early.drop_levels(event.coproc)
        return []

    def _domain_up(self, event: DomainUp) -> list[Effect]:
        domain = self._domains[event.domid]
        if domain.listening:
            self._lose(domain)
        domain.listening = True
        known, domain.epoch = domain.epoch, event.epoch
        if known and event.epoch != known:
            # A new incarnation knows nothing of what the old one had masked. The first one has what
            # control said.
            for line in domain.lines.values():
                line.enabled = True
                if line.deliverable:
                    domain.waiting.setdefault(line.irq, line)
        return self._room(domain, event.room)

    def _domain_down(self, event: DomainDown) -> list[Effect]:
        domain = self._domains.get(event.domid)
        if domain is not None and domain.listening:
            self._lose(domain)
        return []

    def _lose(self, domain: Domain) -> None:
        domain.listening = False
        domain.room = 0
        self.starved.discard(domain.domid)
        lost: dict[int, IrqLine] = {}
        for irq, line in domain.lines.items():
            was_active = line.active
            line.lose()
            if was_active and line.deliverable and irq not in domain.waiting:
                lost[irq] = line
        # What was injected already comes before what never was.
        domain.waiting = lost | domain.waiting

    def _domain_room(self, event: DomainRoom) -> list[Effect]:
        domain = self._domains.get(event.domid)
        if domain is None or not domain.listening:
            return []
        return self._room(domain, event.room)

    def _room(self, domain: Domain, room: int) -> list[Effect]:
        assert room >= 0
        domain.room = room
        if room:
            self.starved.discard(domain.domid)
        else:
            self.starved.add(domain.domid)
        return self._release(domain)

    # --- control ----------------------------------------------------------------------------------

    def _add_domain(self, event: AddDomain) -> list[Effect]:
        if not DOMID_FIRST <= event.domid <= DOMID_MAX:
            raise InvalidArgument("domid", f"{event.domid} is not {DOMID_FIRST} to {DOMID_MAX}")
        if not CREDENTIAL_BYTES_MIN <= len(event.credential) <= CREDENTIAL_BYTES_MAX:
            raise InvalidArgument(
                "credential", f"not {CREDENTIAL_BYTES_MIN} to {CREDENTIAL_BYTES_MAX} bytes long"
            )
        known = self._domains.get(event.domid)
        if known is not None:
            if known.credential != event.credential:
                raise AlreadyExists("domain", str(event.domid))
            return []
        if any(domain.credential == event.credential for domain in self._domains.values()):
            raise InvalidArgument("credential", "is another domain's")
        if len(self._domains) >= DOMAINS_MAX:
            raise LimitExceeded("domains", DOMAINS_MAX)
        self._domains[event.domid] = Domain(event.domid, event.credential)
        return []

    def _remove_domain(self, event: RemoveDomain) -> list[Effect]:
        domain = self._domains.pop(event.domid, None)
        if domain is None:
            return []
        self.starved.discard(event.domid)
        self._vcoprocs = {
            vcoproc_id: vcoproc
            for vcoproc_id, vcoproc in self._vcoprocs.items()
            if vcoproc.domain is not domain
        }
        return [DropDomain(event.domid)] if domain.listening else []

    def _map_lines(self, event: MapLines) -> list[Effect]:
        domain = self._domains.get(event.domid)
        if domain is None:
            raise NotFound("domain", str(event.domid))
        known = self._vcoprocs.get(event.vcoproc_id)
        if known is not None:
            if not known.is_as(event):
                raise AlreadyExists("vcoproc", str(event.vcoproc_id))
            return []
        check_lines(event, domain)
        vcoproc = self._vcoprocs[event.vcoproc_id] = Vcoproc(domain, event)
        for mapped in event.lines:
            line = IrqLine(event.vcoproc_id, mapped.line, mapped.irq, level=mapped.level)
            line.enabled = not mapped.masked
            if mapped.pending and not mapped.level:
                line.pulse(0)  # when it rose is not known any more; early edges merge with this one
            vcoproc.lines[mapped.line] = line
            domain.lines[mapped.irq] = line
        early = self.early.take(event.coproc, event.vcoproc_id) or EarlyLines()
        return self._catch_up(vcoproc, early)

    def _unmap_lines(self, event: UnmapLines) -> list[Effect]:
        vcoproc = self._vcoprocs.pop(event.vcoproc_id, None)
        if vcoproc is not None:
            for mapped in vcoproc.mapped:
                del vcoproc.domain.lines[mapped.irq]
                vcoproc.domain.waiting.pop(mapped.irq, None)
        self.early.forget(event.vcoproc_id)
        return []

    def _move_lines(self, event: MoveLines) -> list[Effect]:
        check_coproc(event.coproc)
        vcoproc = self._vcoprocs.get(event.vcoproc_id)
        if vcoproc is None:
            raise NotFound("vcoproc", str(event.vcoproc_id))
        if vcoproc.coproc == event.coproc:
            return []
        vcoproc.coproc = event.coproc
        # The levels are the former one's word. If the new one is not there, it says them when it
        # comes.
        return [
            SendResample(event.coproc, Resample(event.vcoproc_id, mapped.line))
            for mapped in vcoproc.mapped
            if mapped.level
        ]

    def _pause_domain(self, event: PauseDomain) -> list[Effect]:
        self._known(event.domid).paused = True
        return []

    def _resume_domain(self, event: ResumeDomain) -> list[Effect]:
        domain = self._known(event.domid)
        domain.paused = False
        return self._release(domain)

    def _known(self, domid: int) -> Domain:
        domain = self._domains.get(domid)
        if domain is None:
            raise NotFound("domain", str(domid))
        return domain

    def check_invariants(self) -> None:
        """Raises InvariantViolation if one of the module's invariants does not hold."""
        check_router(self._domains, self._vcoprocs, self.starved, self.early)


_HANDLERS: Final[dict[type[Any], Callable[[IrqRouterCore, Any], list[Effect]]]] = {
    CoprocSaid: IrqRouterCore._coproc_said,
    DomainSaid: IrqRouterCore._domain_said,
    CoprocDown: IrqRouterCore._coproc_down,
    DomainUp: IrqRouterCore._domain_up,
    DomainDown: IrqRouterCore._domain_down,
    DomainRoom: IrqRouterCore._domain_room,
    AddDomain: IrqRouterCore._add_domain,
    RemoveDomain: IrqRouterCore._remove_domain,
    MapLines: IrqRouterCore._map_lines,
    UnmapLines: IrqRouterCore._unmap_lines,
    MoveLines: IrqRouterCore._move_lines,
    PauseDomain: IrqRouterCore._pause_domain,
    ResumeDomain: IrqRouterCore._resume_domain,
}
