"""The driver's end of the trap link, wherever its vcoproc is.

Theory of operation:
    Requests are done in order. When the vcoproc goes to another coproc, its old one says up to
    which request everything is done (`Moved`) and ends the session; then the toolstack is asked
    where it is now, and exactly what was not done is said again there, in order: posted writes, and
    the rest of what is waited for. The driver notices nothing but time.
Invariants:
    A posted write is kept here until it is known to be done, or to have failed.
Not handled:
    A session that is lost in any other way takes with it what was under way: nobody knows what of
    it was done. Whoever waits gets `PeerLost`.
    Nothing happens here while nobody calls. So whoever has posted and waits for something else has
    to look after it (`unsure`, `serve`): his write may have to be said again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import zmq

from vcoproc.errors import (
    GuestError,
    PeerLost,
    PeerRejected,
    PeerTimeout,
    QueueFull,
    VcoprocError,
    VcoprocGone,
    VcoprocMoved,
)
from vcoproc.limits import MS, SAVED_HOLD_QUEUE_MAX, TRAP_CREDIT, TRAP_TIMEOUT_NS
from vcoproc.runtime.grpc_kit import RemoteUnavailable
from vcoproc.runtime.link import LinkClient, LinkDown, LinkEvent, LinkUp, Received
from vcoproc.wire.messages import Batch, Message, Moved, Post, Reply, Role, TrapError
from vcoproc.wire.session import SEQ_MASK

LOOK_NS: Final = 500 * MS
"""How long a session is missing before the toolstack is asked where the vcoproc is; and between two
times of asking."""


class TrapRefused(GuestError):
    """The coproc answered an access with an error. reason: stable, see `vcoproc.errors`."""

    def __init__(self, reason: str, detail: str, index: int) -> None:
        super().__init__(detail)
        self.reason = reason  # type: ignore[misc]  # the remote's, per instance
        self.index = index


@dataclass(frozen=True, slots=True)
class Place:
    """Where a vcoproc is, and its driver's secret there."""

    endpoint: str
    credential: bytes


class TrapLink:
    """See the module. For one thread.

    Args:
        name: of the vcoproc.
        find: asks where it is now, within so many nanoseconds; raises VcoprocGone or DomainGone
            when it is nowhere, RemoteUnavailable when nobody answers.
    """

    def __init__(
        self, name: str, place: Place, find: Callable[[int], Place], *, epoch: int
    ) -> None:
        self._name = name
        self._place = place
        self._find = find
        self._epoch = epoch
        self._link = self._connect()
        self._posted: deque[tuple[int, Post]] = deque()
        """Posted writes of this session that may not be done, with their numbers."""
        self._again: deque[Post] = deque()
        """Those of the session before, to be said first of all."""
        self._farewell: Moved | None = None
        """What the coproc of this session has said at the end."""
        self._left: Moved | None = None
        """The same of the session before, if no request has been said since."""
        self._look_at_ns = 0
        """When to ask the toolstack, while there is no session; 0: nobody has waited for it yet."""
        self._poster = 0
        self._post_error: TrapRefused | None = None
        self._last_error: VcoprocError | None = None
        self._gone: VcoprocError | None = None

    def _connect(self) -> LinkClient:
        return LinkClient(
            zmq.Context.instance(),
            self._place.endpoint,
            role=Role.DOMAIN,
            credential=self._place.credential,
            name=self._name,
            epoch=self._epoch,
            window=TRAP_CREDIT,
        )

    # --- requests ---------------------------------------------------------------------------------

    def post(self, message: Post) -> None:
        """Says it as soon as there is a session and credit; an error comes out of a later call."""
        self._keep(self._send(message), message)
        self._poster = threading.get_ident()

    def call(self, message: Message) -> tuple[int, ...]:
        """Says it and waits for the answer; gives its values.

        Raises:
            TrapRefused: it is refused, or a write was that was posted before.
            PeerTimeout, PeerLost: the coproc does not answer, or has gone.
            VcoprocGone, DomainGone: there is no such vcoproc any more.
        """
        request = self._send(message)
        read: tuple[int, ...] = ()
        skipped = 0
        deadline_ns = 0
        reply = self._link.receive_answer()
        while True:
            if type(reply) is Reply and reply.request == request:
                self._posted.clear()  # what came before it is done, too
                if self._post_error is not None:
                    error, self._post_error = self._post_error, None
                    raise error
                return read + reply.values
            if type(reply) is TrapError and reply.request == request:
                self._refused(request, reply.error)
                raise TrapRefused(reply.error, reply.detail, reply.index + skipped)
            self._hear(reply)
            now_ns = time.monotonic_ns()
            deadline_ns = deadline_ns or now_ns + TRAP_TIMEOUT_NS
            reply = self._take(self._wait(deadline_ns, now_ns))
            if self._left is not None:
                message, values = self._rest(message, request, self._left)
                skipped += self._left.position if values is not None else 0
                read += values or ()
                request = self._send(message)
                deadline_ns = 0
            elif self._link.session is None:
                raise PeerLost(self._name)

    def _rest(
        self, message: Message, request: int, moved: Moved
    ) -> tuple[Message, tuple[int, ...] | None]:
        """What of a request is to be done elsewhere; and what a batch has read that was begun."""
        if not _is_after(request, moved.done):
            raise PeerLost(self._name)  # it is done, but where is the answer?
        if not moved.position or request != (moved.done + 1 & SEQ_MASK):
            return message, None
        if type(message) is not Batch or moved.position >= len(message.accesses):
            raise PeerLost(self._name)
        return Batch(message.accesses[moved.position :]), moved.values

    def _send(self, message: Message) -> int:
        """Says it as soon as there is a session and credit; gives the sequence number."""
        session = self._link.session
        if session is None or self._again or not session.can_send():
            self._make_way()
            session = self._link.session
            assert session is not None
        self._left = None
        self._link.send(message)
        return session.last_sent

    def _make_way(self) -> None:
        """Waits for a session, says in it what has to be said again, and waits for credit."""
        if self._gone is not None:
            raise self._gone
        deadline_ns = 0
        while not self._say_again():
            now_ns = time.monotonic_ns()
            deadline_ns = deadline_ns or now_ns + TRAP_TIMEOUT_NS
            self._hear(self._take(self._wait(deadline_ns, now_ns)))

    def _say_again(self) -> bool:
        """Says what has to be said again, as far as it can. True: now something else can be."""
        while (session := self._link.session) is not None and session.can_send():
            if not self._again:
                return True
            post = self._again.popleft()
            self._link.send(post)
            self._keep(session.last_sent, post)
        return False

    # --- posted writes ----------------------------------------------------------------------------

    def _keep(self, request: int, post: Post) -> None:
        posted, session = self._posted, self._link.session
        posted.append((request, post))
        # Of those that the coproc has taken only so many can wait; the others are done.
        if session is not None:
            done = session.peer_acked - SAVED_HOLD_QUEUE_MAX & SEQ_MASK
            while posted and not _is_after(posted[0][0], done):
                posted.popleft()

    @property
    def unsure(self) -> bool:
        """Whether this thread has posted a write that may have to be said again."""
        return bool(self._posted or self._again) and self._poster == threading.get_ident()

    def serve(self) -> None:
        """Does what there is to do now, without waiting. Raises: as `call`, of what is gone."""
        now_ns = time.monotonic_ns()
        if self._link.session is None and self._look_at_ns and now_ns >= self._look_at_ns:
            self._look(now_ns + LOOK_NS, now_ns)
        while events := self._link.receive(1):
            self._hear(self._take(events))
        self._say_again()
        self._link.flush()

    @property
    def sockets(self) -> tuple[zmq.Socket[Any], ...]:
        """What to watch for `serve`."""
        return self._link.sockets

    def next_deadline_ns(self) -> int | None:
        """When to `serve` though no socket can be read."""
        if self._link.session is not None:
            return None
        deadlines = (self._link.next_deadline_ns(), self._look_at_ns or None)
        return min((each for each in deadlines if each is not None), default=None)

    def _refused(self, request: int, reason: str) -> None:
        """It was not done. One that found the queue full was refused before those in the queue."""
        if reason == QueueFull.reason:
            self._posted = deque(each for each in self._posted if each[0] != request)
        else:
            while self._posted and not _is_after(self._posted[0][0], request):
                self._posted.popleft()

    def _hear(self, message: Message | None) -> None:
        """Takes what is no answer to what is waited for."""
        if type(message) is TrapError:
            self._refused(message.request, message.error)
            self._post_error = TrapRefused(message.error, message.detail, message.index)
        elif type(message) is Moved:
            self._farewell = message

    # --- sessions ---------------------------------------------------------------------------------

    def _wait(self, deadline_ns: int, now_ns: int) -> list[LinkEvent]:
        """Waits for one frame, or for the connection to come or go."""
        wait_ns = deadline_ns - now_ns
        retry_ns = self._link.next_deadline_ns()
        if retry_ns is not None:
            wait_ns = min(wait_ns, retry_ns - now_ns)
        if self._link.session is None:
            self._look_at_ns = self._look_at_ns or now_ns + LOOK_NS
            if now_ns >= self._look_at_ns:
                self._look(deadline_ns, now_ns)
            wait_ns = min(wait_ns, self._look_at_ns - now_ns)
        events = self._link.receive(1, -(-max(wait_ns, 0) // MS))
        if not events and now_ns >= deadline_ns:
            raise self._last_error or PeerTimeout(self._name, TRAP_TIMEOUT_NS)
        self._link.flush()
        return events

    def _look(self, deadline_ns: int, now_ns: int) -> None:
        """Asks where the vcoproc is, and goes there."""
        self._look_at_ns = now_ns + LOOK_NS
        try:
            place = self._find(max(deadline_ns - now_ns, 0))
        except RemoteUnavailable:
            return  # the toolstack is restarted, perhaps
        except VcoprocError as error:
            self._end(error)
        if place != self._place:
            self._link.close()
            self._place = place
            self._link = self._connect()

    def _take(self, events: list[LinkEvent]) -> Message | None:
        """Notes what happened; gives what the coproc said. There is one frame at most."""
        answer: Message | None = None
        for event in events:
            if type(event) is Received:
                answer = event.message
            elif type(event) is LinkUp:
                self._last_error = None
                self._look_at_ns = 0
            elif type(event) is LinkDown:
                self._down(event.error)
        return answer

    def _down(self, error: VcoprocError) -> None:
        self._last_error = error
        reason = error.their_reason if isinstance(error, PeerRejected) else ""
        if reason == VcoprocGone.reason:
            self._end(self._why_gone())
        farewell, self._farewell = self._farewell, None
        if reason == VcoprocMoved.reason and farewell is not None:
            undone = [post for request, post in self._posted if _is_after(request, farewell.done)]
            self._again.extendleft(reversed(undone))
            self._left = farewell
        self._posted.clear()
        # One that is not let in may be looked for in a wrong place.
        self._look_at_ns = time.monotonic_ns() + (0 if reason else LOOK_NS)

    def _why_gone(self) -> VcoprocError:
        """Its coproc does not have it any more; the toolstack may know more."""
        try:
            self._find(LOOK_NS)
        except RemoteUnavailable:
            pass
        except VcoprocError as error:
            return error
        return VcoprocGone(self._name, "its coproc has forgotten it")

    def _end(self, error: VcoprocError) -> NoReturn:
        """There is no such vcoproc any more."""
        self._gone = error
        self._posted.clear()
        self._again.clear()
        self._link.close()
        raise error

    def close(self) -> None:
        self._link.close()


def _is_after(request: int, other: int) -> bool:
    """Whether a number is later than another one, which is near."""
    return (request - other - 1 & SEQ_MASK) < 1 << 31
