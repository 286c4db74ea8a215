"""A vcoproc as its driver has it: what is refused before anything is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

import pytest

from vcoproc.api.v1 import toolstack_pb2 as pb
from vcoproc.errors import InvalidArgument, VcoprocGone
from vcoproc.guest.trap_link import Place
from vcoproc.guest.vcoproc import Vcoproc


def find(_vcoproc_id: int) -> Place:
    raise VcoprocGone("v", "nobody is there")


@pytest.fixture
def vcoproc() -> Iterator[Vcoproc]:
    """With nobody at the other end: whatever is sent gets no answer."""
    ranges = [pb.RegisterRange(name="ctrl", size_bytes=0x1000)]
    registers = [pb.RegisterInfo(range="ctrl", name="CONTROL", offset=8, width_bytes=4)]
    with tempfile.TemporaryDirectory(prefix="guest-") as folder:
        access = pb.VcoprocAccess(trap_endpoint=f"ipc://{folder}/x.sock", registers=registers)
        vcoproc = Vcoproc("v", pb.Vcoproc(ranges=ranges), access, find, epoch=7)
        yield vcoproc
        vcoproc.close()


@pytest.mark.parametrize("value", [1 << 32, -1])
@pytest.mark.parametrize(
    "write",
    [
        lambda vcoproc, value: vcoproc.write32("CONTROL", value),
        lambda vcoproc, value: vcoproc.post32("CONTROL", value),
        lambda vcoproc, value: vcoproc.batch().write32("CONTROL", value),
        lambda vcoproc, value: vcoproc.write32(value, 0),
        lambda vcoproc, value: vcoproc.read32(value),
    ],
)
def test_what_is_no_number_of_32_bits_is_refused(
    vcoproc: Vcoproc, write: Callable[[Vcoproc, int], object], value: int
) -> None:
    """The coproc would end the session, and the driver would learn that its peer is lost."""
    with pytest.raises(InvalidArgument, match="is not a number of 32 bits"):
        write(vcoproc, value)
