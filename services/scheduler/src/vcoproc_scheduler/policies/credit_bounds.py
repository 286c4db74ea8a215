"""How long ``credit`` lets a vcoproc wait at most, whatever the others do; and why.

Theory of operation:
    q: the slice. L: the longest switch and refusal. C = q + L: what one turn uses at most. w, W: a
    weight, and the sum of all. v, V: virtual time of one, and of the queue. Credit: w (V - v); a
    debt is less than nothing. i: the one that waits; j: any other.
    1. All credits cancel each other out, what sleepers are owed (q at most, in all) included. V
       never goes back: use moves it forward, nobody leaves the queue in debt, and who joins it is
       at V or brings back what the queue was keeping for it. No v goes back either.
    2. Who begins a turn had v <= V, as foreseen for the end of the turn before. If nobody had, it
       had the least v; then all are in debt, by what sleepers are owed in sum: q at most. If the
       turn before ended early, V is behind what was foreseen by at most q / W', with W' of the one
       that begins, the one that ended and one that is passed over: e = q w / W' at most. The turn
       adds C (1 - w / W). So the debt of i is at most d = max(q, 2 e) + C (1 - w / W), and that
       of the others C + e and, all of them together, as much of the q as i does not owe.
    3. While i waits, its v stands still. Who is picked before it had an earlier end, or no later
       start; so v_j <= v_i + max(0, q / w_i - q / w_j). From then on it uses C at most. So in all
       it uses w_j (v_i - v_j) + max(0, q w_j / w_i - q) + C at most, with v_j as it was when i
       began to wait; or nothing, if it is ahead of that.
    4. w_j (v_i - v_j) is the credit of j and d w_j / w_i. By 1, the credits of all others come to
       d, and what those who are too far ahead owe, by 2 no more than they would use in 3. The sum:
           wait <= d + sum of C + max(e_j, d w_j / w_i + max(0, q w_j / w_i - q)) + L
       where the last L is its own way out and in. Whoever sleeps in between comes back with no
       lower v than before and, if that was long ago, no lower than V when i began to wait.
    5. With more work than a slice, v_i moves by what it has used itself before its last turn: d
       is greater by that in 3, and so is the sum.
    6. One with a cap waits for its next quota before all that: from the time when it has used up
       one until the next period, or as many as it takes to pay for the last refusal.
Not handled: the moments at which control adds, removes or changes vcoprocs.
"""

from __future__ import annotations

from dataclasses import dataclass

from vcoproc.limits import SLICE_NS_MIN


def _over(time_ns: int, by: int) -> int:
    """Divided, and up to the next ns."""
    return -(-time_ns // by)


@dataclass(frozen=True, slots=True)
class Contest:
    """mine, others: weights. lost_ns: the longest switch and refusal together."""

    mine: int
    others: tuple[int, ...]
    slice_ns: int
    lost_ns: int

    @property
    def turn_ns(self) -> int:
        return self.slice_ns + self.lost_ns

    @property
    def total(self) -> int:
        return self.mine + sum(self.others)

    def wait_ns(self, used_ns: int = 0) -> int:
        """The others' time before its turn.

        Args:
            used_ns: how much it has used itself since it began to wait.
        """
        if not self.others:
            return self.lost_ns
        early_ns = self._early_ns()
        debt_ns = max(self.slice_ns, 2 * early_ns[0])
        debt_ns += _over(self.turn_ns * sum(self.others), self.total)
        wait_ns = debt_ns + self.lost_ns
        for weight, ahead_ns in zip(self.others, early_ns[1:], strict=True):
            behind_ns = _over((debt_ns + used_ns) * weight, self.mine)
            behind_ns += max(0, _over(self.slice_ns * weight, self.mine) - self.slice_ns)
            wait_ns += self.turn_ns + max(behind_ns, ahead_ns)
        return wait_ns

    def response_ns(self, work_ns: int) -> int:
        """Until it has run for so long."""
        # Before the last one; alone it runs on.
        turns = _over(work_ns, self.slice_ns) - 1 if self.others else 0
        return self.wait_ns(turns * self.turn_ns) + turns * self.lost_ns + work_ns

    def _early_ns(self) -> list[int]:
        """What each one can be ahead by when the turn before its own ended early; its own first."""
        weights = [self.mine, *self.others]
        if len(weights) < 3:
            return [0] * len(weights)
        lightest = sorted(weights)[:3]
        early_ns = []
        for weight in weights:
            two = sum(lightest) - weight if weight in lightest else sum(lightest[:2])
            early_ns.append(_over(self.slice_ns * weight, weight + two))
        return early_ns


@dataclass(frozen=True, slots=True)
class Cap:
    """What one gets that is alone but for its cap.

    late_ns: by how much a turn can go beyond the quota. lost_ns: the part of it that is lost in
    each turn.
    """

    quota_ns: int
    period_ns: int
    slice_ns: int
    late_ns: int
    lost_ns: int

    @property
    def _turns(self) -> int:
        """In one quota and what was left of the one before, but for one that is cut short."""
        return _over(self.quota_ns + SLICE_NS_MIN, self.slice_ns)

    @property
    def withheld_ns(self) -> int:
        periods = max(1, _over(SLICE_NS_MIN + self.late_ns, self.quota_ns))
        return periods * (self.period_ns - self.quota_ns) + self.late_ns + SLICE_NS_MIN

    @property
    def kept_ns(self) -> int:
        """Of each quota, in the long run."""
        shortest_ns = self.quota_ns * SLICE_NS_MIN // (SLICE_NS_MIN + self.lost_ns)
        return max(shortest_ns, self.quota_ns - (self._turns + 1) * self.lost_ns)

    def response_ns(self, contest: Contest, work_ns: int) -> int:
        """Until it has run for so long, beside others.

        From one turn that the quota cuts short to the next it runs for whole slices, for as long as
        a quota lasts that pays for the turn before it. Each time it is withheld and waits once.
        """
        whole_ns = self.quota_ns - self.late_ns - SLICE_NS_MIN - self._turns * self.lost_ns
        times = 1 + _over(work_ns, max(SLICE_NS_MIN, whole_ns))
        own_ns = work_ns + times * (self._turns + 1) * self.lost_ns
        others_ns = _over(own_ns * sum(contest.others), contest.mine)
        return times * (self.withheld_ns + contest.wait_ns()) + own_ns + others_ns
