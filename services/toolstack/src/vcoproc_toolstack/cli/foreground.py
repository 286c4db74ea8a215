"""`vcoproc up`: a cluster in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from vcoproc import limits
from vcoproc.errors import RequestError
from vcoproc_toolstack.cli.exit_codes import EXIT_REFUSED, EXIT_USAGE
from vcoproc_toolstack.cli.options import complain
from vcoproc_toolstack.cli.supervisor import StartAborted, StartFailed
from vcoproc_toolstack.cli.up import Cluster


class CannotMake(RequestError):
    """A file or directory of a cluster cannot be made or used."""

    reason = "START_FAILED"

    def __init__(self, error: OSError) -> None:
        where = f"{error.filename}: " if error.filename else ""
        super().__init__(f"the cluster cannot be started: {where}{error.strerror or error}")


_END = b"\0"
"""No signal has the number 0."""


def run_cluster(cluster: Cluster) -> None:
    """Starts a cluster, says that it is ready, and ends it cleanly when a signal comes.

    Raises:
        typer.Exit: it could not be started; the reason has been printed.
    """
    # A first signal asks for the end, a second one does not wait for it.
    with _signals(cluster.request_stop):
        try:
            cluster.start()
        except StartAborted:
            return
        except StartFailed as error:
            complain(error)
            raise typer.Exit(
                EXIT_USAGE if error.exit_code == EXIT_USAGE else EXIT_REFUSED
            ) from None
        except OSError as error:
            raise typer.Exit(complain(CannotMake(error))) from None
        try:
            _welcome(cluster)
            cluster.wait()
        finally:
            cluster.stop()


@contextmanager
def _signals(act: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP call `act`, at once and from another thread.

    A handler in Python runs only when the main thread does, and that one sleeps in a lock: a signal
    that comes just before it falls asleep would not wake it. What the interpreter itself writes to
    the wake-up descriptor is not lost.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write, False)

    def listen() -> None:
        while os.read(read, 1) != _END:
            act()

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup makes it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(write)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(write, _END)
        thread.join()
        os.close(read)
        os.close(write)


def _welcome(cluster: Cluster) -> None:
    hundredths = cluster.ready_ns // (10 * limits.MS)
    typer.echo(f"ready in {hundredths // 100}.{hundredths % 100:02} s, in {cluster.run_dir}")
    from vcoproc_toolstack.cli import tables

    what = {
        coproc.name: f"{coproc.compatible} at {coproc.path}, {coproc.scheduler}, "
        f"slice {coproc.slice_ns // limits.US} us"
        for coproc in cluster.coprocs
    }
    pids = cluster.pids()
    tables.processes((name, pid, what.get(name, "")) for name, pid in pids.items())
    typer.echo("Ctrl-C stops it. Next: vcoproc domain create FILE")
