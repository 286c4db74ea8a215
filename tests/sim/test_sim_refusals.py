"""All cores together on a coprocessor that refuses to take vcoprocs in, and to be left.

The platform is the real ``vcoproc,refuse`` around the fake one. What it answers is written down
beside it, and the scheduler's books must say that, to the nanosecond.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from sim_domain import Work
from sim_world import World

from vcoproc.limits import MS, SWITCH_IN_NS_MIN, US
from vcoproc.testing.network import Faults
from vcoproc_scheduler.accounting import AccountView
from vcoproc_scheduler.analysis import Member, Question, analyse
from vcoproc_sim.executor import BURST_INSTRUCTIONS
from vcoproc_sim.platforms.api import Busy, Platform, SwitchResult
from vcoproc_sim.platforms.refusals import RefusalPlan
from vcoproc_sim.platforms.refuse import Refuse
from vcoproc_sim.testing.fake_platform import Costs, StepClock

LINKS = Faults(delay_ns=(20 * US, 60 * US), through_codec=True)
HOG = Work(jobs=None, length=(60_000, 65_000), think_ns=(1, 1), ahead=4)
SLICE_NS = 1 * MS
BURST_NS = BURST_INSTRUCTIONS * 10
LATE_NS = BURST_NS + 130 * US
"""Beyond the phases of a switch: a burst, two messages, and rounds of the loop."""


@dataclass
class Entry:
    """The hardware's side of one refusal at switch-in."""

    vcoproc: int
    began_ns: int
    answers: int = 0
    ended_ns: int = 0
    taken_in: bool = False


@dataclass
class Refusing:
    """One coproc that refuses as planned, and hogs on it, a domain each, numbered from 1.

    entries: what it did not take in, oldest first.
    """

    plan: RefusalPlan
    count: int
    bound_ns: int = 2 * MS
    seed: int = 1
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(self.seed, LINKS)
        self.node = self.world.add_coproc(
            "dsp0", slice_ns=SLICE_NS, refusal_ns=self.bound_ns, wrap=self._wrap
        )
        self.scheduler = self.world.schedulers["dsp0"]
        for domid in range(1, self.count + 1):
            self.world.add_domain(domid)
            self.world.add_vcoproc(domid, "dsp0", HOG)

    def _wrap(self, inner: Platform, clock: StepClock) -> Platform:
        refuse = Refuse(inner, self.plan, clock)
        ask = refuse.switch_to

        def switch_to(vcoproc_id: int) -> SwitchResult:
            attempt_ns = clock.now_ns - Costs().mmu_ns
            result = ask(vcoproc_id)
            self._answered(vcoproc_id, attempt_ns, clock.now_ns, isinstance(result, Busy))
            return result

        refuse.switch_to = switch_to  # type: ignore[method-assign]
        return refuse

    def _answered(self, vcoproc: int, attempt_ns: int, now_ns: int, busy: bool) -> None:
        last = self.entries[-1] if self.entries else None
        patience_ns = max(self.bound_ns, SWITCH_IN_NS_MIN)
        if last is not None and (last.taken_in or last.ended_ns - last.began_ns >= patience_ns):
            last = None  # what comes now is another turn
        if busy and last is None:
            last = Entry(vcoproc, attempt_ns)
            self.entries.append(last)
        if last is None:
            return
        assert last.vcoproc == vcoproc, "round robin wants nobody else meanwhile"
        last.answers += busy
        last.taken_in = not busy
        last.ended_ns = now_ns if busy else attempt_ns

    def accounts(self) -> dict[int, AccountView]:
        views = self.scheduler.core.view(self.world.now_ns).vcoprocs
        return {each.vcoproc: each.account for each in views}


def at(where: str, kind: str, *times_us: int, **others: str) -> RefusalPlan:
    """As a device tree has it."""
    properties = {"us": " ".join(map(str, times_us)), "at": where, **others}
    parameters = {f"vcoproc,refusal-{name}": value for name, value in properties.items()}
    return RefusalPlan.read(parameters | {"vcoproc,refusal": kind})


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in", "both"])
@pytest.mark.parametrize(
    ("kind", "times_us"), [("uniform", (1, 3000)), ("heavy-tail", (50, 20_000))]
)
def test_the_books_say_what_the_hardware_did(
    where: str, kind: str, times_us: tuple[int, int]
) -> None:
    made = Refusing(at(where, kind, *times_us, percent="60"), 3)
    made.world.run(1500 * MS)
    while made.node.executor.turn is None:  # until none is under way
        made.world.run(100 * US)
    made.world.run(100 * US)
    accounts = made.accounts()
    for vcoproc, account in accounts.items():
        mine = [each for each in made.entries if each.vcoproc == vcoproc]
        lengths_ns = [each.ended_ns - each.began_ns for each in mine]
        figures = account.switch_in_refusals
        assert len(mine) > 50
        assert (figures.count, sum(figures.counts)) == (len(mine), len(mine))
        assert figures.busy_count == sum(each.answers for each in mine)
        assert figures.given_up_count == sum(not each.taken_in for each in mine) > 0
        assert (figures.total_ns, figures.max_ns) == (sum(lengths_ns), max(lengths_ns))
        assert figures.max_ns <= made.bound_ns + 1 * US + Costs().mmu_ns
        below = sum(length_ns < 512 * US for length_ns in lengths_ns)
        assert sum(figures.counts[:10]) == below, "less than 1, 2, 4, ... 512 us"
        assert account.refused_ns == figures.total_ns + account.refusals.total_ns
        assert (account.refusals.count > 0) == (where == "both")
    # No time of the coproc is counted twice, and none is missing but that of the messages.
    used_ns = sum(each.run_ns + each.switch_ns + each.refused_ns for each in accounts.values())
    elapsed_ns = max(each.elapsed_ns for each in accounts.values())
    given_up = sum(each.switch_in_refusals.given_up_count for each in accounts.values())
    assert elapsed_ns - (given_up + 10) * LATE_NS < used_ns <= elapsed_ns + LATE_NS


def test_who_is_taken_in_late_pays_and_the_others_have_whole_slices() -> None:
    made = Refusing(at("in", "always", 1500, contexts="1"), 3)
    made.world.run(500 * MS)
    accounts = made.accounts()
    assert accounts[1].refused_ns > 100 * MS
    assert accounts[1].switch_in_refusals.given_up_count == 0
    for vcoproc in (2, 3):
        assert (accounts[vcoproc].refused_ns, accounts[vcoproc].switch_in_refusals.count) == (0, 0)
    turns = made.scheduler.turns[3:]
    lengths_ns = [turn.ended_ns - turn.began_ns for turn in turns]
    assert min(lengths_ns) >= SLICE_NS, "all slices are whole, also of who was refused"
    assert max(lengths_ns) <= SLICE_NS + LATE_NS
    assert {turn.vcoproc for turn in turns} == {1, 2, 3}


def test_who_is_never_taken_in_takes_nobody_along() -> None:
    made = Refusing(at("both", "hang", contexts="1"), 3)
    made.world.run(600 * MS)
    accounts = made.accounts()
    figures = accounts[1].switch_in_refusals
    assert (accounts[1].run_ns, accounts[1].switches) == (0, 0)
    assert figures.given_up_count == figures.count > 100
    assert accounts[1].wait_max_ns > 590 * MS, "it has waited all the time"
    # Each round has two slices, and one turn that is given up; the messages about that are late.
    round_ns = 2 * SLICE_NS + made.bound_ns + 5 * LATE_NS
    for vcoproc in (2, 3):
        assert accounts[vcoproc].refused_ns == 0
        assert accounts[vcoproc].wait_max_ns <= round_ns - SLICE_NS
        assert accounts[vcoproc].run_ns >= 600 * MS // round_ns * SLICE_NS
    assert accounts[1].wakes > 100, "each time it is told anew that it wants to run"


@pytest.mark.parametrize(("where", "bound_ns"), [("in", 500 * US), ("both", 2 * MS)])
def test_the_longest_wait_is_within_a_bound_that_reckons_with_switch_in(
    where: str, bound_ns: int
) -> None:
    """Each refusal lasts nearly as long as its bound allows."""
    in_ns = max(bound_ns, SWITCH_IN_NS_MIN)
    made = Refusing(at(where, "always", in_ns // US - 20), 3, bound_ns)
    made.world.run(500 * MS)
    accounts = made.accounts()
    assert not any(each.switch_in_refusals.given_up_count for each in accounts.values())
    members = {
        vcoproc: Member({"slice_us": 0}, observed_wait_ns=account.wait_max_ns)
        for vcoproc, account in accounts.items()
    }
    switch_ns = made.scheduler.core.schedule(made.world.now_ns).switch_max_ns + LATE_NS
    question = Question("rr", SLICE_NS, {}, members, switch_ns, bound_ns + in_ns, in_ns)
    assert [each.kept for each in analyse(question)] == [True] * 3
    to_leave_only = Question("rr", SLICE_NS, {}, members, switch_ns, bound_ns)
    assert [each.kept for each in analyse(to_leave_only)] == [False] * 3
