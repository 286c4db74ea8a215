"""Calls to the cluster, with errors that say what to do next."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vcoproc.errors import PeerError, VcoprocError
from vcoproc.runtime.rundir import RunDir

if TYPE_CHECKING:
    import grpc

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3

_READ_TIMEOUT_S: Final = 10
_CHANGE_TIMEOUT_S: Final = 120
"""Twice what a domain takes with the most vcoprocs, each forced off a coproc that is slow."""
_PAGE_SIZE: Final = 1000
_USAGE_REASONS: Final = ("INVALID_ARGUMENT", "INVALID_CONFIG", "BAD_FIRMWARE")
_AGAIN: Final = "a service that died is started again by `vcoproc up`; try again"
_NEXT: Final = {
    "ALREADY_EXISTS": "choose another name, or destroy the old one first",
    "INVALID_ARGUMENT": "see `--help`",
    "INVALID_CONFIG": "correct the file; docs/configuration.md describes it",
    "LIMIT_EXCEEDED": "destroy something first, or raise the limit in the system's device tree",
    "NOT_ADMITTED": "ask for less, or give others less first; `vcoproc sched show COPROC`",
    "NOT_FOUND": "`vcoproc domain list` and `vcoproc coproc list` show what there is",
    "PEER_LOST": _AGAIN,
    "PEER_TIMEOUT": _AGAIN,
    "REVISION_GONE": "start again without --revision",
    "RUN_DIR_BUSY": "stop that process, or name another directory with --run-dir",
    "WRONG_STATE": "`vcoproc coproc list` and `vcoproc domain list` show the states",
}


class Unreachable(PeerError):
    """No cluster answers."""

    reason = "UNREACHABLE"

    def __init__(self, run_dir: Path, why: str) -> None:
        super().__init__(f"no cluster answers in {run_dir}: {why}")


def exit_code(error: VcoprocError) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, Unreachable):
        return EXIT_UNREACHABLE
    return EXIT_USAGE if error.reason in _USAGE_REASONS else EXIT_REFUSED


def next_step(error: VcoprocError) -> str:
    """What to do about an error; empty when nobody knows."""
    if isinstance(error, Unreachable):
        return "start one with `vcoproc up --tree FILE`, or name another with --run-dir"
    return _NEXT.get(error.reason, "")


class Client:
    """The public API of the cluster in a run directory.

    Raises:
        Unreachable: there is none.
        InvalidArgument: the path cannot be a run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        # gRPC would write about broken connections on stderr in words of its own.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        directory = RunDir(run_dir)
        self._run_dir = directory.path
        target = directory.grpc("toolstack")
        if not Path(target.removeprefix("unix:")).exists():
            raise Unreachable(self._run_dir, "it has no socket of a toolstack")
        from vcoproc.api.v1 import toolstack_pb2_grpc
        from vcoproc.runtime import grpc_kit

        self._channel = grpc_kit.channel(target)
        self._stub = toolstack_pb2_grpc.ToolstackServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def read(self, method: str, request: Any) -> Any:
        """A call that changes nothing. Raises: VcoprocError."""
        return self._call(lambda: getattr(self._stub, method)(request, timeout=_READ_TIMEOUT_S))

    def change(self, method: str, request: Any) -> Any:
        """A call that changes something. Raises: VcoprocError."""
        return self._call(lambda: getattr(self._stub, method)(request, timeout=_CHANGE_TIMEOUT_S))

    def list(self, method: str, request: Any, field: str) -> Any:
        """All pages of a list, in one answer. field: of the answer, where the resources are."""
        request.page_size = _PAGE_SIZE
        answer = self.read(method, request)
        token = answer.next_page_token
        while token:
            request.page_token = token
            page = self.read(method, request)
            getattr(answer, field).extend(getattr(page, field))
            token = page.next_page_token
        answer.next_page_token = ""
        return answer

    def watch(self, request: Any) -> Iterator[Any]:
        """Events as they come. Raises: VcoprocError."""
        return self.stream("WatchEvents", request)

    def stream(self, method: str, request: Any) -> Iterator[Any]:
        """Answers of a stream as they come. Raises: VcoprocError."""
        import grpc

        stream = getattr(self._stub, method)(request)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._meaning(error) from None
        finally:
            stream.cancel()

    def _call(self, call: Callable[[], Any]) -> Any:
        import grpc

        try:
            return call()
        except grpc.RpcError as error:
            raise self._meaning(error) from None

    def _meaning(self, error: grpc.RpcError) -> VcoprocError:
        import grpc

        from vcoproc.runtime import grpc_kit

        assert isinstance(error, grpc.Call)
        meant = grpc_kit.to_error(error)
        # The cluster itself says UNAVAILABLE of one of its services, with details; without them it
        # is the cluster that does not answer.
        silent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        if error.code() not in silent:
            return meant
        if info := _error_info(error):
            return grpc_kit.RemoteRefusal(info[0], info[1], {})
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreachable(self._run_dir, "the toolstack does not answer in time")
        return Unreachable(self._run_dir, "the toolstack does not answer")


def _error_info(error: grpc.Call) -> tuple[str, str] | None:
    """Reason and words that a service of ours gave; None when the words are gRPC's own."""
    from google.rpc import error_details_pb2, status_pb2

    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason, status.message
    return None
