"""Who calls, and what the cluster lets it do.

The owner of the Unix socket, which nobody else can reach, is an admin. Over TCP every client shows
a certificate that the cluster's authority has signed; its common name is the caller's name, and an
access file says which role that name has:

    [roles]
    alice = "admin"
    ci = "operator"
    "*" = "viewer"      # everybody else with a certificate; without this line, nobody else

The file is read again when it has changed, so that a role is given and taken without a restart.
"""

from __future__ import annotations

import os
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vcoproc.errors import InvalidArgument, PermissionDenied, Unauthenticated
from vcoproc.limits import ACCESS_FILE_BYTES_MAX, CALLERS_MAX
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.records import Role

EVERYBODY: Final = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call."""

    name: str
    role: Role


_VIEWER: Final = (
    "AnalyseSchedule", "GetCaller", "GetCluster", "GetConfiguration", "GetCoproc", "GetDomain",
    "GetDomainDeviceTree", "GetSchedule", "GetStatistics", "GetVcoproc", "ListAlgorithms",
    "ListCoprocTypes", "ListCoprocs", "ListDomains", "ListEvents", "ListFaults", "ListLines",
    "ListVcoprocs", "WatchDecisions", "WatchEvents", "WatchLines",
)  # fmt: skip
_OPERATOR: Final = (
    "CrashDomain", "CreateDomain", "CreateVcoproc", "DestroyDomain", "DestroyVcoproc",
    "MoveVcoproc", "PauseDomain", "RenameDomain", "RestoreDomain", "RestoreVcoproc",
    "ResumeDomain", "SaveDomain", "SaveVcoproc", "SetSchedule", "SetVcoprocParameters",
    "ShutDownDomain", "StartDomain",
)  # fmt: skip
_ADMIN: Final = (
    "AddCoprocs", "DrainCoproc", "ListAuditEntries", "OpenDomain", "RemoveCoproc",
    "ReplaceCoproc", "UndrainCoproc",
)  # fmt: skip
NEEDED: Final[Mapping[str, Role]] = {
    **dict.fromkeys(_VIEWER, Role.VIEWER),
    **dict.fromkeys(_OPERATOR, Role.OPERATOR),
    **dict.fromkeys(_ADMIN, Role.ADMIN),
}
"""The least role for each call of the public API. Health and reflection need none."""
CHANGES: Final = frozenset((*_OPERATOR, *_ADMIN)) - {"ListAuditEntries"}
"""Calls that the audit log has: those that change something or give secrets away."""


def parse_roles(text: str, file_name: str) -> dict[str, Role]:
    """The roles of an access file, by name.

    Raises:
        InvalidArgument: it is no such file.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument("access file", f"{file_name}: {error}") from None
    roles = document.pop("roles", None)
    if document or not isinstance(roles, dict) or len(roles) > CALLERS_MAX:
        why = f'must have one table [roles] with at most {CALLERS_MAX} lines NAME = "ROLE"'
        raise InvalidArgument("access file", f"{file_name}: {why}")
    found = {}
    for name, word in roles.items():
        known = {role.name.lower(): role for role in Role}
        if not isinstance(word, str) or word not in known:
            why = f"{name} = {word!r}, a role is one of {', '.join(known)}"
            raise InvalidArgument("access file", f"{file_name}: {why}")
        found[name] = known[word]
    return found


class AccessFile:
    """The roles of an access file. Safe for threads.

    Raises:
        InvalidArgument: it cannot be read or is wrong. Later on such a file is logged, and the
            roles before it stay.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._lock = threading.Lock()
        self._version = self._look()
        self._roles = self._read()

    def role_of(self, name: str) -> Role | None:
        """The role of a name; None when it has none."""
        with self._lock:
            version = self._look()
            if version != self._version:
                self._version = version
                try:
                    self._roles = self._read()
                    self._log.info("access file read again", file=str(self._path))
                except InvalidArgument as error:
                    self._log.error("access file cannot be used, nothing changes", why=str(error))
            return self._roles.get(name, self._roles.get(EVERYBODY))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> dict[str, Role]:
        try:
            with self._path.open("rb") as file:
                data = file.read(ACCESS_FILE_BYTES_MAX + 1)
            text = data.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument("access file", f"{self._path}: {error}") from None
        if len(data) > ACCESS_FILE_BYTES_MAX:
            why = f"is longer than {ACCESS_FILE_BYTES_MAX} bytes"
            raise InvalidArgument("access file", f"{self._path}: {why}")
        return parse_roles(text, str(self._path))


class Access:
    """Decides about calls.

    Args:
        roles: of those who come over TCP; None when nobody can.
    """

    def __init__(self, roles: AccessFile | None) -> None:
        self._roles = roles
        self._owner = Caller(f"uid {os.getuid()}", Role.ADMIN)

    def caller(self, peer: str, attributes: Mapping[str, Any]) -> Caller:
        """Who calls.

        Args:
            peer: as gRPC names it. attributes: the authentication context of the call.

        Raises:
            Unauthenticated: no certificate with a name.
            PermissionDenied: a name without a role.
        """
        if b"ssl" not in attributes.get("transport_security_type", ()):
            if peer.startswith("unix:"):
                return self._owner
            raise Unauthenticated("it comes neither over the Unix socket nor over TLS")
        names = attributes.get("x509_common_name", ())
        name = names[0].decode(errors="replace") if names else ""
        if not name or name == EVERYBODY:
            raise Unauthenticated("its certificate has no common name")
        role = self._roles.role_of(name) if self._roles is not None else None
        if role is None:
            raise PermissionDenied(name, "nobody", "this cluster", "a role in its access file")
        return Caller(name, role)

    @staticmethod
    def check(caller: Caller, method: str) -> None:
        """Raises: PermissionDenied."""
        needed = NEEDED[method]
        if caller.role < needed:
            raise PermissionDenied(
                caller.name, caller.role.name.lower(), method, needed.name.lower()
            )
