"""The front end: what a driver's register access does.

Theory of operation:
    An access to a vcoproc that is on the hardware goes to the platform. One to a vcoproc that is
    switched out is answered from the register's declared policy alone: from the saved copy
    (shadow), queued for the next switch-in (replay), kept waiting (hold), answered with a constant,
    or refused (deny). So a driver never sees another domain's values, and never a made-up zero.
    Every access to one that has been written down to go on elsewhere waits: it would be lost there.
Invariants:
    Every request gets exactly one answer: a reply, or an error; a posted write only an error. The
    accesses to one vcoproc are done in the order in which they came, held ones included. An answer
    goes to whoever asked, and to nobody if that session has ended.
Not handled:
    When to switch, wake and sleep: the executor asks for all of that after each request.
"""

from __future__ import annotations

from typing import Any, Final

from vcoproc.errors import (
    BadAccessSize,
    BadRegister,
    DeviceFault,
    GuestError,
    HoldTimeout,
    QueueFull,
    RegisterDenied,
    RemoteProtocolError,
    VcoprocError,
    VcoprocFaulted,
)
from vcoproc.limits import (
    HOLD_LIMIT_NS,
    HOLD_QUEUE_MAX,
    REPLAY_QUEUE_MAX,
    SAVED_HOLD_LIMIT_NS,
    SAVED_HOLD_QUEUE_MAX,
)
from vcoproc.wire.messages import Batch, Message, Moved, Post, Read, Reply, TrapError, Write
from vcoproc.wire.session import SEQ_MASK
from vcoproc_sim.platforms.api import Access, Platform, RangeKind, Register, WhenOut
from vcoproc_sim.vcoprocs import Outbox, TrapRequest, Vcoproc, detail

HELD: Final = -1
"""What `_access` gives for an access that has to wait; register values are never negative."""
WRITTEN: Final = -2
"""What `_access` gives for a write."""
_WIDTHS: Final = (1, 2, 4)


class FrontEnd:
    """Emulates the registers of all vcoprocs of one coproc.

    Args:
        platform: the hardware, and the description of its registers.
        outbox: where answers go.
    """

    def __init__(self, platform: Platform, outbox: Outbox) -> None:
        self.failure: DeviceFault | None = None
        """Why the coproc will never run anything again; None while it may."""
        self._platform = platform
        self._outbox = outbox
        info = platform.info
        self._index_at: list[dict[int, int]] = []
        self._mapped_place: list[int | None] = []
        mapped_count = 0
        index = 0
        for rng in info.ranges:
            at: dict[int, int] = {}
            for register in rng.registers:
                at[register.offset] = index
                index += 1
            self._index_at.append(at)
            if rng.kind is RangeKind.MAPPED:
                self._mapped_place.append(mapped_count)
                mapped_count += 1
            else:
                self._mapped_place.append(None)
        self._registers: tuple[Register, ...] = info.registers
        self.yielded = False
        """A driver has said that this is a good moment to switch; whoever asks clears it."""

    def request(
        self,
        vcoproc: Vcoproc,
        origin: Any,
        seq: int,
        message: Message,
        *,
        on_hardware: bool,
        now_ns: int,
    ) -> None:
        """Serves one message of a driver.

        Args:
            origin: whom the answer is for, see `Outbox.replies`.
            seq: the message's sequence number, which the answer names.
            on_hardware: whether this vcoproc is on the coprocessor now.

        Raises:
            RemoteProtocolError: the message is no access; nothing has changed.
        """
        vcoproc.trap_count += 1
        held, saved = vcoproc.held, vcoproc.saved
        # What matters for latency, without the bookkeeping of the general case. What has to wait in
        # front of others is tried a second time below; trying has no effect.
        if not held and not saved:
            try:
                if type(message) is Read:
                    value = self._access(
                        vcoproc, False, message.place, message.offset, message.width_bytes, 0,
                        on_hardware,
                    )  # fmt: skip
                    if value != HELD:
                        self._outbox.replies.append((origin, Reply(seq, (value,))))
                        return
                elif type(message) is Write or type(message) is Post:
                    value = self._access(
                        vcoproc, True, message.place, message.offset, message.width_bytes,
                        message.value, on_hardware,
                    )  # fmt: skip
                    if value != HELD:
                        if type(message) is Write:
                            self._outbox.replies.append((origin, Reply(seq, ())))
                        return
            except (GuestError, DeviceFault) as error:
                self._refuse(origin, seq, 0, error)
                return
        limit_ns = SAVED_HOLD_LIMIT_NS if saved else HOLD_LIMIT_NS
        request = _as_request(origin, seq, message, now_ns, limit_ns)
        if not held and not saved and self._advance(vcoproc, request, on_hardware):
            return
        count_max = SAVED_HOLD_QUEUE_MAX if saved else HOLD_QUEUE_MAX
        if len(held) >= count_max:
            self._refuse(origin, seq, 0, QueueFull("held accesses", count_max))
            return
        held.append(request)

    def release(self, vcoproc: Vcoproc, *, on_hardware: bool, now_ns: int) -> None:
        """Goes on with what was held, as far as it can: after a switch-in, or at a deadline."""
        held = vcoproc.held
        while held:
            request = held[0]
            if vcoproc.saved or not self._advance(vcoproc, request, on_hardware):
                if now_ns < request.deadline_ns:
                    return
                # A fence has no access; it has waited only because it may not pass others.
                offset = request.accesses[request.position][2] if request.accesses else 0
                error = HoldTimeout(offset, request.limit_ns)
                self._refuse(request.origin, request.request, request.position, error)
            held.popleft()

    def thaw(self, vcoproc: Vcoproc, now_ns: int) -> None:
        """Accesses to a switched-out one are done here after all, if it had been written down."""
        if not vcoproc.saved:
            return
        vcoproc.saved = False
        for request in vcoproc.held:
            request.deadline_ns = min(request.deadline_ns, now_ns + HOLD_LIMIT_NS)
            request.limit_ns = HOLD_LIMIT_NS
        self.release(vcoproc, on_hardware=False, now_ns=now_ns)

    def abandon(self, vcoproc: Vcoproc, error: VcoprocError) -> None:
        """Answers everything that is held with an error: it will not come to run."""
        while vcoproc.held:
            request = vcoproc.held.popleft()
            self._refuse(request.origin, request.request, request.position, error)

    def replay(self, vcoproc: Vcoproc) -> None:
        """Does the queued writes, in order, on the hardware. Right after a switch-in."""
        write = self._platform.write
        queue = vcoproc.replay
        while queue:
            index, value = queue.popleft()
            write(index, value)

    def _advance(self, vcoproc: Vcoproc, request: TrapRequest, on_hardware: bool) -> bool:
        """Does the request's accesses; False: the one at its position has to wait."""
        accesses = request.accesses
        while request.position < len(accesses):
            is_write, place, offset, width_bytes, value = accesses[request.position]
            try:
                result = self._access(
                    vcoproc, is_write, place, offset, width_bytes, value, on_hardware
                )
            except (GuestError, DeviceFault) as error:
                self._refuse(request.origin, request.request, request.position, error)
                return True
            if result == HELD:
                return False
            if not is_write:
                request.values.append(result)
            request.position += 1
        if request.answered:
            reply = Reply(request.request, tuple(request.values))
            self._outbox.replies.append((request.origin, reply))
        return True

    def _refuse(self, origin: Any, seq: int, index: int, error: VcoprocError) -> None:
        message = TrapError(seq, index, error.reason, detail(str(error)))
        self._outbox.replies.append((origin, message))

    def _access(  # one parameter for each field of the access: no object on the hot path
        self,
        vcoproc: Vcoproc,
        is_write: bool,
        place: int,
        offset: int,
        width_bytes: int,
        value: int,
        on_hardware: bool,
    ) -> int:
        if place >= len(self._index_at):
            raise BadRegister(offset, f"there is no register range {place}")
        index = self._index_at[place].get(offset)
        if index is None:
            return self._mapped_access(vcoproc, is_write, place, offset, width_bytes, value)
        register = self._registers[index]
        if width_bytes != register.width_bytes:
            raise BadAccessSize(offset, width_bytes, register.width_bytes)
        if is_write:
            if register.access is Access.RO:
                raise BadRegister(offset, f"{register.name} is read-only")
            if value >> (8 * width_bytes):
                raise BadRegister(offset, f"value {value:#x} is wider than {width_bytes} bytes")
        elif register.access is Access.WO:
            raise BadRegister(offset, f"{register.name} is write-only")
        if on_hardware:
            if not is_write:
                return self._platform.read(index)
            self._platform.write(index, value)
            if register.yields:
                self.yielded = True
            return WRITTEN
        return self._switched_out(vcoproc, register, index, is_write, value)

    def _switched_out(
        self, vcoproc: Vcoproc, register: Register, index: int, is_write: bool, value: int
    ) -> int:
        match register.when_out:
            case WhenOut.SHADOW:
                if is_write:
                    self._shadow_write(vcoproc, register, index, value)
                    return WRITTEN
                return vcoproc.shadow[index]
            case WhenOut.REPLAY:
                if not is_write:
                    return vcoproc.shadow[index]
                self._must_come_to_run(vcoproc, register)
                if len(vcoproc.replay) >= REPLAY_QUEUE_MAX:
                    raise QueueFull(f"queued writes of {register.name}", REPLAY_QUEUE_MAX)
                vcoproc.replay.append((index, value))
                return WRITTEN
            case WhenOut.HOLD:
                self._must_come_to_run(vcoproc, register)
                return HELD
            case WhenOut.CONST:
                if is_write:
                    raise BadRegister(register.offset, f"{register.name} is constant")
                return register.reset
            case WhenOut.DENY:
                raise RegisterDenied(register.offset)

    def _shadow_write(self, vcoproc: Vcoproc, register: Register, index: int, value: int) -> None:
        old = vcoproc.shadow[index]
        new = old & ~value if register.access is Access.W1C else value
        vcoproc.shadow[index] = new
        if old & ~new & register.reset_bits:
            # The reset comes after them: on the hardware, too, nothing of them would be left.
            vcoproc.replay.clear()
        self._platform.shadow_written(vcoproc.id, index, old)

    def _must_come_to_run(self, vcoproc: Vcoproc, register: Register) -> None:
        if self.failure is not None:
            raise self.failure
        if self._platform.is_faulted(vcoproc.id):
            raise VcoprocFaulted(vcoproc.id, f"{register.name} needs a reset first")

    def _mapped_access(
        self,
        vcoproc: Vcoproc,
        is_write: bool,
        place: int,
        offset: int,
        width_bytes: int,
        value: int,
    ) -> int:
        # A domain that cannot map the range (another host) reaches the same bytes by message.
        number = self._mapped_place[place]
        if number is None:
            raise BadRegister(offset, "there is no register")
        storage = vcoproc.spec.mapped[number]
        if width_bytes not in _WIDTHS or offset % width_bytes:
            raise BadAccessSize(offset, width_bytes, 4)
        if offset + width_bytes > len(storage):
            raise BadRegister(offset, f"beyond the {len(storage)} bytes of the range")
        if not is_write:
            return int.from_bytes(storage[offset : offset + width_bytes], "little")
        if value >> (8 * width_bytes):
            raise BadRegister(offset, f"value {value:#x} is wider than {width_bytes} bytes")
        storage[offset : offset + width_bytes] = value.to_bytes(width_bytes, "little")
        return WRITTEN


def farewell(vcoproc: Vcoproc, origin: Any, newest: int) -> Moved:
    """What the driver of one that lives on elsewhere must know: what is done, and what is not.

    Args:
        origin: the driver's session.
        newest: number of the newest message that was taken from it.
    """
    for request in vcoproc.held:
        if request.origin is origin:
            done = request.request - 1 & SEQ_MASK
            return Moved(done, request.position, tuple(request.values))
    return Moved(newest, 0, ())


def _as_request(origin: Any, seq: int, message: Message, now_ns: int, limit_ns: int) -> TrapRequest:
    accesses: tuple[tuple[bool, int, int, int, int], ...]
    match message:
        case Read(place, offset, width_bytes):
            accesses = ((False, place, offset, width_bytes, 0),)
        case Write(place, offset, width_bytes, value) | Post(place, offset, width_bytes, value):
            accesses = ((True, place, offset, width_bytes, value),)
        case Batch():
            accesses = message.accesses
        case _:
            raise RemoteProtocolError(f"{type(message).__name__} is no access")
    answered = type(message) is not Post
    return TrapRequest(
        origin,
        seq,
        accesses,
        answered=answered,
        deadline_ns=now_ns + limit_ns,
        limit_ns=limit_ns,
    )
