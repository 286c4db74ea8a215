"""Where a cluster is, how it is reached, and what a failed call means. No call is made here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vcoproc.errors import InvalidArgument, PeerError, VcoprocError
from vcoproc.runtime.rundir import RunDir, default_run_dir
from vcoproc.runtime.tcp import check_address

if TYPE_CHECKING:
    import grpc

ADDRESS_VARIABLE: Final = "VCOPROC_ADDRESS"
"""host:port of a cluster that is reached over TCP."""
TLS_DIR_VARIABLE: Final = "VCOPROC_TLS_DIR"
"""Directory with ca.crt, client.crt and client.key for it."""
READ_TIMEOUT_S: Final = 10.0
CHANGE_TIMEOUT_S: Final = 120.0
"""Twice what a domain takes with the most vcoprocs, each forced off a coproc that is slow."""
PATIENCE_S: Final = 5.0
"""How long a call that reaches nobody is made again: a toolstack that died is back by then."""
_RETRY_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.5)
"""Between attempts of a call that reached nobody; the last one again and again."""


class Unreachable(PeerError):
    """No cluster answers."""

    reason = "UNREACHABLE"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"no cluster answers in {where}: {why}")
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for a cluster over TCP, as files in PEM format."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def of_directory(cls, directory: Path) -> Tls:
        """ca.crt, client.crt and client.key of a directory."""
        return cls(directory / "ca.crt", directory / "client.crt", directory / "client.key")

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Their contents: ca, certificate, key.

        Raises:
            InvalidArgument: one of them cannot be read.
        """
        try:
            return self.ca.read_bytes(), self.certificate.read_bytes(), self.key.read_bytes()
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
            raise InvalidArgument("TLS certificates", why) from None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cluster is. target: of gRPC. socket: the path of a Unix socket. tls: over TCP."""

    target: str
    shown: str
    socket: Path | None = None
    tls: Tls | None = None


def find_place(run_dir: Path | None, address: str | None, tls: Tls | None) -> Place:
    """Where the cluster is that somebody wants.

    An address wins over a run directory, what is given over the environment.

    Raises:
        InvalidArgument: both are given; an address that is not host:port, or comes without
            certificates; a path that cannot be a run directory.
    """
    if run_dir is not None and address is not None:
        raise InvalidArgument("address", "is given together with a run directory; name one")
    if address is None and run_dir is None:
        address = os.environ.get(ADDRESS_VARIABLE) or None
    if address is None:
        directory = RunDir(run_dir or default_run_dir())
        socket = Path(directory.grpc("toolstack").removeprefix("unix:"))
        return Place(f"unix:{socket}", str(directory.path), socket)
    check_address("address", address)
    if tls is None and (folder := os.environ.get(TLS_DIR_VARIABLE)):
        tls = Tls.of_directory(Path(folder))
    if tls is None:
        why = f"{address} is reached over TLS only: give certificates, or set {TLS_DIR_VARIABLE}"
        raise InvalidArgument("address", why)
    return Place(address, address, None, tls)


def check_reachable(place: Place) -> None:
    """What can be told without a call, and at once.

    Raises:
        Unreachable: the run directory has no socket of a toolstack.
    """
    # gRPC would write about broken connections on stderr in words of its own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if place.socket is not None and not place.socket.exists():
        raise Unreachable(place.shown, "it has no socket of a toolstack")


def has_ended(place: Place) -> bool:
    """Whether the cluster has ended in good order: it takes its run directory away with it."""
    return place.socket is not None and not place.socket.parent.exists()


def retry_delay_s(attempt: int) -> float:
    """How long to wait before attempt number 1, 2, 3, ..."""
    return _RETRY_DELAYS_S[min(attempt, len(_RETRY_DELAYS_S)) - 1]


def reached_nobody(error: grpc.RpcError) -> bool:
    """Whether a call failed because nobody answered: it may be made again if it may be repeated."""
    import grpc

    from vcoproc.runtime import grpc_kit

    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    return error.code() is grpc.StatusCode.UNAVAILABLE and grpc_kit.error_info(error) is None


def meaning(error: grpc.RpcError, place: Place) -> VcoprocError:
    """What a failed call means: `Unreachable`, or what the cluster said."""
    import grpc

    from vcoproc.runtime import grpc_kit

    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    # The cluster itself says UNAVAILABLE of one of its services, with details; without them it is
    # the cluster that does not answer.
    if info := grpc_kit.error_info(error):
        return grpc_kit.RemoteRefusal(*info)
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreachable(place.shown, "it does not answer in time")
    if code is grpc.StatusCode.UNAVAILABLE:
        why = error.details() if place.tls else "the toolstack does not answer"
        return Unreachable(place.shown, why or "it does not answer")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return grpc_kit.RemoteRefusal(code.name, "the cluster is older than this client", {})
    return grpc_kit.RemoteRefusal(grpc_kit.bare_reason(code), error.details() or code.name, {})
