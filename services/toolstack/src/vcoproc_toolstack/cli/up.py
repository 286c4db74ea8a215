"""A whole cluster on this machine: every process as a child, in one run directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from vcoproc.config import CoprocConfig, SystemConfig, read_system_file
from vcoproc.errors import InvalidArgument, RequestError
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.cli.following import CoprocFollower
from vcoproc_toolstack.cli.supervisor import ChildSpec, Supervisor
from vcoproc_toolstack.target import VARIABLE

_LOCK: Final = "up.lock"
_LOG_DIR: Final = "log"
_SERVICES: Final = ("toolstack", "scheduler", "irq-router")
_OURS: Final = ("*.sock", "*.grpc", "*.lock", "cluster.key*", "toolstack.db*", "memory", _LOG_DIR)
"""Everything that a cluster leaves in its run directory."""


class RunDirBusy(RequestError):
    """Another cluster runs in the run directory."""

    reason = "RUN_DIR_BUSY"

    def __init__(self, run_dir: Path, owner: str) -> None:
        super().__init__(f"run directory {run_dir} is in use by process {owner or '?'}")
        self.run_dir = run_dir
        self.owner = owner


@dataclass(frozen=True, slots=True)
class ListenOn:
    """How the control API is served over TCP: see `vcoproc-toolstack --help`."""

    address: str
    tls_dir: Path
    access_file: Path

    def arguments(self) -> tuple[str, ...]:
        """For the toolstack's command."""
        files = ("--tls-dir", str(self.tls_dir.absolute()))
        return ("--listen", self.address, *files, "--access", str(self.access_file.absolute()))


class Cluster:
    """A cluster of child processes.

    As a context manager it is started on entry and stopped on exit::

        with Cluster(Path("examples/demo.dts"), Path("/dev/shm/test")) as cluster:
            domain = vcoproc.guest.Domain("fir", cluster.run_dir)

    A coproc that is added at run time gets a coproc-sim too, and that of a removed one ends.

    Args:
        tree: the system's device tree.
        run_dir: made when it does not exist, and then removed at the end.
        instances: coproc-sims for each template of the tree, and at most for each that is added.
        log_dir: one file for each process; in the run directory (and gone with it) when None.
        store: of the toolstack: a path or a postgresql:// URL; a file in the run directory when
            None.
        include: folders of what the tree includes, besides its own.
        cpp: whether the C preprocessor has to be run on the tree first.
        listen: where the control API is served over TCP too; nowhere when None.
        report: is told, in words for people, of processes that die and return.

    Raises:
        NotFound: there is no such tree.
        InvalidConfig: the tree is wrong. Nothing has been started or made.
        InvalidArgument: too many instances, or the run directory's path is too long.
    """

    def __init__(
        self,
        tree: Path,
        run_dir: Path,
        *,
        instances: int = 1,
        log_dir: Path | None = None,
        store: Path | str | None = None,
        include: Iterable[Path] = (),
        cpp: bool = False,
        listen: ListenOn | None = None,
        report: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._listen = listen
        self._tree = Path(tree).absolute()
        self._include = tuple(Path(folder).absolute() for folder in include)
        self._cpp = cpp
        self.system = read_system_file(tree, include=self._include, cpp=cpp)
        self.coprocs = coprocs_to_start(self.system, instances)
        self._instances = instances
        self._followed = {coproc.name for coproc in self.coprocs}
        self._follower: CoprocFollower | None = None
        self._directory = RunDir(run_dir)
        self.run_dir = self._directory.path
        self._log_dir = log_dir
        self._store = store
        self._report = report
        self._lock: int | None = None
        self._made_dir = False
        self._before: frozenset[str] = frozenset()
        self._supervisor: Supervisor | None = None
        self._stop_requested = False
        self.ready_ns = 0
        """How long the start took."""

    def start(self) -> None:
        """Starts everything; returns when every process serves.

        Raises:
            RunDirBusy: another cluster has the run directory.
            StartFailed, StartAborted, OSError: it did not start; nothing is left of it.
        """
        began_ns = time.monotonic_ns()
        self._made_dir = not self.run_dir.exists()
        if not self._made_dir:
            self._before = frozenset(path.name for path in self.run_dir.iterdir()) - {_LOCK}
        self._directory.create()
        self._lock = _lock(self.run_dir)
        try:
            log_dir = self._log_dir or self.run_dir / _LOG_DIR
            log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.cluster_key()
            notify_path = self._directory.socket_path("notify")
            notify_path.unlink(missing_ok=True)  # of one that was killed
            self._supervisor = Supervisor(self._specs(), notify_path, report=self._report)
            if self._stop_requested:
                self._supervisor.request_stop()
            self._supervisor.start()
            self._follower = CoprocFollower(self.run_dir, self._instances, self._follow)
            self._follower.start()
        except BaseException:
            self._supervisor = None
            self._clean(keep=self._before)
            raise
        self.ready_ns = time.monotonic_ns() - began_ns

    def request_stop(self) -> None:
        """Makes `start` or `wait` return soon. Safe in signal handlers."""
        self._stop_requested = True
        if self._supervisor is not None:
            self._supervisor.request_stop()

    def wait(self) -> None:
        """Returns when `request_stop` was called and all processes have ended."""
        assert self._supervisor is not None, "not started"
        self._supervisor.join()

    def stop(self) -> None:
        """Ends everything and removes what it made. Does nothing when it does not run."""
        if self._supervisor is None:
            return
        try:
            if self._follower is not None:
                self._follower.stop()
            self._supervisor.stop()
        finally:
            self._supervisor = None
            self._clean(keep=frozenset())

    def pids(self) -> Mapping[str, int]:
        """The processes that run now: irq-router, scheduler, toolstack, and coprocs by name."""
        return self._supervisor.pids() if self._supervisor is not None else {}

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _follow(self, names: set[str]) -> None:
        """Adds and ends coproc-sims. names: of all coprocs that are to have one."""
        assert self._supervisor is not None
        for name in sorted(names - self._followed):
            self._report(f"coproc {name} was added")
            self._supervisor.add(self._coproc_spec(name))
        for name in sorted(self._followed - names):
            self._report(f"coproc {name} was removed")
            self._supervisor.dismiss(_child(name))
        self._followed = names

    def _coproc_spec(self, name: str) -> ChildSpec:
        return self._spec(_child(name), "vcoproc_sim", "--coproc", name)

    def _spec(self, name: str, module: str, *arguments: str, **environ: str) -> ChildSpec:
        # -P: what lies in the directory that the user is in must not be imported.
        command = (sys.executable, "-P", "-m", module, "--run-dir", str(self.run_dir))
        log_dir = self._log_dir or self.run_dir / _LOG_DIR
        return ChildSpec(name, (*command, *arguments), log_dir / f"{name}.log", environ)

    def _specs(self) -> list[ChildSpec]:
        spec = self._spec
        # Not on the command line: everybody can read it, and a URL may have a password.
        store = {VARIABLE: str(self._store or "")}
        folders = [part for folder in self._include for part in ("--include", str(folder))]
        tree = ("--tree", str(self._tree), *folders, *(("--cpp",) if self._cpp else ()))
        listen = () if self._listen is None else self._listen.arguments()
        # The one that takes longest to start goes first.
        return [
            spec("toolstack", "vcoproc_toolstack", *tree, *listen, **store),
            *(self._coproc_spec(coproc.name) for coproc in self.coprocs),
            spec("scheduler", "vcoproc_scheduler"),
            spec("irq-router", "vcoproc_irq_router"),
        ]

    def _clean(self, keep: frozenset[str]) -> None:
        """Removes what the cluster made, and gives the run directory free."""
        if self._made_dir:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        else:
            for path in {path for pattern in _OURS for path in self.run_dir.glob(pattern)}:
                if path.name in keep:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def coprocs_to_start(system: SystemConfig, instances: int) -> tuple[CoprocConfig, ...]:
    """The coprocs that get a coproc-sim: every fixed one, and some of each template.

    Raises:
        InvalidArgument: a template has fewer instances.
    """
    found: list[CoprocConfig] = []
    for coproc in system.coprocs:
        if not coproc.is_template:
            found.append(coproc)
            continue
        if not 1 <= instances <= coproc.instances:
            why = f"{instances} is not between 1 and {coproc.instances}, as {coproc.name} has"
            raise InvalidArgument("instances", why)
        found += [coproc.instance(index) for index in range(instances)]
    return tuple(found)


def _child(coproc: str) -> str:
    """What the coproc-sim of a coproc is called: as it, unless that is what a service is called."""
    return f"coproc:{coproc}" if coproc in _SERVICES else coproc


def _lock(run_dir: Path) -> int:
    """Takes the run directory; gives the descriptor that holds it.

    Raises:
        RunDirBusy: somebody else has it.
    """
    path = run_dir / _LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunDirBusy(run_dir, owner) from None
        # The one before may have removed the file between our open and our lock.
        try:
            same = os.fstat(descriptor).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)
