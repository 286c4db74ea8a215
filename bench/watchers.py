"""Watchers of events, in a process of their own: `python -m bench.watchers TARGET COUNT`.

Prints "ready", and then for each event how long ago it happened when the last watcher had it, in
nanoseconds. Ends when its standard input does.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import grpc

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as rpc
from vcoproc.runtime.grpc_kit import channel


def main(target: str, count: int) -> None:
    """Watches until standard input ends."""
    with channel(target) as to_toolstack:
        stub = rpc.ToolstackServiceStub(to_toolstack)
        streams = [stub.WatchEvents(api.WatchEventsRequest()) for _ in range(count)]
        for stream in streams:
            stream.initial_metadata()
        lock = threading.Lock()
        missing: dict[int, int] = {}

        def watch(stream: Any) -> None:
            try:
                for event in stream:
                    with lock:
                        missing[event.revision] = missing.get(event.revision, count) - 1
                        if not missing[event.revision]:
                            print(time.time_ns() - event.time_ns, flush=True)
            except grpc.RpcError:
                return  # cancelled below

        threads = [threading.Thread(target=watch, args=(stream,)) for stream in streams]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        sys.stdin.read()
        for stream in streams:
            stream.cancel()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
