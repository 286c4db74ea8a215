"""The guest SDK: what a domain's driver uses."""

from vcoproc.guest.domain import Domain, Interrupt
from vcoproc.guest.remoteproc import Remoteproc, RemoteprocState
from vcoproc.guest.vcoproc import Batch, Vcoproc
from vcoproc.guest.work_ring import WorkItem, WorkRing

__all__ = [
    "Batch",
    "Domain",
    "Interrupt",
    "Remoteproc",
    "RemoteprocState",
    "Vcoproc",
    "WorkItem",
    "WorkRing",
]
