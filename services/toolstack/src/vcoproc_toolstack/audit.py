"""The audit log: every change that somebody asks for, who it was, and what it did.

An entry is kept before anything is changed, and completed afterwards: nothing is changed that
nobody has written down. An entry that a toolstack could not complete is completed by the next one,
as CUT_OFF.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf import json_format

from vcoproc.errors import VcoprocError
from vcoproc.limits import AUDIT_TEXT_BYTES_MAX
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.access import CHANGES, NEEDED, Access, Caller
from vcoproc_toolstack.audit_log import AuditLog
from vcoproc_toolstack.records import ACTOR

_TEXT_SHOWN_MAX: Final = 256
"""Of a text in a request; a domain's file is longer and may hold passwords."""


Describe: TypeAlias = Callable[[str], str]
"""The JSON text of a resource as it is to be now, by its name; empty when there is none."""


class Guard:
    """Stands before every call of the public API: checks the caller, and writes down changes.

    Args:
        describe: see there.
    """

    def __init__(self, access: Access, audit_log: AuditLog, describe: Describe, log: Log) -> None:
        self._access = access
        self._audit_log = audit_log
        self._describe = describe
        self._log = log

    def caller(self, context: grpc.ServicerContext) -> Caller:
        """Who calls. Raises: Unauthenticated, PermissionDenied."""
        return self._access.caller(context.peer(), context.auth_context())

    @contextmanager
    def __call__(
        self, path: str, request: Any, context: grpc.ServicerContext
    ) -> Iterator[Callable[[Any], None]]:
        """Around one call; inside, the answer is told to what it gives.

        Args:
            path: "/package.Service/Method". request: None when it is a stream.

        Raises:
            Unauthenticated, PermissionDenied: the caller may not do this.
            StoreUnavailable: the change cannot be written down.
        """
        method = path.rpartition("/")[2]
        caller = self.caller(context)
        if method not in NEEDED:  # health and reflection
            yield lambda _answer: None
            return
        self._access.check(caller, method)
        if method not in CHANGES or getattr(request, "validate_only", False):
            yield lambda _answer: None
            return
        token = ACTOR.set(caller.name)
        try:
            with self._written_down(caller, method, request, context) as answered:
                yield answered
        finally:
            ACTOR.reset(token)

    @contextmanager
    def _written_down(
        self, caller: Caller, method: str, request: Any, context: grpc.ServicerContext
    ) -> Iterator[Callable[[Any], None]]:
        name = name_of(request)
        number = self._audit_log.begin(
            caller=caller.name,
            role=caller.role,
            method=method,
            name=name,
            request=shown(request),
            before=self._describe(name) if name else "",
        )
        found = [name]

        def answered(answer: Any) -> None:
            found[0] = name_of(answer) or name

        outcome = "INTERNAL"
        try:
            yield answered
            outcome = "OK"
        except VcoprocError as error:
            # What was sent up to then is no good only because it was cut off.
            cut_off = request is None and not context.is_active()
            outcome = "CANCELLED" if cut_off else error.reason
            raise
        except BaseException:  # also GeneratorExit, which ends a stream that nobody reads
            if not context.is_active():
                outcome = "CANCELLED"
            raise
        finally:
            after = self._describe(found[0]) if outcome == "OK" and found[0] else ""
            self._complete(number, found[0], after, outcome)

    def _complete(self, number: int, name: str, after: str, outcome: str) -> None:
        try:
            self._audit_log.complete(number, name=name, after=after, outcome=outcome)
        except VcoprocError as error:
            # What was asked for is done and was answered for; the entry says that it began.
            self._log.error("audit entry cannot be completed", number=number, why=str(error))


def name_of(message: Any) -> str:
    """The resource that a request or an answer is about; empty when it names none."""
    for field in ("name", "coproc", "domain"):
        value = getattr(message, field, "")
        if isinstance(value, str) and value:
            return value
    schedule = getattr(message, "schedule", None)  # of SetScheduleResponse
    return name_of(schedule) if schedule is not None else ""


def shown(request: Any) -> str:
    """A request as JSON, long texts and bytes by their length alone."""
    if request is None:
        return ""
    document = json_format.MessageToDict(request, preserving_proto_field_name=True)
    for field, value in document.items():
        if isinstance(value, str) and len(value) > _TEXT_SHOWN_MAX:
            document[field] = f"<{len(value)} characters>"
    if "config" in document:
        document["config"] = f"<{len(request.config)} characters>"
    return json_text(document)


def message_json(message: Any) -> str:
    """A resource as JSON, with the names of the proto."""
    return json_text(json_format.MessageToDict(message, preserving_proto_field_name=True))


def json_text(document: Any) -> str:
    """As JSON, as much as an entry has room for."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return text if len(text) <= AUDIT_TEXT_BYTES_MAX else text[:AUDIT_TEXT_BYTES_MAX] + "..."
