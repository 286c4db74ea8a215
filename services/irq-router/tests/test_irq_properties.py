"""Random histories against an oracle that knows each line only by what the domain is owed.

An edge line owes the domain an injection when an edge came since the last one (`new`), or when a
connection broke while the domain was handling one (`lost`). A level line owes one while it is high.
Nothing is owed while the domain is handling the last one (`taken`), nor while it is masked.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vcoproc.errors import RequestError
from vcoproc.wire.messages import Eoi, LineEdge, LineEnable, LineLevel, LineSync, Resample
from vcoproc_irq_router.core import IrqRouterCore
from vcoproc_irq_router.events import (
    AddDomain,
    CoprocDown,
    CoprocSaid,
    DomainDown,
    DomainRoom,
    DomainSaid,
    DomainUp,
    Event,
    MapLines,
    MappedLine,
    MoveLines,
    PauseDomain,
    RemoveDomain,
    ResumeDomain,
    SendInject,
    SendResample,
    UnmapLines,
)


@dataclass
class OracleLine:
    level: bool
    high: bool = False
    new: bool = False
    lost: bool = False
    taken: bool = False
    enabled: bool = True
    sampling: bool = False
    """EOI was said while it was high; the coproc was asked and has not said the level since."""

    def owed(self) -> bool:
        wants = self.pending if self.level else (self.new or self.lost)
        return wants and self.enabled and not self.taken

    def injected(self) -> None:
        assert self.owed()
        self.taken = True
        if self.lost:
            self.lost = False
        else:
            self.new = False

    def end(self) -> bool:
        """EOI; False: there was nothing to end."""
        if self.taken:
            self.taken = False
            self.sampling = self.level and self.high
        elif self.lost:
            self.lost = False
        else:
            return False
        return True

    def broken(self) -> None:
        self.lost = self.lost or (self.taken and not self.level)
        self.taken = False

    @property
    def pending(self) -> bool:
        return self.high and not self.sampling if self.level else self.new

    @property
    def active(self) -> bool:
        return self.taken or self.lost


@dataclass
class OracleDomain:
    lines: dict[int, OracleLine] = field(default_factory=dict)
    listening: bool = False
    paused: bool = False
    room: int = 0
    epoch: int = 0
    guest_errors: int = 0

    def owed(self) -> set[int]:
        return {irq for irq, line in self.lines.items() if line.owed()}

    def due_count(self) -> int:
        """How many injections must come now."""
        return 0 if self.paused or not self.listening else min(self.room, len(self.owed()))


DOMIDS = (1, 2)
# vcoproc: (domain, coproc, lines as (line, irq, level)). Both domains use the same numbers.
VCOPROCS = {
    11: (1, "dsp0", ((0, 64, False), (1, 65, True))),
    12: (2, "dsp0", ((0, 64, False), (1, 65, True))),
    13: (1, "dsp1", ((0, 66, True), (31, 67, False))),
}
LINES = [(vcoproc, line) for vcoproc, (_, _, lines) in VCOPROCS.items() for line, _, _ in lines]
domids = st.sampled_from(DOMIDS)
vcoprocs = st.sampled_from(sorted(VCOPROCS))
lines = st.sampled_from(LINES)
irqs = st.sampled_from((64, 65, 66, 67, 99))


def seldom(machine: Routing) -> bool:
    """For what undoes much: long histories between two of them reach more."""
    return machine.now_ns % 5 == 0


class Routing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = IrqRouterCore(validate=True)
        self.now_ns = 0
        self.domains: dict[int, OracleDomain] = {}
        self.mapped: set[int] = set()
        self.coproc_of = {vcoproc: coproc for vcoproc, (_, coproc, _) in VCOPROCS.items()}
        self.early: dict[int, dict[int, OracleLine]] = {}
        self.refused = 0
        self.questions_due: list[tuple[str, Resample]] = []
        for domid in DOMIDS:
            self.step(AddDomain(domid, bytes([domid]) * 16))
            self.domains[domid] = OracleDomain()

    @initialize(ready=st.booleans())
    def often_begin_with_everything_set_up(self, ready: bool) -> None:
        if ready:
            for vcoproc in VCOPROCS:
                self.map_lines(vcoproc)
            for domid in DOMIDS:
                self.domain_up(domid, 1, 3)

    def step(self, event: Event) -> None:
        """Does it, and checks that exactly what is owed is injected, once, to its owner."""
        self.now_ns += 1
        effects = self.core.step(event, self.now_ns)
        due = {domid: domain.due_count() for domid, domain in self.domains.items()}
        for effect in effects:
            if isinstance(effect, SendResample):
                assert (effect.coproc, effect.message) in self.questions_due
                self.questions_due.remove((effect.coproc, effect.message))
                continue
            if not isinstance(effect, SendInject):
                continue
            domain = self.domains[effect.domid]
            assert domain.listening and not domain.paused and domain.room > 0
            line = domain.lines[effect.message.irq]
            assert line.level == effect.message.level
            line.injected()
            domain.room -= 1
            due[effect.domid] -= 1
        assert not any(due.values()), f"{event}: injections missing or too many: {due}"
        assert not self.questions_due

    def oracle_line(self, vcoproc: int, line: int) -> OracleLine:
        """The oracle's line, or the one that collects what is said before it is mapped."""
        domid, _coproc, mapped = VCOPROCS[vcoproc]
        irq, level = next((irq, level) for index, irq, level in mapped if index == line)
        if vcoproc in self.mapped:
            return self.domains[domid].lines[irq]
        early = self.early.setdefault(vcoproc, {})
        return early.setdefault(line, OracleLine(level))

    @rule(vcoproc=vcoprocs, pending=st.booleans(), masked=st.booleans())
    def map_lines(self, vcoproc: int, pending: bool = False, masked: bool = False) -> None:
        domid, _coproc, mapped = VCOPROCS[vcoproc]
        lines = tuple(MappedLine(*line, pending, masked) for line in mapped)
        event = MapLines(domid, vcoproc, self.coproc_of[vcoproc], lines)
        if domid not in self.domains:
            with pytest.raises(RequestError):
                self.step(event)
            return
        if vcoproc not in self.mapped:
            early = self.early.pop(vcoproc, {})
            for line, irq, level in mapped:
                new = early.get(line, OracleLine(level))
                new.enabled = not masked
                new.new |= pending and not level
                self.domains[domid].lines[irq] = new
            self.mapped.add(vcoproc)
        self.step(event)

    @rule(vcoproc=vcoprocs)
    @precondition(seldom)
    def unmap_lines(self, vcoproc: int) -> None:
        domid, _coproc, mapped = VCOPROCS[vcoproc]
        if vcoproc in self.mapped:
            for _line, irq, _level in mapped:
                del self.domains[domid].lines[irq]
            self.forget({vcoproc})
        self.early.pop(vcoproc, None)
        self.step(UnmapLines(vcoproc))

    def forget(self, vcoprocs: set[int]) -> None:
        self.mapped -= vcoprocs
        self.coproc_of |= {vcoproc: VCOPROCS[vcoproc][1] for vcoproc in vcoprocs}

    @rule(vcoproc=vcoprocs, coproc=st.sampled_from(("dsp0", "dsp1", "dsp2")))
    def move_lines(self, vcoproc: int, coproc: str) -> None:
        if vcoproc not in self.mapped:
            with pytest.raises(RequestError):
                self.step(MoveLines(vcoproc, coproc))
            return
        if coproc != self.coproc_of[vcoproc]:
            self.coproc_of[vcoproc] = coproc
            for line, _irq, level in VCOPROCS[vcoproc][2]:
                if level:
                    self.questions_due.append((coproc, Resample(vcoproc, line)))
        self.step(MoveLines(vcoproc, coproc))

    @rule(place=lines)
    def said_by_the_former_coproc(self, place: tuple[int, int]) -> None:
        vcoproc, line = place
        former = VCOPROCS[vcoproc][1]
        if vcoproc in self.mapped and former != self.coproc_of[vcoproc]:
            self.refused += 2
            self.step(CoprocSaid(former, LineEdge(vcoproc, line, 0, 0)))
            self.step(CoprocSaid(former, LineSync(vcoproc, 0, 0)))

    @rule(vcoproc=vcoprocs, other_domid=domids)
    def map_differently(self, vcoproc: int, other_domid: int) -> None:
        if vcoproc in self.mapped:
            with pytest.raises(RequestError):
                self.step(MapLines(other_domid, vcoproc, "dsp9", ()))

    @rule(place=lines)
    def edge_or_level_up(self, place: tuple[int, int]) -> None:
        self.say(place, high=True)

    @rule(place=lines)
    def level_down(self, place: tuple[int, int]) -> None:
        if self.oracle_line(*place).level:
            self.say(place, high=False)

    def say(self, place: tuple[int, int], *, high: bool) -> None:
        vcoproc, line = place
        coproc = self.coproc_of[vcoproc]
        expected = self.oracle_line(vcoproc, line)
        if expected.level:
            expected.high, expected.sampling = high, False
            self.step(CoprocSaid(coproc, LineLevel(vcoproc, line, high, 0, self.now_ns)))
        else:
            expected.new = True
            self.step(CoprocSaid(coproc, LineEdge(vcoproc, line, 0, self.now_ns)))

    @rule(place=lines)
    def said_by_another_coproc(self, place: tuple[int, int]) -> None:
        vcoproc, line = place
        if vcoproc in self.mapped:
            self.refused += 1
            self.step(CoprocSaid("stranger", LineEdge(vcoproc, line, 0, 0)))

    @rule(place=lines)
    def wrong_trigger(self, place: tuple[int, int]) -> None:
        vcoproc, line = place
        if vcoproc in self.mapped:
            self.refused += 1
            level = self.oracle_line(vcoproc, line).level
            message = (
                LineEdge(vcoproc, line, 0, 0) if level else LineLevel(vcoproc, line, True, 0, 0)
            )
            self.step(CoprocSaid(self.coproc_of[vcoproc], message))

    @rule(vcoproc=vcoprocs, mask=st.integers(0, 3))
    def sync(self, vcoproc: int, mask: int) -> None:
        _domid, _coproc, mapped = VCOPROCS[vcoproc]
        for line, _irq, level in mapped:
            if level:
                said = self.oracle_line(vcoproc, line)
                said.high, said.sampling = bool(mask >> line & 1), False
            else:
                mask &= ~(1 << line)
        known = sum(1 << line for line, _irq, level in mapped if level)
        self.step(CoprocSaid(self.coproc_of[vcoproc], LineSync(vcoproc, mask & known, 0)))

    @rule(coproc=st.sampled_from(("dsp0", "dsp1", "dsp2")))
    @precondition(seldom)
    def coproc_down(self, coproc: str) -> None:
        for vcoproc, (_domid, _owner, mapped) in VCOPROCS.items():
            for line, _irq, level in mapped:
                if self.coproc_of[vcoproc] == coproc and level:
                    said = self.oracle_line(vcoproc, line)
                    said.high = said.sampling = False
        self.step(CoprocDown(coproc))

    @rule(domid=domids, epoch=st.integers(1, 2), room=st.integers(0, 3))
    @precondition(seldom)
    def domain_up(self, domid: int, epoch: int, room: int) -> None:
        domain = self.domains.get(domid)
        if domain is None:
            return
        if domain.listening:
            for line in domain.lines.values():
                line.broken()
        if domain.epoch and epoch != domain.epoch:
            for line in domain.lines.values():
                line.enabled = True
        domain.listening, domain.epoch, domain.room = True, epoch, room
        self.step(DomainUp(domid, epoch, room))

    @rule(domid=domids)
    @precondition(seldom)
    def domain_down(self, domid: int) -> None:
        if domain := self.domains.get(domid):
            if domain.listening:
                for line in domain.lines.values():
                    line.broken()
            domain.listening, domain.room = False, 0
        self.step(DomainDown(domid))

    @rule(domid=domids, room=st.integers(1, 3))
    def room(self, domid: int, room: int) -> None:
        domain = self.domains.get(domid)
        if domain and domain.listening and not domain.room:
            assert domid in self.core.starved
            domain.room = room
            self.step(DomainRoom(domid, room))

    @rule(domid=domids)
    @precondition(seldom)
    def pause(self, domid: int) -> None:
        if domain := self.domains.get(domid):
            domain.paused = True
            self.step(PauseDomain(domid))

    @rule(domid=domids)
    def resume(self, domid: int) -> None:
        if domain := self.domains.get(domid):
            domain.paused = False
            self.step(ResumeDomain(domid))

    @rule()
    def coprocs_answer(self) -> None:
        for vcoproc, (_domid, _coproc, mapped) in VCOPROCS.items():
            for line, _irq, level in mapped:
                if level and self.oracle_line(vcoproc, line).sampling:
                    self.say((vcoproc, line), high=self.oracle_line(vcoproc, line).high)

    @rule(domid=domids, irq=irqs)
    def eoi(self, domid: int, irq: int) -> None:
        domain = self.domains.get(domid)
        if domain is None:
            return
        line = domain.lines.get(irq)
        if line is None or not line.end():
            domain.guest_errors += 1
        else:
            self.expect_question(domid, irq)
        self.step(DomainSaid(domid, Eoi(irq)))

    def expect_question(self, domid: int, irq: int) -> None:
        """An EOI while the line is high as far as is known: its coproc, and no other, is asked."""
        for vcoproc, (owner, _coproc, mapped) in VCOPROCS.items():
            for line, number, _level in mapped:
                if (owner, number) == (domid, irq) and self.domains[domid].lines[irq].sampling:
                    question = Resample(vcoproc, line)
                    self.questions_due.append((self.coproc_of[vcoproc], question))

    @rule(domid=domids)
    def eoi_of_all_taken(self, domid: int) -> None:
        domain = self.domains.get(domid)
        if domain is None:
            return
        for irq in [irq for irq, line in domain.lines.items() if line.taken]:
            domain.lines[irq].end()
            self.expect_question(domid, irq)
            self.step(DomainSaid(domid, Eoi(irq)))

    @rule(domid=domids, irq=irqs, enabled=st.booleans())
    def enable(self, domid: int, irq: int, enabled: bool) -> None:
        domain = self.domains.get(domid)
        if domain is None:
            return
        if irq in domain.lines:
            domain.lines[irq].enabled = enabled
        else:
            domain.guest_errors += 1
        self.step(DomainSaid(domid, LineEnable(irq, enabled)))

    removed_guest_errors = 0

    @rule(domid=domids)
    @precondition(seldom)
    def remove_domain_and_add_it_again(self, domid: int) -> None:
        domain = self.domains.pop(domid)
        self.removed_guest_errors += domain.guest_errors
        self.forget({vcoproc for vcoproc in self.mapped if VCOPROCS[vcoproc][0] == domid})
        self.step(RemoveDomain(domid))
        self.domains[domid] = OracleDomain()
        self.step(AddDomain(domid, bytes([domid]) * 16))

    @rule()
    def pickled(self) -> None:
        self.core = pickle.loads(pickle.dumps(self.core))

    @invariant()
    def every_line_is_as_the_oracle_says(self) -> None:
        seen = {
            (view.domid, view.irq): (view.pending, view.active, view.enabled)
            for view in self.core.list_lines()
        }
        want = {
            (domid, irq): (line.pending, line.active, line.enabled)
            for domid, domain in self.domains.items()
            for irq, line in domain.lines.items()
        }
        assert seen == want
        errors = sum(domain.guest_errors for domain in self.domains.values())
        paused = {domid for domid, domain in self.domains.items() if domain.paused}
        assert set(self.core.paused_domids()) == paused
        assert self.core.guest_error_count == errors + self.removed_guest_errors
        assert self.core.refused_count == self.refused


TestRouting = Routing.TestCase
TestRouting.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, derandomize=True
)
