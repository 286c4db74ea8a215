"""What each algorithm guarantees, as far as theory tells: shares, waits and response times.

Theory of operation:
    For each algorithm there is a function from parameters to bounds. They hold whatever the others
    do, as long as no switch takes longer than `switch_ns`, and the refusals of no turn, to be taken
    in and to leave, longer than `refusal_ns` together; with figures that were observed instead of
    promised they are as good as those. The time until an order arrives at the coproc is part of
    `switch_ns`. Who was refused at switch-in until the turn was given up costs the others no more
    than that; its own wait has no bound then.
    rr: the others have a slice each before one's own. priority: the same after the ageing bound.
    edf, fixed: a budget Q in each period P comes at worst right at the beginning of one period and
    right at the end of the next (supply bound of the periodic resource model: Shin, Lee 2003):
    nothing for 2 (P - Q), then Q in each P. arinc653: the table is walked from its worst moment.
    credit: see `policies.credit_bounds`.
Not handled:
    Algorithms of others: no bound is known. A vcoproc of edf that wakes more often than once in a
    period pays for the switches from its own budget; that its bounds hold all the same is tested
    (``test_response_bounds.py``), not proved. Who yields gives up what it was sure of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from vcoproc.limits import MS, SLICE_NS_MIN, US
from vcoproc_scheduler.policies.arinc653 import table_of
from vcoproc_scheduler.policies.credit_bounds import Cap, Contest
from vcoproc_scheduler.policies.edf_admission import Reservation, guaranteed
from vcoproc_scheduler.policy_guard import MIN_RUN

PPM: Final = 1_000_000
_REFUSES_ONCE: Final = "if its refusals of a period take no longer than those of one turn may"


@dataclass(frozen=True, slots=True)
class Member:
    """One vcoproc. parameters: all of its algorithm. work_ns: what it wants to run after a wake.

    observed_wait_ns, observed_response_ns: the longest; the latter for no more than that work.
    """

    parameters: Mapping[str, int]
    work_ns: int = 1 * MS
    observed_wait_ns: int = 0
    observed_response_ns: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """One coproc. parameters: those of scope COPROC, all. members: in the order of being added.

    refusal_ns: of one turn, to be taken in and to leave together. switch_in_refusal_ns: how much of
    that may be to be taken in.
    """

    algorithm: str
    slice_ns: int
    parameters: Mapping[str, int]
    members: Mapping[int, Member]
    switch_ns: int
    refusal_ns: int
    switch_in_refusal_ns: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """None: there is none. share_ppm: of the coproc's time if it always wants to run.

    wait_ns: from wanting the coprocessor until it is its turn. response_ns: from a wake until it
    has run for its `work_ns`. note: why there is no bound, or what to know about it.
    """

    share_ppm: int | None = None
    wait_ns: int | None = None
    response_ns: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """The bounds of one vcoproc, and what was observed."""

    vcoproc: int
    bounds: Bounds
    work_ns: int
    observed_wait_ns: int
    observed_response_ns: int = 0

    @property
    def kept(self) -> bool | None:
        """Whether what was observed is within the bounds; None if there are none."""
        wait_ns, response_ns = self.bounds.wait_ns, self.bounds.response_ns
        if wait_ns is None and response_ns is None:
            return None
        within_wait = wait_ns is None or self.observed_wait_ns <= wait_ns
        within_response = response_ns is None or self.observed_response_ns <= response_ns
        return within_wait and within_response


def analyse(question: Question) -> list[Guarantee]:
    """The guarantees of every vcoproc of a coproc, in the order of the question."""
    bounds_of = ANALYSES.get(question.algorithm, _unknown)
    return [
        Guarantee(
            vcoproc,
            bounds_of(question, vcoproc),
            member.work_ns,
            member.observed_wait_ns,
            member.observed_response_ns,
        )
        for vcoproc, member in question.members.items()
    ]


def _unknown(question: Question, vcoproc: int) -> Bounds:
    return Bounds(note=f"nothing is known about the guarantees of {question.algorithm}")


def _turns(slice_ns: int, wait_ns: int, work_ns: int, note: str = "") -> Bounds:
    """One slice after each wait."""
    turns = -(-work_ns // slice_ns)
    return Bounds(
        share_ppm=PPM * slice_ns // (slice_ns + wait_ns),
        wait_ns=wait_ns,
        response_ns=turns * wait_ns + work_ns,
        note=note,
    )


def _supply(
    budget_ns: int, period_ns: int, work_ns: int, *, late_ns: int = 0, note: str = ""
) -> Bounds:
    """A budget somewhere in each period; late_ns: what comes on top of each wait, once."""
    if budget_ns <= 0:
        return Bounds(share_ppm=0, note="switches and refusals use up its budget")
    gap_ns = period_ns - budget_ns
    periods = -(-work_ns // budget_ns)
    return Bounds(
        share_ppm=PPM * budget_ns // period_ns,
        wait_ns=2 * gap_ns + late_ns,
        response_ns=(periods + 1) * gap_ns + work_ns + late_ns,
        note=note,
    )


def _min_run_ns(question: Question) -> int:
    """For how long nobody is preempted."""
    return question.parameters.get(MIN_RUN, 0) * US


# --- the algorithms -------------------------------------------------------------------------------


def _rr(question: Question, vcoproc: int) -> Bounds:
    slices_ns = {
        each: member.parameters["slice_us"] * US or question.slice_ns
        for each, member in question.members.items()
    }
    own_ns = slices_ns.pop(vcoproc)
    # A turn may begin and end with a refusal: those of the others; and the end of its own last one
    # and the beginning of its next one. One switch may be under way.
    turns = len(question.members)
    wait_ns = sum(slices_ns.values()) + turns * (question.switch_ns + question.refusal_ns)
    return _turns(own_ns, wait_ns, question.members[vcoproc].work_ns)


def _priority(question: Question, vcoproc: int) -> Bounds:
    turn_ns = question.slice_ns + question.switch_ns + question.refusal_ns
    # The aged ones have every other turn at least, the one that has waited longest first.
    turns = 2 * len(question.members)
    wait_ns = question.parameters["max_wait_us"] * US + turns * turn_ns
    if len(question.members) == 1:
        wait_ns = question.switch_ns + question.refusal_ns
    return _turns(question.slice_ns, wait_ns, question.members[vcoproc].work_ns)


def _edf(question: Question, vcoproc: int) -> Bounds:
    switch_us = -(-question.switch_ns // US)
    refusal_us = -(-question.refusal_ns // US)
    for name, needed_us in (("switch_cost_us", switch_us), ("refusal_us", refusal_us)):
        if question.parameters[name] < needed_us:
            return Bounds(note=f"no guarantee with {name} below {needed_us}")
    promised = {
        each: Reservation(
            member.parameters["budget_us"] * US,
            member.parameters["period_us"] * US,
            bool(member.parameters["extratime"]),
        )
        for each, member in question.members.items()
    }
    reserved_ns = question.parameters["switch_cost_us"] * US
    refusal_ns = question.parameters["refusal_us"] * US + _min_run_ns(question)
    if not guaranteed(list(promised.values()), reserved_ns, refusal_ns):
        return Bounds(note="together they are promised more than there is")
    mine = promised[vcoproc]
    # A rest of budget that two switches would use up is given up at a wake; a refusal is its own.
    # Whoever is displaced and comes back may be refused each time, and nobody knows how often.
    return _supply(
        mine.budget_ns - question.refusal_ns - _min_run_ns(question),
        mine.period_ns,
        question.members[vcoproc].work_ns,
        late_ns=2 * reserved_ns,
        note=_REFUSES_ONCE if question.refusal_ns else "",
    )


def _fixed(question: Question, vcoproc: int) -> Bounds:
    period_ns = question.parameters["period_us"] * US
    shares = {
        each: member.parameters["share_permille"] for each, member in question.members.items()
    }
    budget_ns = period_ns * shares[vcoproc] // 1000
    others = len(shares) - 1
    spare_ns = period_ns - period_ns * sum(shares.values()) // 1000
    # One that woke where it was goes beyond its budget until it may be preempted.
    late_ns = question.refusal_ns + min(_min_run_ns(question), question.slice_ns)
    if others * late_ns > spare_ns:
        return Bounds(
            share_ppm=shares[vcoproc] * 1000,
            note="in the long run only: refusals may take more than the shares leave",
        )
    # Its turns in one period: whole slices, and one more on each side. What is left below the
    # shortest slice is carried on.
    turns = -(-budget_ns // question.slice_ns) + 2
    lost_ns = turns * (question.switch_ns + question.refusal_ns)
    net_ns = budget_ns - lost_ns - late_ns - SLICE_NS_MIN
    return _supply(net_ns, period_ns, question.members[vcoproc].work_ns)


def _credit(question: Question, vcoproc: int) -> Bounds:
    weights = {each: member.parameters["weight"] for each, member in question.members.items()}
    mine = weights.pop(vcoproc)
    lost_ns = question.switch_ns + question.refusal_ns
    contest = Contest(mine, tuple(weights.values()), question.slice_ns, lost_ns)
    share_ppm = PPM * mine // contest.total
    member = question.members[vcoproc]
    percent = member.parameters["cap"]
    if not percent:
        return Bounds(
            share_ppm=share_ppm * contest.slice_ns // contest.turn_ns,
            wait_ns=contest.wait_ns(),
            response_ns=contest.response_ns(member.work_ns),
        )
    period_ns = question.parameters["cap_period_us"] * US
    # It may wake where it was, and is not taken from the coprocessor before that time.
    late_ns = lost_ns + _min_run_ns(question)
    cap = Cap(period_ns * percent // 100, period_ns, contest.slice_ns, late_ns, lost_ns)
    return Bounds(
        share_ppm=min(share_ppm, percent * PPM // 100) * cap.kept_ns // cap.quota_ns,
        wait_ns=cap.withheld_ns + contest.wait_ns(),
        response_ns=cap.response_ns(contest, member.work_ns),
    )


def _arinc653(question: Question, vcoproc: int) -> Bounds:
    frame_ns = question.parameters["major_frame_us"] * US
    table = table_of(
        {each: member.parameters for each, member in question.members.items()}, frame_ns
    )
    lost_ns = question.switch_ns + question.refusal_ns
    mine = [
        (window.start_ns + lost_ns, window.end_ns)
        for window in table
        if window.vcoproc_id == vcoproc and window.end_ns - window.start_ns > lost_ns
    ]
    if not mine:
        return Bounds(share_ppm=0, note="it has no window that is longer than a switch")
    per_frame_ns = sum(end_ns - start_ns for start_ns, end_ns in mine)
    work_ns = question.members[vcoproc].work_ns
    frames = (work_ns - 1) // per_frame_ns
    rest_ns = work_ns - frames * per_frame_ns
    waits, responses = [], []
    for number, (_, from_ns) in enumerate(mine):
        # Two frames from the end of this window on.
        ahead = [*mine[number + 1 :], *_shifted(mine, frame_ns), *_shifted(mine, 2 * frame_ns)]
        waits.append(ahead[0][0] - from_ns)
        left_ns = rest_ns
        for start_ns, end_ns in ahead:
            if left_ns <= end_ns - start_ns:
                responses.append(start_ns + left_ns - from_ns)
                break
            left_ns -= end_ns - start_ns
    # A wake just before the end of a window finds as little of use in it.
    missed_ns = max(SLICE_NS_MIN, lost_ns)
    return Bounds(
        share_ppm=PPM * per_frame_ns // frame_ns,
        wait_ns=max(waits) + missed_ns,
        response_ns=max(responses) + frames * frame_ns + missed_ns,
    )


def _shifted(windows: list[tuple[int, int]], by_ns: int) -> list[tuple[int, int]]:
    return [(start_ns + by_ns, end_ns + by_ns) for start_ns, end_ns in windows]


def _null(question: Question, vcoproc: int) -> Bounds:
    wait_ns = question.switch_ns + question.switch_in_refusal_ns
    return Bounds(PPM, wait_ns, wait_ns + question.members[vcoproc].work_ns)


ANALYSES: Final[Mapping[str, Callable[[Question, int], Bounds]]] = {
    "arinc653": _arinc653,
    "credit": _credit,
    "edf": _edf,
    "fixed": _fixed,
    "null": _null,
    "priority": _priority,
    "rr": _rr,
}
"""Of each algorithm that comes with the scheduler: question and vcoproc -> bounds."""
