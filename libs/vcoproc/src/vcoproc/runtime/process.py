"""What every service process does alike: readiness, incarnation, last-resort error handling."""

from __future__ import annotations

import ctypes
import os
import resource
import secrets
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Final

from vcoproc.errors import InvalidArgument, InvalidConfig, Removed, VcoprocError
from vcoproc.runtime.logs import Log

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_REMOVED: Final = 69
"""EX_UNAVAILABLE of sysexits.h: what the process is for is not there; another start is in vain."""
EXIT_INTERNAL: Final = 70
"""EX_SOFTWARE of sysexits.h."""
_PR_SET_PDEATHSIG: Final = 1
DIE_WITH_PARENT: Final = "VCOPROC_DIE_WITH_PARENT"


def new_epoch() -> int:
    """A number for this incarnation of a process, 1 to 2**32-1."""
    return secrets.randbelow(2**32 - 1) + 1


def _notify(state: str) -> None:
    # The protocol of sd_notify(3): a datagram to the socket named by the service manager.
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        try:
            client.sendto(state.encode(), address)
        except OSError:
            return  # whoever asked to be told has gone


def notify_ready() -> None:
    """Tells the service manager (systemd, or `vcoproc up`) that this process serves."""
    _notify(f"READY=1\nMAINPID={os.getpid()}")


def notify_stopping() -> None:
    _notify("STOPPING=1")


def die_with_parent() -> None:
    """Asks the kernel for SIGTERM when the parent dies, where the parent wants that."""
    parent = os.environ.get(DIE_WITH_PARENT)
    if not parent:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the call
        sys.exit(EXIT_OK)


def take_files() -> None:
    """Lets this process have as many open files as it may.

    The usual 1024 are for programs that call select. A coproc-sim has four for each vcoproc, the
    irq-router one for each domain.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main_guard(service: str, run: Callable[[], None]) -> int:
    """Runs a service; gives its exit code. The one place that catches everything."""
    die_with_parent()
    take_files()
    log = Log(service)
    try:
        run()
    except InvalidConfig as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except InvalidArgument as error:
        print(f"{service}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except Removed as error:
        print(f"{service}: {error}", file=sys.stderr)
        return EXIT_REMOVED
    except VcoprocError as error:
        log.error(str(error), reason=error.reason)
        return EXIT_INTERNAL
    except Exception as error:
        log.error("bug", error=repr(error), trace=traceback.format_exc())
        return EXIT_INTERNAL
    return EXIT_OK
