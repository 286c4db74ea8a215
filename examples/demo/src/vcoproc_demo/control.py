"""What the demo asks of a running cluster: domains, accounts and turns."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import grpc

from vcoproc.client import Cluster
from vcoproc.client.names import short_name
from vcoproc.errors import VcoprocError, WrongState
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.runtime.grpc_kit import channel, to_error
from vcoproc.runtime.rundir import RunDir
from vcoproc_demo.turns import Turn

COMPATIBLE: Final = "vcoproc,cortex-m4"
"""What the firmware is built for."""
CALL_S: Final = 10
"""The scheduler answers at once, on a busy machine in some seconds."""
_SPEC = re.compile(r"\bcoproc=[^,\"'\s]+")
_PATHS = re.compile(r"^\s*coproc\s*=\s*\[.*\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CoprocInfo:
    """The coproc that the demo shares. slice_us: granted time per turn."""

    name: str
    path: str
    scheduler: str
    slice_us: int


@dataclass(frozen=True, slots=True)
class Account:
    """The scheduler's figures of one vcoproc, in its coproc's time."""

    run_ns: int
    switch_count: int


class Control:
    """Calls to a cluster; a context manager.

    Args:
        run_dir: of the cluster.

    Raises:
        Unreachable: there is no cluster.
    """

    def __init__(self, run_dir: Path) -> None:
        self._cluster = Cluster(run_dir)
        # Turns are no part of the control API: the scheduler itself is asked.
        self._channel = channel(RunDir(run_dir).grpc("scheduler"))
        self._scheduler = control_pb2_grpc.SchedulerControlServiceStub(self._channel)

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()
        self._cluster.close()

    def pick_coproc(self, vcoprocs: int) -> CoprocInfo:
        """The first coproc that is online, fits the firmware and has room.

        Raises:
            WrongState: there is none.
        """
        for coproc in self._cluster.coprocs(f"state=ONLINE compatible={COMPATIBLE}"):
            if coproc.vcoproc_count + vcoprocs <= coproc.vcoproc_count_max:
                return CoprocInfo(
                    short_name(coproc.name), coproc.path, coproc.scheduler, coproc.slice_us
                )
        raise WrongState(
            "the cluster",
            f"without a {COMPATIBLE} online that has room for {vcoprocs} more vcoprocs",
            "one",
        )

    @contextlib.contextmanager
    def domain(self, config: str, file_name: str) -> Iterator[int]:
        """A domain for the time of the block; gives the number of its vcoproc.

        Raises:
            RemoteRefusal: the toolstack does not want it, as when it exists already.
        """
        domain = self._cluster.create_domain(config, file_name=file_name)
        try:
            yield domain.vcoprocs[0].vcoproc_id
        except BaseException:
            # The first error matters; the cluster may have gone with it.
            with contextlib.suppress(VcoprocError):
                self._cluster.destroy_domain(domain.name)
            raise
        self._cluster.destroy_domain(domain.name)

    def accounts(self) -> dict[int, Account]:
        """The figures of all vcoprocs, by number."""
        return {
            vcoproc.vcoproc_id: Account(vcoproc.accounting.run_ns, vcoproc.accounting.switch_count)
            for vcoproc in self._cluster.vcoprocs()
            if vcoproc.HasField("accounting")
        }

    def turns(self, coproc: str) -> list[Turn]:
        """The turns of a coproc that the scheduler still knows, oldest first."""
        request = control_pb2.ListTurnsRequest(coproc=coproc)
        try:
            found = self._scheduler.ListTurns(request, timeout=CALL_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise to_error(error) from None
        return [
            Turn(
                vcoproc_id=turn.vcoproc_id,
                began_ns=turn.began_ns,
                ended_ns=turn.ended_ns,
                switch_ns=turn.save_ns + turn.mmu_ns + turn.restore_ns,
            )
            for turn in found.turns
        ]


def retarget(config: str, coproc: str) -> str:
    """A domain file's text with its one vcoproc on the coproc of that name."""
    text = _SPEC.sub(f"coproc={coproc}", config)
    return _PATHS.sub(f'vcoproc = [ "coproc={coproc}" ]', text)
