"""One vcoproc as its driver sees it: registers by trap, mapped ranges as memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from vcoproc.api.v1 import toolstack_pb2
from vcoproc.errors import InvalidArgument, NotFound
from vcoproc.guest.memory import Region, map_region
from vcoproc.guest.trap_link import Place, TrapLink, TrapRefused
from vcoproc.limits import BATCH_OPS_MAX
from vcoproc.wire.messages import Batch as BatchMessage
from vcoproc.wire.messages import Post, Read, Write


@dataclass(frozen=True, slots=True)
class RegisterAddress:
    """Where a register is. place: index of its range. offset: bytes in it. width_bytes: 1, 2, 4."""

    place: int
    offset: int
    width_bytes: int


class Vcoproc:
    """The driver's end of one vcoproc, on whatever coproc it is. For one thread.

    Not made directly: `Domain.vcoproc` gives it.

    Attributes:
        name: its name in the domain.
        vcoproc_id: its number in the cluster, for ever.
        irqs: guest interrupt number of each line, by the line's name.
        traps: its link to the coproc.
    """

    def __init__(
        self,
        name: str,
        resource: toolstack_pb2.Vcoproc,
        access: toolstack_pb2.VcoprocAccess,
        find: Callable[[int], Place],
        *,
        epoch: int,
    ) -> None:
        self.name = name
        self.vcoproc_id: int = resource.vcoproc_id
        self.compatible: str = access.compatible
        self.irqs: dict[str, int] = {line.name: line.irq for line in resource.lines}
        self._place_of = {rng.name: place for place, rng in enumerate(resource.ranges)}
        self._registers = {
            register.name: RegisterAddress(
                self._place_of[register.range], register.offset, register.width_bytes
            )
            for register in access.registers
        }
        self._reads: dict[str | int, Read] = {
            name: Read(at.place, at.offset, at.width_bytes) for name, at in self._registers.items()
        }
        mapped = [rng.name for rng in resource.ranges if rng.mapped]
        self._mapped: dict[str, Region] = {
            name: map_region(region) for name, region in zip(mapped, access.mapped, strict=True)
        }
        self.traps = TrapLink(name, place_of(access), find, epoch=epoch)
        self._call = self.traps.call

    # --- registers --------------------------------------------------------------------------------

    def address(self, register: str | int) -> RegisterAddress:
        """Where a register is: by name, or by byte offset in the first range (32 bits wide).

        Raises:
            NotFound: no register has that name.
            InvalidArgument: the offset has more than 32 bits, or a sign.
        """
        if isinstance(register, int):
            _check("offset", register, 4)
            return RegisterAddress(0, register, 4)
        try:
            return self._registers[register]
        except KeyError:
            raise NotFound("register", register) from None

    def read32(self, register: str | int) -> int:
        """Reads a register: by name, or by offset in the first range.

        Raises:
            TrapRefused: the coproc refused the access; its `reason` says why.
            PeerTimeout, PeerLost: the coproc does not answer, or has gone.
            VcoprocGone, DomainGone: it does not exist any more, or its domain was shut down.
        """
        message = self._reads.get(register)
        if message is None:
            at = self.address(register)
            message = Read(at.place, at.offset, at.width_bytes)
        return self._call(message)[0]

    def write32(self, register: str | int, value: int) -> None:
        """Writes a register, and waits until it is done.

        Raises:
            InvalidArgument: the value is none of 0 to 2**32-1.
            others: as `read32`.
        """
        at = self.address(register)
        self.write(at.place, at.offset, at.width_bytes, value)

    def post32(self, register: str | int, value: int) -> None:
        """Writes a register without waiting. An error comes out of the next call that waits."""
        at = self.address(register)
        _check("value", value, at.width_bytes)
        self.traps.post(Post(at.place, at.offset, at.width_bytes, value))

    def read(self, place: int, offset: int, width_bytes: int) -> int:
        """Reads `width_bytes` at an offset of range number `place`."""
        return self._call(Read(place, offset, width_bytes))[0]

    def write(self, place: int, offset: int, width_bytes: int, value: int) -> None:
        """Writes `width_bytes` at an offset of range number `place`."""
        _check("value", value, width_bytes)
        self._call(Write(place, offset, width_bytes, value))

    def batch(self) -> Batch:
        """Collects accesses; they are done in order, in one round trip, by `Batch.run`."""
        return Batch(self)

    def flush(self) -> None:
        """Waits until all posted writes are done. Raises: the error of one of them."""
        self._call(BatchMessage(()))

    def mapped(self, name: str) -> memoryview:
        """A mapped range as memory; access to it is no trap.

        Raises:
            NotFound: no mapped range has that name.
        """
        try:
            return self._mapped[name].buffer
        except KeyError:
            raise NotFound("mapped range", name) from None

    def close(self) -> None:
        self.traps.close()
        for region in self._mapped.values():
            region.close()

    def __enter__(self) -> Vcoproc:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Batch:
    """Accesses in order, sent together. At most `limits.BATCH_OPS_MAX` go in one message."""

    def __init__(self, vcoproc: Vcoproc) -> None:
        self._vcoproc = vcoproc
        self._accesses: list[tuple[bool, int, int, int, int]] = []

    def read32(self, register: str | int) -> Batch:
        at = self._vcoproc.address(register)
        self._accesses.append((False, at.place, at.offset, at.width_bytes, 0))
        return self

    def write32(self, register: str | int, value: int) -> Batch:
        at = self._vcoproc.address(register)
        _check("value", value, at.width_bytes)
        self._accesses.append((True, at.place, at.offset, at.width_bytes, value))
        return self

    def run(self) -> list[int]:
        """Does them; gives the values read, in order.

        Raises:
            TrapRefused: at the first access that fails (`index`); the ones after it are not done.
        """
        values: list[int] = []
        accesses, self._accesses = self._accesses, []
        for start in range(0, len(accesses), BATCH_OPS_MAX):
            chunk = tuple(accesses[start : start + BATCH_OPS_MAX])
            try:
                values += self._vcoproc._call(BatchMessage(chunk))
            except TrapRefused as error:
                error.index += start
                raise
        return values


def _check(field: str, number: int, width_bytes: int) -> None:
    """The coproc would take it for nonsense, and end the session with all that is under way.

    Raises:
        InvalidArgument: the number has more bytes, or a sign.
    """
    if number >> (8 * width_bytes):
        raise InvalidArgument(field, f"{number:#x} is not a number of {8 * width_bytes} bits")


def place_of(access: toolstack_pb2.VcoprocAccess) -> Place:
    return Place(access.trap_endpoint, access.trap_credential)


def resource_id(name: str) -> str:
    """The last part of a resource name: "audio" of "domains/d/vcoprocs/audio"."""
    return name.rpartition("/")[2]
