"""Follows which coprocs a cluster has, so that each has its coproc-sim."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vcoproc.errors import VcoprocError

if TYPE_CHECKING:
    from vcoproc.api.v1.toolstack_pb2 import Coproc
    from vcoproc.client import Cluster

RETRY_S: Final = 0.2
"""Before a cluster is asked again that did not answer."""


class CoprocFollower:
    """Looks at all coprocs of a cluster each time that one is added or removed.

    Args:
        instances: how many coprocs of each template count.
        follow: is told the names of all that are there, from a thread of its own.
    """

    def __init__(self, run_dir: Path, instances: int, follow: Callable[[set[str]], None]) -> None:
        self._run_dir = run_dir
        self._instances = instances
        self._follow = follow
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None
        self._thread = threading.Thread(target=self._run, name="coprocs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self._cluster is not None:
                self._cluster.close()
        self._thread.join()

    def _run(self) -> None:
        from vcoproc.client import Cluster

        while not self._stopping.is_set():
            # Whatever ends a watch: everything is looked at again then, so that nothing is missed.
            try:
                with Cluster(self._run_dir) as cluster:
                    with self._lock:
                        if self._stopping.is_set():
                            return
                        self._cluster = cluster
                    self._watch(cluster)
            except VcoprocError:
                self._stopping.wait(RETRY_S)
            except ValueError:  # what gRPC says of a channel that is closed: by `stop`
                if not self._stopping.is_set():
                    raise

    def _watch(self, cluster: Cluster) -> None:
        from vcoproc.api.v1.toolstack_pb2 import Event

        revision = self._look(cluster)
        for event in cluster.watch("type=coproc", revision=revision):
            kinds = (Event.KIND_CREATED, Event.KIND_DESTROYED)
            if event.name.startswith("coprocs/") and event.kind in kinds:
                self._look(cluster)

    def _look(self, cluster: Cluster) -> int:
        """Tells who is there now; gives the revision of that."""
        from vcoproc.client import calls

        listed = cluster.whole(calls.coprocs("", show_unused=True))
        self._follow({_name(coproc) for coproc in listed.coprocs if self._counts(coproc)})
        return int(listed.revision)

    def _counts(self, coproc: Coproc) -> bool:
        number = _name(coproc).removeprefix(f"{coproc.template}-")
        return not coproc.template or int(number) < self._instances


def _name(coproc: Coproc) -> str:
    return coproc.name.removeprefix("coprocs/")
