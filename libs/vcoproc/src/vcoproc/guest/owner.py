"""What a domain asks of the toolstack: to be opened, found again, and declared crashed."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import grpc

from vcoproc.api.v1 import toolstack_pb2, toolstack_pb2_grpc
from vcoproc.errors import DomainGone, NotFound, WrongState
from vcoproc.limits import CALL_TIMEOUT_NS, PAGE_SIZE_MAX, WHY_BYTES_MAX, S
from vcoproc.runtime.grpc_kit import RemoteRefusal, RemoteUnavailable, channel, to_error
from vcoproc.runtime.rundir import RunDir, default_run_dir

OPEN_TIMEOUT_NS: Final = 10 * S
T = TypeVar("T")
State = toolstack_pb2.Domain.State
_WITHOUT_MEMORY: Final = (State.STATE_STOPPED, State.STATE_DESTROYING)


class Owner:
    """The owner of one domain, towards the toolstack.

    Args:
        name: of the domain; it follows when the domain is renamed.
        run_dir: of the cluster; default as for the `vcoproc` command.
    """

    def __init__(self, name: str, run_dir: Path | None = None) -> None:
        self.name = name
        self._directory = RunDir(run_dir or default_run_dir())
        self._domid = 0
        self._secret = b""

    def open(self) -> toolstack_pb2.DomainAccess:
        """Memory, sockets and secrets of the domain.

        Raises:
            RemoteRefusal: there is no such domain (reason NOT_FOUND), and others.
            RemoteUnavailable: the cluster does not answer.
        """
        # A busy cluster is waited for; one that is not there is told at once.
        wait = (self._directory.path / "toolstack.grpc").exists()
        access = self._ask(self._open, OPEN_TIMEOUT_NS, wait=wait)
        self._domid, self._secret = access.domain.domid, access.irq_credential
        return access

    def open_again(self, timeout_ns: int) -> toolstack_pb2.DomainAccess:
        """As `open`, of a domain that was opened before, whatever it is called now.

        Raises:
            DomainGone: it does not exist any more, or has no memory.
            RemoteUnavailable: the cluster does not answer.
        """
        try:
            access = self._ask(self._open, timeout_ns)
            self._check(access)
        except (RemoteRefusal, NotFound) as error:
            access = self._open_renamed(timeout_ns, error)
        if access.domain.state in _WITHOUT_MEMORY:
            state = State.Name(access.domain.state).removeprefix("STATE_")
            raise DomainGone(self.name, f"it is {state}")
        return access

    def _check(self, access: toolstack_pb2.DomainAccess) -> None:
        """Another domain may have the name by now, or the number."""
        if (access.domain.domid, access.irq_credential) != (self._domid, self._secret):
            raise NotFound("domain", self.name)

    def _open_renamed(
        self, timeout_ns: int, error: RemoteRefusal | NotFound
    ) -> toolstack_pb2.DomainAccess:
        old = self.name
        try:
            name = None
            if error.reason == NotFound.reason:
                name = self._ask(self._present_name, timeout_ns)
            if name is not None:
                self.name = name
                access = self._ask(self._open, timeout_ns)
                self._check(access)
                return access
        except (RemoteRefusal, NotFound) as another:
            error, self.name = another, old
        if error.reason == NotFound.reason:
            raise DomainGone(old, "it was destroyed") from None
        if error.reason == WrongState.reason:
            raise DomainGone(old, str(error)) from None
        raise RemoteUnavailable(str(error)) from None  # whatever it is, it may pass

    def crash(self, why: str) -> toolstack_pb2.Domain:
        """Declares that the domain has crashed. Raises: as `open`, and DomainGone."""
        request = toolstack_pb2.CrashDomainRequest(
            request_id=uuid.uuid4().hex,
            why=why.encode(errors="replace")[:WHY_BYTES_MAX].decode(errors="ignore"),
        )

        def say(
            stub: toolstack_pb2_grpc.ToolstackServiceStub, timeout_s: float, wait: bool
        ) -> toolstack_pb2.Domain:
            request.name = f"domains/{self.name}"
            return stub.CrashDomain(request, timeout=timeout_s, wait_for_ready=wait)

        try:
            return self._ask(say, OPEN_TIMEOUT_NS)
        except RemoteRefusal as error:
            if error.reason != NotFound.reason:
                raise
        self.open_again(CALL_TIMEOUT_NS)  # under the name that it has now
        return self._ask(say, OPEN_TIMEOUT_NS)

    # --- calls ------------------------------------------------------------------------------------

    def _open(
        self, stub: toolstack_pb2_grpc.ToolstackServiceStub, timeout_s: float, wait: bool
    ) -> toolstack_pb2.DomainAccess:
        request = toolstack_pb2.OpenDomainRequest(name=f"domains/{self.name}")
        return stub.OpenDomain(request, timeout=timeout_s, wait_for_ready=wait)

    def _present_name(
        self, stub: toolstack_pb2_grpc.ToolstackServiceStub, timeout_s: float, wait: bool
    ) -> str | None:
        """By its number; None: no domain has that."""
        request = toolstack_pb2.ListDomainsRequest(page_size=PAGE_SIZE_MAX)
        while True:
            page = stub.ListDomains(request, timeout=timeout_s, wait_for_ready=wait)
            for domain in page.domains:
                if domain.domid == self._domid:
                    return domain.name.removeprefix("domains/")
            if not page.next_page_token:
                return None
            request.page_token = page.next_page_token

    def _ask(
        self,
        call: Callable[[toolstack_pb2_grpc.ToolstackServiceStub, float, bool], T],
        timeout_ns: int,
        *,
        wait: bool = False,
    ) -> T:
        with channel(self._directory.grpc("toolstack")) as to_toolstack:
            stub = toolstack_pb2_grpc.ToolstackServiceStub(to_toolstack)
            try:
                return call(stub, timeout_ns / S, wait)
            except grpc.RpcError as error:
                raise to_error(error) from None
