"""A cluster to measure: its device tree, its domains and their firmware."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vcoproc.api.v1 import toolstack_pb2, toolstack_pb2_grpc
from vcoproc.guest import Domain, Remoteproc
from vcoproc.guest.vcoproc import Vcoproc
from vcoproc.guest.work_ring import MAILBOX_READY_WORD
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.limits import KIB
from vcoproc.runtime.grpc_kit import channel
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.cli.up import Cluster

COPROC: Final = "dsp0"
FIRMWARE: Final = Path(__file__).resolve().parents[1] / "firmware"
CALL_S: Final = 10
_TREE: Final = """/dts-v1/;
/ {{
	#address-cells = <1>;
	#size-cells = <1>;
	chosen {{
		vcoproc,shared-coprocs {{
			compatible = "vcoproc,shared-coprocs";
			dsp0 {{ coproc = <&dsp0>; scheduler = "{algorithm}"; slice-us = <{slice_us}>; }};
		}};
	}};
	dsp0: dsp@f0000000 {{
		compatible = "vcoproc,cortex-m4";
		xen,coproc;
		reg = <0xf0000000 0x1000>, <0xf0001000 0x1000>;
		reg-names = "ctrl", "mbox";
		interrupts = <64>, <65>, <66>;
		interrupt-names = "irq", "event", "fault";
		vcoproc,private-memory = <{private_bytes:#x}>;
		clock-frequency = <100000000>;
	}};
}};
"""


@contextmanager
def scratch() -> Iterator[Path]:
    """A private folder on tmpfs, short enough for the paths of sockets; gone in the end."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="vcb-", dir=place) as folder:
        yield Path(folder)


def write_tree(
    folder: Path, *, slice_us: int = 5000, private_bytes: int = 64 * KIB, algorithm: str = "rr"
) -> Path:
    """A system with the one coproc; gives the file's path."""
    path = folder / "bench.dts"
    path.write_text(
        _TREE.format(slice_us=slice_us, private_bytes=private_bytes, algorithm=algorithm)
    )
    return path


@dataclass(slots=True)
class Guest:
    """A domain with one vcoproc, and the firmware on it."""

    domain: Domain
    vcoproc: Vcoproc
    firmware: Remoteproc

    def start(self) -> None:
        """Starts its firmware and waits until it listens."""
        mailbox = self.vcoproc.mapped("mbox").cast("I")
        mailbox[MAILBOX_READY_WORD] = 0
        self.firmware.start()
        while not mailbox[MAILBOX_READY_WORD]:
            self.vcoproc.read32("STATUS")  # a paced look

    def stop(self) -> None:
        self.firmware.stop()


class Rig:
    """A running cluster. scratch: a folder for whatever else needs one."""

    def __init__(self, cluster: Cluster, folder: Path, stack: ExitStack) -> None:
        self.cluster = cluster
        self.scratch = folder
        self._stack = stack
        directory = RunDir(cluster.run_dir)
        self.target: Final = directory.grpc("toolstack")
        """Of the control API."""
        to_toolstack, to_scheduler, to_coproc = (
            stack.enter_context(channel(directory.grpc(name)))
            for name in ("toolstack", "scheduler", f"coproc-{COPROC}")
        )
        self._toolstack = toolstack_pb2_grpc.ToolstackServiceStub(to_toolstack)
        self._scheduler = control_pb2_grpc.SchedulerControlServiceStub(to_scheduler)
        self._coproc = control_pb2_grpc.CoprocSimServiceStub(to_coproc)

    def guest(self, name: str, firmware: str, parameters: str = "") -> Guest:
        """Creates a domain for a firmware; does not start it. parameters: as ",weight=512"."""
        spec = f"coproc={COPROC},name=v{parameters}"
        config = f'name = "{name}"\nmemory = 1\nvcoproc = ["{spec}"]\n'
        request = toolstack_pb2.CreateDomainRequest(config=config, file_name=f"{name}.cfg")
        self._toolstack.CreateDomain(request, wait_for_ready=True, timeout=CALL_S)
        domain = self._stack.enter_context(Domain(name, self.cluster.run_dir))
        vcoproc = domain.vcoproc("v")
        remoteproc = Remoteproc(domain, vcoproc)
        remoteproc.load(FIRMWARE / firmware / f"{firmware}.elf")
        return Guest(domain, vcoproc, remoteproc)

    @contextmanager
    def bare_domain(self, name: str) -> Iterator[None]:
        """A domain without vcoprocs, as long as the block lasts: a change, and another one."""
        config = f'name = "{name}"\nmemory = 1\n'
        request = toolstack_pb2.CreateDomainRequest(config=config, file_name=f"{name}.cfg")
        self._toolstack.CreateDomain(request, wait_for_ready=True, timeout=CALL_S)
        yield
        destroy = toolstack_pb2.DestroyDomainRequest(name=f"domains/{name}")
        self._toolstack.DestroyDomain(destroy, timeout=CALL_S)

    def set_algorithm(self, algorithm: str) -> None:
        """Puts another scheduling algorithm in charge, whatever runs."""
        request = toolstack_pb2.SetScheduleRequest(coproc=f"coprocs/{COPROC}", algorithm=algorithm)
        self._toolstack.SetSchedule(request, wait_for_ready=True, timeout=CALL_S)

    def run_ns(self) -> dict[str, int]:
        """Time on the coprocessor of each domain's vcoproc, by the domain's name."""
        request = toolstack_pb2.GetScheduleRequest(coproc=f"coprocs/{COPROC}")
        schedule = self._toolstack.GetSchedule(request, wait_for_ready=True, timeout=CALL_S)
        return {
            each.vcoproc.split("/")[1]: int(each.accounting.run_ns) for each in schedule.vcoprocs
        }

    def instructions(self) -> int:
        """What all vcoprocs have executed since they were created."""
        status = self._coproc.GetStatus(control_pb2.GetStatusRequest(), timeout=CALL_S)
        return sum(vcoproc.instruction_count for vcoproc in status.vcoprocs)

    def turns(self, after_ns: int) -> list[control_pb2.Turn]:
        """Turns that began later than that time of the coproc."""
        request = control_pb2.ListTurnsRequest(coproc=COPROC, after_ns=after_ns)
        return list(self._scheduler.ListTurns(request, timeout=CALL_S).turns)

    def pid(self, process: str) -> int:
        return self.cluster.pids()[process]

    def others(self) -> list[int]:
        """Every process except the coproc's."""
        return [pid for name, pid in self.cluster.pids().items() if name != COPROC]


@contextmanager
def rig(
    *, slice_us: int = 5000, private_bytes: int = 64 * KIB, algorithm: str = "rr"
) -> Iterator[Rig]:
    """A cluster of its own, in a folder of its own."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        tree = write_tree(
            folder, slice_us=slice_us, private_bytes=private_bytes, algorithm=algorithm
        )
        cluster = stack.enter_context(Cluster(tree, folder / "run"))
        yield Rig(cluster, folder, stack)
