"""The error taxonomy, and nothing else.

Four kinds, chosen by whose fault it is and what is to be done about it:

* `GuestError`: a domain or its firmware did it. Answer it, count it, perhaps fault that vcoproc.
* `RequestError`: an operator's request or file was wrong. Refuse it; state is unchanged.
* `PeerError`: another process misbehaved or went away. Drop the peer, retry within a bound.
* `DeviceFault`: one coprocessor failed. Quarantine it; the others keep running.

`InvariantViolation` and `InvalidTransition` are bugs of ours and end the process.

Every error has one stable `reason` (UPPER_SNAKE, part of the API) and typed fields; the text is
built from the fields, so that programs never have to parse it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class VcoprocError(Exception):
    """Base of all errors that cross a module border."""

    reason: ClassVar[str] = "INTERNAL"


# --- a domain's fault -----------------------------------------------------------------------------


class GuestError(VcoprocError):
    """A domain, its driver or its firmware did something wrong."""

    reason = "GUEST_ERROR"


class BadRegister(GuestError):
    """No register there, or the access is not allowed on it."""

    reason = "BAD_REGISTER"

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"register offset {offset:#x}: {why}")
        self.offset = offset
        self.why = why


class BadAccessSize(GuestError):
    """The access has another width than the register."""

    reason = "BAD_ACCESS_SIZE"

    def __init__(self, offset: int, width_bytes: int, want_bytes: int) -> None:
        super().__init__(
            f"register offset {offset:#x}: access of {width_bytes} bytes, register has {want_bytes}"
        )
        self.offset = offset
        self.width_bytes = width_bytes
        self.want_bytes = want_bytes


class RegisterDenied(GuestError):
    """The register answers only while its vcoproc is on the coprocessor (policy `deny`)."""

    reason = "REGISTER_DENIED"

    def __init__(self, offset: int) -> None:
        super().__init__(f"register offset {offset:#x}: denied while the vcoproc is switched out")
        self.offset = offset


class HoldTimeout(GuestError):
    """A held access (policy `hold`) waited for its vcoproc to run until the limit was reached."""

    reason = "HOLD_TIMEOUT"

    def __init__(self, offset: int, limit_ns: int) -> None:
        super().__init__(
            f"register offset {offset:#x}: vcoproc did not run within {limit_ns // 1_000_000} ms"
        )
        self.offset = offset
        self.limit_ns = limit_ns


class QueueFull(GuestError):
    """A bounded per-vcoproc queue is full; the access was refused, not dropped in silence."""

    reason = "QUEUE_FULL"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what}: limit of {limit} reached")
        self.what = what
        self.limit = limit


class VcoprocFaulted(GuestError):
    """The vcoproc has faulted; it answers again after a reset."""

    reason = "VCOPROC_FAULTED"

    def __init__(self, vcoproc_id: int, why: str) -> None:
        super().__init__(f"vcoproc {vcoproc_id} has faulted: {why}")
        self.vcoproc_id = vcoproc_id
        self.why = why


class TranslationFault(GuestError):
    """An address did not translate, or the access is not permitted by the tables."""

    reason = "TRANSLATION_FAULT"

    def __init__(self, address: int, access: str, stage: int, level: int, why: str) -> None:
        super().__init__(f"stage {stage} fault at level {level}: {access} of {address:#x}: {why}")
        self.address = address
        self.access = access
        self.stage = stage
        self.level = level
        self.why = why


class BadFirmware(GuestError):
    """An ELF file that cannot be loaded into this domain for this coprocessor."""

    reason = "BAD_FIRMWARE"

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


# --- an operator's fault --------------------------------------------------------------------------


class RequestError(VcoprocError):
    """A request or a file of an operator is refused; nothing has changed."""

    reason = "INVALID_REQUEST"


class NotFound(RequestError):
    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} does not exist")
        self.kind = kind
        self.name = name


class AlreadyExists(RequestError):
    reason = "ALREADY_EXISTS"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} exists already")
        self.kind = kind
        self.name = name


class WrongState(RequestError):
    reason = "WRONG_STATE"

    def __init__(self, what: str, state: str, want: str) -> None:
        super().__init__(f"{what} is {state}; this needs {want}")
        self.what = what
        self.state = state
        self.want = want


class LimitExceeded(RequestError):
    reason = "LIMIT_EXCEEDED"

    def __init__(self, what: str, limit: int, unit: str = "") -> None:
        super().__init__(f"{what}: at most {limit}{' ' + unit if unit else ''}")
        self.what = what
        self.limit = limit


class RevisionGone(RequestError):
    """A watch asks for changes that are no longer kept, or after a revision that never was.

    newest: the last revision that there is. After an older copy of the store was put back, some are
    later than it.
    """

    reason = "REVISION_GONE"

    def __init__(self, revision: int, oldest: int, newest: int) -> None:
        why = f"is gone, the oldest kept is {oldest}"
        if revision > newest:
            why = f"is later than the newest, {newest}"
        super().__init__(f"revision {revision} {why}; list again")
        self.revision = revision
        self.oldest = oldest


class WatcherTooSlow(RequestError):
    """A watcher did not read what it asked for; it may resume."""

    reason = "WATCHER_TOO_SLOW"

    def __init__(self, revision: int = 0) -> None:
        """revision: of the last event that was sent; 0 for answers that are no events."""
        resume = f"resume the watch from {revision}" if revision else "ask again"
        super().__init__(f"answers were not read in time; {resume}")
        self.revision = revision


class Unauthenticated(RequestError):
    """Nobody knows who calls."""

    reason = "UNAUTHENTICATED"

    def __init__(self, why: str) -> None:
        super().__init__(f"the caller is not known: {why}")
        self.why = why


class PermissionDenied(RequestError):
    """The caller's role does not allow this."""

    reason = "PERMISSION_DENIED"

    def __init__(self, caller: str, role: str, method: str, needed: str) -> None:
        super().__init__(f"{caller} is {role}; {method} needs {needed}")
        self.caller = caller
        self.role = role
        self.method = method
        self.needed = needed


class StoreUnavailable(RequestError):
    """Nothing can be kept just now, so nothing is changed. What runs, runs on."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self, store: str, why: str) -> None:
        super().__init__(f"store {store} cannot be used: {why}")
        self.store = store
        self.why = why


class InvalidArgument(RequestError):
    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


class NotAdmitted(InvalidArgument):
    """Good in itself, but an algorithm cannot guarantee it beside what it has promised."""

    reason = "NOT_ADMITTED"


class BadSnapshot(RequestError):
    """Bytes that are no snapshot of ours, or damaged, or of something else."""

    reason = "BAD_SNAPSHOT"

    def __init__(self, why: str) -> None:
        super().__init__(f"snapshot: {why}")
        self.why = why


class BadPlugin(RequestError):
    """An installed plug-in cannot be used: broken, incomplete, or its name is taken."""

    reason = "BAD_PLUGIN"

    def __init__(self, group: str, name: str, why: str) -> None:
        super().__init__(f"plug-in {name!r} of {group}: {why}")
        self.group = group
        self.name = name
        self.why = why


class ConfigProblem:
    """One thing that is wrong in a configuration file. Lines count from 1; 0 is the whole file."""

    __slots__ = ("file", "line", "what", "why")

    def __init__(self, file: str, line: int, what: str, why: str) -> None:
        self.file = file
        self.line = line
        self.what = what
        self.why = why

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.what}: {self.why}"


class InvalidConfig(RequestError):
    """A configuration file is wrong. Carries every problem found, not just the first."""

    reason = "INVALID_CONFIG"

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


# --- another process's fault ----------------------------------------------------------------------


class PeerError(VcoprocError):
    """Another process misbehaved, is too old, or has gone."""

    reason = "PEER_ERROR"


class RemoteProtocolError(PeerError):
    """Bytes that are not a valid message, or a valid message at the wrong moment."""

    reason = "PROTOCOL_ERROR"

    def __init__(self, why: str) -> None:
        super().__init__(f"protocol error: {why}")
        self.why = why


class VersionMismatch(PeerError):
    reason = "VERSION_MISMATCH"

    def __init__(self, ours: int, theirs: int) -> None:
        super().__init__(f"wire format version {theirs}, this side speaks {ours}")
        self.ours = ours
        self.theirs = theirs


class PeerRejected(PeerError):
    """The other side refused our hello."""

    reason = "PEER_REJECTED"

    def __init__(self, their_reason: str, detail: str) -> None:
        super().__init__(f"refused by peer: {their_reason}: {detail}")
        self.their_reason = their_reason
        self.detail = detail


class BadCredential(PeerError):
    """A hello with a secret that opens nothing here, or with one that is not the named peer's."""

    reason = "BAD_CREDENTIAL"

    def __init__(self, who: str) -> None:
        super().__init__(f"{who!r} has no valid credential")
        self.who = who


class PeerTimeout(PeerError):
    reason = "PEER_TIMEOUT"

    def __init__(self, peer: str, waited_ns: int) -> None:
        super().__init__(f"{peer} did not answer within {waited_ns // 1_000_000} ms")
        self.peer = peer
        self.waited_ns = waited_ns


class PeerLost(PeerError):
    reason = "PEER_LOST"

    def __init__(self, peer: str) -> None:
        super().__init__(f"{peer} has gone away")
        self.peer = peer


class VcoprocMoved(PeerError):
    """A driver speaks to a coproc that its vcoproc has left for another one."""

    reason = "VCOPROC_MOVED"

    def __init__(self, name: str) -> None:
        super().__init__(f"vcoproc {name!r} lives on elsewhere")
        self.name = name


class VcoprocGone(PeerError):
    """A vcoproc has no context any more; its driver has to begin anew, if it can."""

    reason = "VCOPROC_GONE"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"vcoproc {name!r} is gone: {why}")
        self.name = name
        self.why = why


class DomainGone(PeerError):
    """A domain does not exist any more, or has no memory: it was destroyed or shut down."""

    reason = "DOMAIN_GONE"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"domain {name!r} is gone: {why}")
        self.name = name
        self.why = why


class Removed(PeerError):
    """What this process is for is no longer part of the system: it has nothing left to do."""

    reason = "REMOVED"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not part of the system, or no longer")
        self.what = what


# --- a coprocessor's fault ------------------------------------------------------------------------


class DeviceFault(VcoprocError):
    """One coprocessor failed. The others keep running."""

    reason = "DEVICE_FAULT"


class SwitchTimeout(DeviceFault):
    reason = "SWITCH_TIMEOUT"

    def __init__(self, coproc: str, waited_ns: int) -> None:
        super().__init__(f"{coproc}: context switch not finished after {waited_ns // 1_000} us")
        self.coproc = coproc
        self.waited_ns = waited_ns


class PlatformFailure(DeviceFault):
    """The platform could not do what it was told; the coproc is quarantined."""

    reason = "PLATFORM_FAILURE"

    def __init__(self, coproc: str, why: str) -> None:
        super().__init__(f"{coproc}: {why}")
        self.coproc = coproc
        self.why = why


# --- our own fault --------------------------------------------------------------------------------


class InvariantViolation(VcoprocError):
    """A bug: something that must always hold does not."""

    reason = "INVARIANT_VIOLATION"


class InvalidTransition(VcoprocError):
    """A bug: an event came in a state that has no transition for it."""

    reason = "INVALID_TRANSITION"

    def __init__(self, what: str, state: str, event: str, story: Sequence[str] = ()) -> None:
        tail = "\n  ".join(("", *story)) if story else ""
        super().__init__(f"{what}: no transition from {state} on {event}{tail}")
        self.what = what
        self.state = state
        self.event = event
        self.story = tuple(story)
