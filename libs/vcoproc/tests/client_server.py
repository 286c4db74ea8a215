"""A control API that answers every call, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from vcoproc.api.v1 import cluster_pb2, toolstack_pb2
from vcoproc.runtime.rundir import RunDir

METHODS = {
    method.name: method
    for module in (toolstack_pb2, cluster_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


class FakeApi(grpc.GenericRpcHandler):
    """Every call of the public API.

    Attributes:
        asked: (method, request); a list of requests for one that streams.
        answers: by method: an answer, a list of them for a stream, or what makes one; an exception
            that it raises may be a `grpc.StatusCode`, in a pair with the words.
    """

    def __init__(self, path: Path) -> None:
        self.run_dir = RunDir(path)
        self.run_dir.create()
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {}
        self._server: grpc.Server | None = None
        self.start()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(self.run_dir.grpc("toolstack"))
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        name = details.method.rpartition("/")[2]
        method = METHODS[name]
        coding: dict[str, Any] = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": GetMessageClass(method.output_type).SerializeToString,
        }

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            streamed = method.client_streaming
            self.asked.append((name, list(request) if streamed else request))
            return self._answer(name, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.asked.append((name, request))
            yield from self._answer(name, context)

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **coding)
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(unary, **coding)
        return grpc.unary_unary_rpc_method_handler(unary, **coding)

    def _answer(self, name: str, context: grpc.ServicerContext) -> Any:
        found = self.answers.get(name)
        if found is None:
            method = METHODS[name]
            empty = GetMessageClass(method.output_type)()
            return [empty] if method.server_streaming else empty
        if isinstance(found, Callable):  # type: ignore[arg-type]
            found = found()
        if isinstance(found, tuple):
            context.abort(*found)
        return found


def in_turn(*answers: Any) -> Callable[[], Any]:
    """Gives one answer after the other, and the last one for ever."""
    left = list(answers)
    lock = threading.Lock()

    def answer() -> Any:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer
