"""The durable part of the toolstack: desired state, events and answers, in one SQLite file.

One writer at a time (`Store.change`), any number of readers; a reader sees one moment of the whole
file. WAL, so that readers never wait for a writer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from vcoproc import limits
from vcoproc.errors import InvalidArgument, LimitExceeded, RevisionGone, StoreUnavailable
from vcoproc_toolstack.coproc_rows import CoprocRowsChange, CoprocRowsView
from vcoproc_toolstack.life_rows import LifeChange, LifeView, life_values, widen_domains
from vcoproc_toolstack.records import (
    ACTOR,
    CUT_OFF,
    AuditRecord,
    DomainRecord,
    EventKind,
    EventRecord,
    Life,
    PlatformRecord,
    Role,
    VcoprocRecord,
)
from vcoproc_toolstack.rows import to_audit, to_domain, to_platform, to_setting, to_vcoproc
from vcoproc_toolstack.schedules import Parameters, Setting
from vcoproc_toolstack.tables import (
    AUDIT,
    DOMAIN_FILES,
    DOMAINS,
    EVENTS,
    META,
    METADATA,
    PLATFORMS,
    REQUESTS,
    SCHEDULES,
    SCHEMA_VERSION,
    VCOPROCS,
)

_MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {
    1: lambda _connection: None,  # a table more, which is made before
    2: lambda connection: _widen(connection),
}
"""From version n to n + 1, by n. Tables that lack are made before the first one."""
_VCOPROC_ID_MAX: Final = 2**32 - 1
_EVENTS_READ_MAX: Final = 256


class View(LifeView, CoprocRowsView):
    """One moment of the store. Valid inside `Store.read` or `Store.change` only."""

    def revision(self) -> int:
        """Of the newest event; 1 before the first."""
        # max() of the table would forget it when all events were deleted.
        query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(self._connection.execute(query).scalar_one())

    def domain(self, name: str) -> DomainRecord | None:
        found = self.domains(where=DOMAINS.c.name == name)
        return found[0] if found else None

    def domain_of(self, domid: int) -> DomainRecord | None:
        found = self.domains(where=DOMAINS.c.domid == domid)
        return found[0] if found else None

    def domains(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        where: sa.ColumnElement[bool] | None = None,
    ) -> list[DomainRecord]:
        """Domains sorted by name, with all their vcoprocs. after: name before the first."""
        query = sa.select(DOMAINS).where(DOMAINS.c.name > after).order_by(DOMAINS.c.name)
        if where is not None:
            query = query.where(where)
        rows = self._connection.execute(query.limit(limit)).mappings().all()
        by_domid: dict[int, list[VcoprocRecord]] = {row["domid"]: [] for row in rows}
        if len(rows) == 1:
            condition: sa.ColumnElement[bool] = DOMAINS.c.domid == rows[0]["domid"]
        else:
            condition = sa.true() if limit is None else DOMAINS.c.domid.in_(list(by_domid))
        for vcoproc in self._vcoprocs(condition) if rows else ():
            if vcoproc.domid in by_domid:
                by_domid[vcoproc.domid].append(vcoproc)
        return [to_domain(row, by_domid[row["domid"]]) for row in rows]

    def vcoprocs(
        self, *, domain: str = "", after: tuple[str, str] = ("", ""), limit: int | None = None
    ) -> list[VcoprocRecord]:
        """Vcoprocs sorted by domain and name. after: those of the one before the first."""
        key = sa.tuple_(DOMAINS.c.name, VCOPROCS.c.name)
        condition = key > sa.tuple_(*map(sa.literal, after))
        if domain:
            condition = condition & (DOMAINS.c.name == domain)
        return self._vcoprocs(condition, limit)

    def vcoproc(self, vcoproc_id: int) -> VcoprocRecord | None:
        found = self._vcoprocs(VCOPROCS.c.vcoproc_id == vcoproc_id)
        return found[0] if found else None

    def counts(self) -> dict[str, int]:
        """Vcoprocs of each coproc that has any."""
        query = sa.select(VCOPROCS.c.coproc, sa.func.count()).group_by(VCOPROCS.c.coproc)
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def vcoprocs_on(self, coproc: str) -> list[VcoprocRecord]:
        """Vcoprocs of one coproc, sorted by domain and name."""
        return self._vcoprocs(VCOPROCS.c.coproc == coproc)

    def settings(self) -> dict[str, Setting]:
        """How coprocs are scheduled that were set at run time, by name."""
        rows = self._connection.execute(sa.select(SCHEDULES)).mappings()
        return {row["coproc"]: to_setting(row) for row in rows}

    def fallback_ns(self, coproc: str) -> int:
        """When the last fallback of a coproc was that an event tells of; 0 for none."""
        query = sa.select(META.c.value).where(META.c.key == f"fallback/{coproc}")
        return int(self._connection.execute(query).scalar() or 0)

    def platform(self, compatible: str) -> PlatformRecord | None:
        query = sa.select(PLATFORMS.c.description).where(PLATFORMS.c.compatible == compatible)
        text = self._connection.execute(query).scalar()
        return None if text is None else to_platform(compatible, text)

    def events(self, after: int) -> list[EventRecord]:
        """The oldest events after a revision, a bounded number.

        Raises:
            RevisionGone: some of them are no longer kept, or that revision never was.
        """
        newest = self.revision()
        oldest = self._connection.execute(sa.select(sa.func.min(EVENTS.c.revision))).scalar()
        if after > newest or (after < newest and (oldest is None or after < oldest - 1)):
            raise RevisionGone(after, newest if oldest is None else oldest)
        query = sa.select(EVENTS).where(EVENTS.c.revision > after).order_by(EVENTS.c.revision)
        return [
            EventRecord(
                row["revision"], row["name"], EventKind(row["kind"]), row["description"],
                row["time_ns"], row["actor"],
            )
            for row in self._connection.execute(query.limit(_EVENTS_READ_MAX)).mappings()
        ]  # fmt: skip

    def audit(self, before: int, limit: int) -> list[AuditRecord]:
        """Entries of the audit log, newest first. before: those with a lower number; 0: all."""
        query = sa.select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit)
        if before:
            query = query.where(AUDIT.c.number < before)
        return [to_audit(row) for row in self._connection.execute(query).mappings()]

    def answer(self, request_id: str, fingerprint: bytes) -> bytes | None:
        """The answer that a request got before; None for a new one.

        Raises:
            InvalidArgument: the id belongs to another request.
        """
        query = sa.select(REQUESTS).where(REQUESTS.c.request_id == request_id)
        row = self._connection.execute(query).mappings().first()
        if row is None:
            return None
        if row["fingerprint"] != fingerprint:
            raise InvalidArgument("request_id", f"{request_id!r} was used for another request")
        return bytes(row["answer"])

    def _vcoprocs(
        self, condition: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[VcoprocRecord]:
        query = (
            sa.select(
                VCOPROCS,
                DOMAINS.c.name.label("domain"),
                DOMAINS.c.state.label("domain_state"),
            )
            .join(DOMAINS)
            .where(condition)
            .order_by(DOMAINS.c.name, VCOPROCS.c.name)
            .limit(limit)
        )
        return [to_vcoproc(row) for row in self._connection.execute(query).mappings()]


class Change(View, LifeChange, CoprocRowsChange):
    """A change in the making: all of it is kept, or nothing."""

    def __init__(self, connection: Connection, now_ns: Callable[[], int]) -> None:
        super().__init__(connection)
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Unix time."""
        return self._now_ns()

    def next_domid(self) -> int:
        """A number that no domain has. Rises, and begins again at the end, as Xen's do.

        Raises:
            LimitExceeded: there are `limits.DOMAINS_MAX` domains.
        """
        used = set(self._connection.execute(sa.select(DOMAINS.c.domid)).scalars())
        if len(used) >= limits.DOMAINS_MAX:
            raise LimitExceeded("domains", limits.DOMAINS_MAX)
        domid = self._take("next_domid", limits.DOMID_MIN)
        while domid in used or domid > limits.DOMID_MAX:
            domid = limits.DOMID_MIN if domid >= limits.DOMID_MAX else domid + 1
        self._put("next_domid", domid + 1)
        return domid

    def next_vcoproc_id(self) -> int:
        """A number that no vcoproc has or ever had.

        Raises:
            LimitExceeded: all numbers were used.
        """
        vcoproc_id = self._take("next_vcoproc_id", 1)
        if vcoproc_id > _VCOPROC_ID_MAX:
            raise LimitExceeded("vcoprocs created in all time", _VCOPROC_ID_MAX)
        self._put("next_vcoproc_id", vcoproc_id + 1)
        return vcoproc_id

    def add_domain(self, domain: DomainRecord, text: str = "") -> None:
        """Adds a domain with its vcoprocs. text: the file that it was made from."""
        self._connection.execute(
            DOMAINS.insert().values(
                domid=domain.domid,
                memory_bytes=domain.memory_bytes,
                irq_credential=domain.irq_credential,
                unknown_keys=json.dumps(domain.unknown_keys),
                create_time_ns=domain.create_time_ns,
                on_poweroff=domain.on_poweroff.value,
                on_crash=domain.on_crash.value,
                **life_values(domain),
            )
        )
        self._connection.execute(DOMAIN_FILES.insert().values(domid=domain.domid, text=text))
        for vcoproc in domain.vcoprocs:
            self.add_vcoproc(vcoproc)

    def add_vcoproc(self, vcoproc: VcoprocRecord) -> None:
        self._connection.execute(
            VCOPROCS.insert().values(
                vcoproc_id=vcoproc.vcoproc_id,
                domid=vcoproc.domid,
                name=vcoproc.name,
                coproc=vcoproc.coproc,
                compatible=vcoproc.compatible,
                life=vcoproc.life.value,
                trap_credential=vcoproc.trap_credential,
                params=json.dumps(vcoproc.params),
                ranges=json.dumps([asdict(place) for place in vcoproc.ranges]),
                lines=json.dumps([asdict(line) for line in vcoproc.lines]),
            )
        )

    def set_domain_life(self, domid: int, life: Life) -> None:
        """Changes the domain and, with it, all its vcoprocs."""
        for table in (DOMAINS, VCOPROCS):
            self._connection.execute(
                table.update().where(table.c.domid == domid).values(life=life.value)
            )

    def set_vcoproc_life(self, vcoproc_id: int, life: Life) -> None:
        self._connection.execute(
            VCOPROCS.update().where(VCOPROCS.c.vcoproc_id == vcoproc_id).values(life=life.value)
        )

    def set_vcoproc_params(self, vcoproc_id: int, params: Parameters) -> None:
        self._connection.execute(
            VCOPROCS.update()
            .where(VCOPROCS.c.vcoproc_id == vcoproc_id)
            .values(params=json.dumps(params))
        )

    def put_setting(self, coproc: str, setting: Setting | None) -> None:
        """Keeps how a coproc is scheduled; None: as the tree says."""
        self._connection.execute(SCHEDULES.delete().where(SCHEDULES.c.coproc == coproc))
        if setting is not None:
            self._connection.execute(
                SCHEDULES.insert().values(
                    coproc=coproc,
                    algorithm=setting.algorithm,
                    slice_ns=setting.slice_ns,
                    params=json.dumps(setting.parameters),
                )
            )

    def put_fallback_ns(self, coproc: str, time_ns: int) -> None:
        """See `fallback_ns`."""
        self._put(f"fallback/{coproc}", time_ns)

    def delete_domain(self, domid: int) -> None:
        for table in (VCOPROCS, DOMAIN_FILES, DOMAINS):
            self._connection.execute(table.delete().where(table.c.domid == domid))

    def delete_vcoproc(self, vcoproc_id: int) -> None:
        self._connection.execute(VCOPROCS.delete().where(VCOPROCS.c.vcoproc_id == vcoproc_id))

    def put_platform(self, platform: PlatformRecord) -> None:
        description = asdict(platform)
        del description["compatible"]
        self._connection.execute(
            PLATFORMS.delete().where(PLATFORMS.c.compatible == platform.compatible)
        )
        self._connection.execute(
            PLATFORMS.insert().values(
                compatible=platform.compatible, description=json.dumps(description)
            )
        )

    def add_event(self, name: str, kind: EventKind, description: str) -> None:
        """Notes what changed; the oldest events beyond `limits.EVENTS_KEPT_MAX` are forgotten."""
        result = self._connection.execute(
            EVENTS.insert().values(
                name=name,
                kind=kind.value,
                description=description,
                time_ns=self._now_ns(),
                actor=ACTOR.get(),
            )
        )
        revision = result.lastrowid
        old = EVENTS.c.revision <= revision - limits.EVENTS_KEPT_MAX
        self._connection.execute(EVENTS.delete().where(old))

    def begin_audit(
        self, *, caller: str, role: Role, method: str, name: str, request: str, before: str
    ) -> int:
        """Notes that a change was asked for; gives the number of the entry.

        The oldest beyond `limits.AUDIT_KEPT_MAX` are forgotten.
        """
        result = self._connection.execute(
            AUDIT.insert().values(
                time_ns=self._now_ns(),
                caller=caller,
                role=role.value,
                method=method,
                name=name,
                request=request,
                before=before,
                after="",
                outcome="",
            )
        )
        number = int(result.lastrowid)
        old = AUDIT.c.number <= number - limits.AUDIT_KEPT_MAX
        self._connection.execute(AUDIT.delete().where(old))
        return number

    def end_audit(self, number: int, *, name: str, after: str, outcome: str) -> None:
        """Notes what became of it."""
        self._connection.execute(
            AUDIT.update()
            .where(AUDIT.c.number == number)
            .values(name=name, after=after, outcome=outcome)
        )

    def end_audits_cut_off(self) -> int:
        """Completes entries that an earlier toolstack could not complete; gives their count."""
        result = self._connection.execute(
            AUDIT.update().where(AUDIT.c.outcome == "").values(outcome=CUT_OFF)
        )
        return result.rowcount

    def add_answer(self, request_id: str, fingerprint: bytes, answer: bytes) -> None:
        """Keeps an answer; the oldest beyond `limits.REQUESTS_KEPT_MAX` are forgotten."""
        result = self._connection.execute(
            REQUESTS.insert().values(request_id=request_id, fingerprint=fingerprint, answer=answer)
        )
        serial = result.lastrowid
        old = REQUESTS.c.serial <= serial - limits.REQUESTS_KEPT_MAX
        self._connection.execute(REQUESTS.delete().where(old))

    def _take(self, key: str, default: int) -> int:
        query = sa.select(META.c.value).where(META.c.key == key)
        value = self._connection.execute(query).scalar()
        return default if value is None else int(value)

    def _put(self, key: str, value: int) -> None:
        updated = self._connection.execute(
            META.update().where(META.c.key == key).values(value=value)
        )
        if updated.rowcount == 0:
            self._connection.execute(META.insert().values(key=key, value=value))


class Store:
    """The file. Safe for any number of threads.

    Args:
        path: made when it does not exist, for its owner alone.
        now_ns: Unix time, for events.

    Raises:
        InvalidArgument: the file is no store, or was written by a newer version.
    """

    def __init__(self, path: Path, now_ns: Callable[[], int]) -> None:
        self._path = path
        self._now_ns = now_ns
        self._write_lock = threading.Lock()
        self._changed = threading.Condition()
        self._change_count = 0
        try:
            path.touch(mode=0o600)
            self._engine = _open(path)
            with self.change() as change:
                _migrate(change._connection, path)
        except (OSError, sa.exc.DatabaseError, StoreUnavailable) as error:
            why = getattr(error, "orig", None) or error
            raise InvalidArgument("store", f"cannot use {path}: {why}") from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            raise StoreUnavailable(str(self._path), str(error.orig)) from error

    @contextmanager
    def read(self) -> Iterator[View]:
        """One moment of the store.

        Raises:
            StoreUnavailable: the file cannot be read.
        """
        with self._told(), self._engine.begin() as connection:
            yield View(connection)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A change, kept when the block ends without an exception. Watchers are woken.

        Raises:
            StoreUnavailable: the file cannot be written, the disk is full perhaps.
        """
        with self._told(), self._write_lock, self._engine.begin() as connection:
            yield Change(connection, self._now_ns)
        with self._changed:
            self._change_count += 1
            self._changed.notify_all()

    def wait_for_events(self, after: int, stopped: Callable[[], bool]) -> list[EventRecord]:
        """Events after a revision; waits until there are some or `stopped` (see `wake`).

        Raises:
            RevisionGone: see `View.events`.
        """
        while True:
            with self._changed:
                seen = self._change_count
            with self.read() as view:
                events = view.events(after)
            if events or stopped():
                return events
            with self._changed:
                while self._change_count == seen and not stopped():
                    self._changed.wait()

    def wake(self) -> None:
        """Lets everybody in `wait_for_events` look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        self._engine.dispose()


def _open(path: Path) -> Engine:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        # The driver must not begin transactions by itself: it would not for a SELECT, and a list
        # would be of several moments.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _widen(connection: Connection) -> None:
    widen_domains(connection)
    _add_column(connection, EVENTS.c.actor)


def _add_column(connection: Connection, column: sa.Column[Any]) -> None:
    have = {each["name"] for each in sa.inspect(connection).get_columns(column.table.name)}
    if column.name in have:  # the table is new
        return
    kind = column.type.compile(connection.dialect)
    default = "''" if isinstance(column.type, sa.Text) else "0"
    connection.exec_driver_sql(
        f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind} "
        f"NOT NULL DEFAULT {default}"
    )


def _migrate(connection: Connection, path: Path) -> None:
    META.create(connection, checkfirst=True)
    query = sa.select(META.c.value).where(META.c.key == "schema_version")
    version = connection.execute(query).scalar()
    if version is not None and version > SCHEMA_VERSION:
        why = f"{path} has version {version}, this program knows {SCHEMA_VERSION} and older"
        raise InvalidArgument("store", why)
    METADATA.create_all(connection)
    if version is None:
        connection.execute(META.insert().values(key="schema_version", value=SCHEMA_VERSION))
        # A list of a new store says revision 1, since a watch after 0 means: from now on.
        connection.execute(sa.text("INSERT INTO sqlite_sequence VALUES ('events', 1)"))
        return
    for old in range(version, SCHEMA_VERSION):
        _MIGRATIONS[old](connection)
    connection.execute(
        META.update().where(META.c.key == "schema_version").values(value=SCHEMA_VERSION)
    )
