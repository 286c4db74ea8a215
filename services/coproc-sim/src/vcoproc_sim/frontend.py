"""The front end: what a driver's register access does.

Theory of operation:
    An access to a vcoproc that is on the hardware goes to the platform. One to a vcoproc that is
    switched out is answered from the register's declared policy alone: from the saved copy
    (shadow), queued for the next switch-in (replay), kept waiting (hold), answered with a constant,
    or refused (deny). So a driver never sees another domain's values, and never a made-up zero.
Invariants:
    Every request gets exactly one answer: a reply, or an error. The accesses of one driver are done
    in the order in which they came, held ones included.
Not handled:
    When to switch, wake and sleep: the executor asks for all of that after each request.
"""

from __future__ import annotations

from typing import Final

from vcoproc.errors import (
    BadAccessSize,
    BadRegister,
    GuestError,
    HoldTimeout,
    QueueFull,
    RegisterDenied,
    VcoprocFaulted,
)
from vcoproc.limits import HOLD_LIMIT_NS, HOLD_QUEUE_MAX, REPLAY_QUEUE_MAX
from vcoproc.wire.messages import Batch, Message, Post, Read, Reply, TrapError, Write

from vcoproc_sim.platforms.api import Access, Platform, RangeKind, Register, WhenOut
from vcoproc_sim.vcoprocs import Outbox, TrapRequest, Vcoproc

HELD: Final = -1
"""What `_access` gives for an access that has to wait; register values are never negative."""
WRITTEN: Final = -2
_WIDTHS: Final = (1, 2, 4)


class FrontEnd:
    """Emulates the registers of all vcoprocs of one coproc.

    Args:
        platform: the hardware, and the description of its registers.
        outbox: where answers go.
    """

    def __init__(self, platform: Platform, outbox: Outbox) -> None:
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

    def request(
        self, vcoproc: Vcoproc, seq: int, message: Message, *, on_hardware: bool, now_ns: int
    ) -> None:
        """Serves one message of a driver.

        Args:
            seq: the message's sequence number, which the answer names.
            on_hardware: whether this vcoproc is on the coprocessor now.

        Raises:
            GuestError: the driver said something that is no access.
        """
        vcoproc.trap_count += 1
        held = vcoproc.held
        if not held:
            # The two that matter for latency, without the bookkeeping of the general case.
            if type(message) is Read:
                try:
                    value = self._access(
                        vcoproc, False, message.place, message.offset, message.width_bytes, 0,
                        on_hardware,
                    )  # fmt: skip
                except GuestError as error:
                    self._fail(vcoproc, seq, 0, error)
                    return
                if value != HELD:
                    self._outbox.replies.append((vcoproc.id, Reply(seq, (value,))))
                    return
            elif type(message) is Write or type(message) is Post:
                try:
                    value = self._access(
                        vcoproc, True, message.place, message.offset, message.width_bytes,
                        message.value, on_hardware,
                    )  # fmt: skip
                except GuestError as error:
                    self._fail(vcoproc, seq, 0, error)
                    return
                if value != HELD:
                    if type(message) is Write:
                        self._outbox.replies.append((vcoproc.id, Reply(seq, ())))
                    return
        request = _as_request(seq, message)
        if held:
            if len(held) >= HOLD_QUEUE_MAX:
                self._fail(vcoproc, seq, 0, QueueFull("held accesses", HOLD_QUEUE_MAX))
            else:
                held.append(request)
            return
        if not self._advance(vcoproc, request, on_hardware):
            request.deadline_ns = now_ns + HOLD_LIMIT_NS
            held.append(request)

    def release(self, vcoproc: Vcoproc, *, on_hardware: bool, now_ns: int) -> None:
        """Goes on with what was held, as far as it can: after a switch-in, or at a deadline."""
        held = vcoproc.held
        while held:
            request = held[0]
            if self._advance(vcoproc, request, on_hardware):
                held.popleft()
                continue
            if request.deadline_ns == 0:
                request.deadline_ns = now_ns + HOLD_LIMIT_NS
            if now_ns < request.deadline_ns:
                return
            held.popleft()
            offset = request.accesses[request.position][2]
            self._fail(
                vcoproc, request.request, request.position, HoldTimeout(offset, HOLD_LIMIT_NS)
            )

    def abandon(self, vcoproc: Vcoproc, why: str) -> None:
        """Answers everything that is held with an error: the vcoproc goes away."""
        while vcoproc.held:
            request = vcoproc.held.popleft()
            self._fail(vcoproc, request.request, request.position, VcoprocFaulted(vcoproc.id, why))

    def replay(self, vcoproc: Vcoproc) -> None:
        """Does the queued writes, in order, on the hardware. Right after a switch-in."""
        write = self._platform.write
        queue = vcoproc.replay
        while queue:
            write(*queue.popleft())

    def _advance(self, vcoproc: Vcoproc, request: TrapRequest, on_hardware: bool) -> bool:
        """Does the request's accesses; False: the one at its position has to wait."""
        accesses = request.accesses
        while request.position < len(accesses):
            is_write, place, offset, width_bytes, value = accesses[request.position]
            try:
                result = self._access(
                    vcoproc, is_write, place, offset, width_bytes, value, on_hardware
                )
            except GuestError as error:
                self._fail(vcoproc, request.request, request.position, error)
                return True
            if result == HELD:
                return False
            if not is_write:
                request.values.append(result)
            request.position += 1
            request.deadline_ns = 0
        if request.answered:
            reply = Reply(request.request, tuple(request.values))
            self._outbox.replies.append((vcoproc.id, reply))
        return True

    def _fail(self, vcoproc: Vcoproc, seq: int, index: int, error: GuestError) -> None:
        message = TrapError(seq, index, error.reason, str(error)[:1000])
        self._outbox.replies.append((vcoproc.id, message))

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
            return WRITTEN
        return self._switched_out(vcoproc, register, index, is_write, value)

    def _switched_out(
        self, vcoproc: Vcoproc, register: Register, index: int, is_write: bool, value: int
    ) -> int:
        match register.when_out:
            case WhenOut.SHADOW:
                if not is_write:
                    return vcoproc.shadow[index]
                old = vcoproc.shadow[index]
                if register.access is Access.W1C:
                    vcoproc.shadow[index] = old & ~value
                else:
                    vcoproc.shadow[index] = value
                self._platform.shadow_written(vcoproc.id, index, old)
                return WRITTEN
            case WhenOut.REPLAY:
                if not is_write:
                    return vcoproc.shadow[index]
                if self._platform.is_faulted(vcoproc.id):
                    raise VcoprocFaulted(vcoproc.id, f"{register.name} needs a reset first")
                if len(vcoproc.replay) >= REPLAY_QUEUE_MAX:
                    raise QueueFull(f"queued writes of {register.name}", REPLAY_QUEUE_MAX)
                vcoproc.replay.append((index, value))
                return WRITTEN
            case WhenOut.HOLD:
                if self._platform.is_faulted(vcoproc.id):
                    raise VcoprocFaulted(vcoproc.id, f"{register.name} needs a reset first")
                return HELD
            case WhenOut.CONST:
                if is_write:
                    raise BadRegister(register.offset, f"{register.name} is constant")
                return register.reset
            case WhenOut.DENY:
                raise RegisterDenied(register.offset)

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


def _as_request(seq: int, message: Message) -> TrapRequest:
    match message:
        case Read():
            access = (False, message.place, message.offset, message.width_bytes, 0)
            return TrapRequest(seq, (access,), answered=True)
        case Write() | Post():
            access = (True, message.place, message.offset, message.width_bytes, message.value)
            return TrapRequest(seq, (access,), answered=type(message) is Write)
        case Batch():
            return TrapRequest(seq, message.accesses, answered=True)
        case _:
            raise BadRegister(0, f"{type(message).__name__} is no access")
