"""A store that cannot be written: changes are refused, reads go on, then changes too."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from postgresql_server import PostgresqlServer
from store_kit import add_events, contents, domain, domains, make, vcoproc
from toolstack_picture import run_firmware
from toolstack_rig import CORTEX_M4, NO_REQUEST, NOTHING, Rig, one_vcoproc, seal_vcoproc
from toolstack_server import TIMEOUT_S, Server, lease_request

from vcoproc import limits
from vcoproc.errors import InvalidArgument, StoreUnavailable
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.limits import DOMID_FIRST
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.first_domain import FIRST_MARK
from vcoproc_toolstack.records import ACTOR, EventKind, Life
from vcoproc_toolstack.steps import STORE, RemoveDomain
from vcoproc_toolstack.store import Change, Store
from vcoproc_toolstack.turns import Request

# --- a disk that is full --------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 1 MiB."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system can be mounted by root alone: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    """Leaves no byte of a file system."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)


def change_until_refused(store: Store, numbers: Iterator[int]) -> list[str]:
    """Makes domains until one is refused; gives the names of the others."""
    made = []
    with pytest.raises(StoreUnavailable) as caught:
        while True:
            name = f"d{next(numbers)}"
            with store.change() as change:
                change.add_domain(domain(change.next_domid(), name))
                change.add_event(f"domains/{name}", EventKind.CREATED, "x" * 1000)
            made.append(name)
    assert caught.value.store == store.name
    return made


def check_full_disk(path: Path, fill: Callable[[], None], make_room: Callable[[], None]) -> None:
    store = make(path)
    add_events(store, 1)
    fill()
    numbers = count()
    made = change_until_refused(store, numbers)
    full = contents(store)
    assert [each.name for each in domains(store)] == sorted(made)
    for _ in range(3):
        assert change_until_refused(store, numbers) == []
    assert contents(store) == full
    make_room()
    with store.change() as change:
        change.add_event("domains/late", EventKind.CREATED, "")
    with store.read() as view:
        assert view.revision() == len(made) + 3, "no gap"
    before = contents(store)
    store.close()
    store = make(path)
    assert contents(store) == before
    store.close()


def test_a_full_file_system(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small"):
        filler = tmp_path / "small" / "filler"
        check_full_disk(
            tmp_path / "small" / "store.db", lambda: fill(filler), make_room=filler.unlink
        )


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """Python ignores SIGXFSZ, so that a write beyond the limit fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(*, off: bool) -> None:
        bounds = before if off else (256 * limits.KIB, before[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)

    try:
        check_full_disk(
            tmp_path / "store.db", lambda: limit(off=False), make_room=lambda: limit(off=True)
        )
    finally:
        limit(off=True)


# --- a file that is gone --------------------------------------------------------------------------


def test_a_file_that_was_taken_away_gets_no_change_that_would_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = make(path)
    add_events(store, 1)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="No such file"), store.change() as change:
        change.add_event("domains/a", EventKind.CHANGED, "would be lost")
    assert contents(store)["revision"] == 2
    (tmp_path / "elsewhere").rename(path)
    add_events(store, 1)
    store.close()
    store = make(path)
    assert contents(store)["revision"] == 3
    store.close()


def test_an_older_copy_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = make(path)
    store.close()
    copy = path.read_bytes()
    store = make(path)
    add_events(store, 3)
    for name in ("store.db", "store.db-wal", "store.db-shm"):
        (tmp_path / name).unlink()
    path.write_bytes(copy)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="restart the toolstack"):
            add_events(store, 1)
    assert contents(store)["revision"] == 4
    store.close()


def test_a_file_can_be_copied_while_it_is_in_use(tmp_path: Path) -> None:
    """As `sqlite3 FILE ".backup COPY"` does."""
    store = make(tmp_path / "store.db")
    add_events(store, 3)
    with (
        closing(sqlite3.connect(tmp_path / "store.db")) as source,
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
    ):
        source.backup(copy)
    add_events(store, 1)
    store.close()
    copied = make(tmp_path / "copy.db")
    assert contents(copied)["revision"] == 4
    copied.close()


# --- a server that is gone ------------------------------------------------------------------------


def test_a_server_that_restarts_is_not_noticed(postgresql: PostgresqlServer) -> None:
    store = make(postgresql.new_schema())
    add_events(store, 1)
    postgresql.stop()
    postgresql.start()
    add_events(store, 1)
    assert contents(store)["revision"] == 3
    store.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_changes_are_refused_while_there_is_no_server(
    postgresql: PostgresqlServer, how: signal.Signals
) -> None:
    url = postgresql.new_schema()
    store = make(url)
    with store.change() as change:
        change.add_domain(domain(1, "a", vcoproc(1, 1, "a")))
    before = contents(store)
    postgresql.stop(how)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="connection") as caught:
            add_events(store, 1)
        assert caught.value.reason == "STORE_UNAVAILABLE"
    assert contents(store) == before
    postgresql.start()
    add_events(store, 2)
    after = contents(store)
    assert after["revision"] == 3
    store.close()
    store = make(url)
    assert contents(store) == after
    store.close()


def backend_of(postgresql: PostgresqlServer) -> int:
    """The server's process for the toolstack."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'vcoproc-toolstack'"
    [[pid]] = postgresql.execute(query)
    assert isinstance(pid, int)
    return pid


def test_a_server_that_does_not_answer_is_given_up(
    postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_TIMEOUT_NS", 100 * limits.MS)
    store = make(postgresql.new_schema())
    add_events(store, 1)
    hung = backend_of(postgresql)
    os.kill(hung, signal.SIGSTOP)
    try:
        # Nothing was sent that could be kept, so it is done over; the lock is still held, though.
        with pytest.raises(StoreUnavailable):
            add_events(store, 1)
    finally:
        os.kill(hung, signal.SIGCONT)
    assert contents(store)["revision"] == 2
    add_events(store, 1)
    assert contents(store)["revision"] == 3
    store.close()


@pytest.mark.parametrize("kept", [False, True])
def test_a_commit_that_nobody_knows_of_is_found_out(
    postgresql: PostgresqlServer, kept: bool
) -> None:
    """The connection breaks before the commit arrives, or before its answer does."""
    url = postgresql.new_schema()
    store = make(url)
    add_events(store, 1)
    assert store._database._connection is not None
    driver: Any = store._database._connection.connection.dbapi_connection
    commit = driver.commit

    def cut() -> None:
        if kept:
            commit()
        postgresql.execute(f"SELECT pg_terminate_backend({backend_of(postgresql)}, 10000)")
        driver.execute("the server says why")

    driver.commit = cut
    with pytest.raises(StoreUnavailable), store.change() as change:
        change.add_domain(domain(1, "a"))
        change.add_event("domains/a", EventKind.CREATED, "perhaps")
    assert contents(store)["revision"] == 2, "not before it is sure"
    store.recover()
    assert [each.name for each in domains(store)] == (["a"] if kept else [])
    assert contents(store)["revision"] == 2 + kept
    add_events(store, 1)
    after = contents(store)
    assert after["revision"] == 3 + kept
    store.close()
    store = make(url)
    assert contents(store) == after
    store.close()


# --- a toolstack that is killed -------------------------------------------------------------------

WRITER = """
import sys
from store_kit import domain, make, vcoproc
from vcoproc_toolstack.records import EventKind

store = make(sys.argv[1])
while True:
    with store.change() as change:
        number = change.next_domid()
        name = f"d{number}"
        change.add_domain(domain(number, name, vcoproc(change.next_vcoproc_id(), number, name)))
        change.add_event(f"domains/{name}", EventKind.CREATED, "")
        change.add_answer(name, b"print", name.encode())
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seen", [1, 2, 17])
def test_what_was_acknowledged_outlasts_the_process(target: Path | str, seen: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    ) as writer:
        assert writer.stdout is not None
        for number in range(1, seen + 1):
            assert int(writer.stdout.readline()) == number
        writer.kill()
        acknowledged = [int(line) for line in writer.stdout.readlines()] or [seen]
    store = make(target)
    found = domains(store)
    assert len(found) >= acknowledged[-1]
    with store.read() as view:
        assert view.revision() == 1 + len(found)
        for each in found:
            assert [v.vcoproc_id for v in each.vcoprocs] == [each.domid]
            assert view.answer(each.name, b"print") == each.name.encode()
    store.close()


# --- one toolstack for one store ------------------------------------------------------------------


def test_a_second_toolstack_is_refused(target: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORE_LOCK_WAIT_NS", 10 * limits.MS)
    first = make(target)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="is in use by another toolstack"):
            make(target)
    add_events(first, 1)
    first.close()
    second = make(target)
    assert contents(second)["revision"] == 2
    second.close()


def test_another_schema_is_another_store(postgresql: PostgresqlServer) -> None:
    first, second = make(postgresql.new_schema()), make(postgresql.new_schema())
    add_events(first, 1)
    assert contents(second)["revision"] == 1
    first.close()
    second.close()


def test_who_lost_the_store_to_another_one_does_not_write_to_it(
    postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_LOCK_WAIT_NS", 10 * limits.MS)
    url = postgresql.new_schema()
    first = make(url)
    postgresql.execute(f"SELECT pg_terminate_backend({backend_of(postgresql)}, 10000)")
    second = make(url)
    with pytest.raises(StoreUnavailable, match="in use by another toolstack"):
        add_events(first, 1)
    second.close()
    with pytest.raises(StoreUnavailable, match="restart the toolstack"):
        add_events(first, 1)
    first.close()


# --- secrets --------------------------------------------------------------------------------------

PASSWORD = "s3cret%2F"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@localhost:1/db",
        f"postgresql://me:{PASSWORD}@/db?host=/nowhere",
        f"postgresql://me:{PASSWORD}@/db?host=/nowhere&nonsense=1",
        f"postgresql://me:{PASSWORD}@localhost:port/db",
        f"postgresql://me:x@{PASSWORD}@localhost/db",
        f"postgresql:///db?host=/nowhere&password={PASSWORD}",
        f"mysql://me:{PASSWORD}@localhost/db",
    ],
)
def test_a_password_is_told_to_nobody(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make(url)
    shown = f"{caught.value} {caught.value.__dict__}"
    assert "s3cret" not in shown
    assert "store" in shown


def test_a_server_that_repeats_the_password_is_cut_short(postgresql: PostgresqlServer) -> None:
    url = postgresql.url().replace("postgresql:///postgres", "postgresql://:nobody@/nobody")
    with pytest.raises(InvalidArgument, match=r'database "\*\*\*" does not exist'):
        make(url)


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'vcoproc-toolstack\[postgresql\]'"):
        make("postgresql:///db")


def test_a_database_of_another_encoding_is_refused(postgresql: PostgresqlServer) -> None:
    postgresql.execute("CREATE DATABASE old ENCODING 'SQL_ASCII' TEMPLATE template0")
    with pytest.raises(InvalidArgument, match="it has the encoding SQL_ASCII, not UTF8"):
        make(postgresql.url().replace("///postgres", "///old"))


def test_a_schema_that_does_not_exist_is_refused(postgresql: PostgresqlServer) -> None:
    with pytest.raises(InvalidArgument, match="there is no such schema"):
        make(postgresql.url("nowhere"))


# --- the toolstack around it ----------------------------------------------------------------------


@contextmanager
def broken(store: Store, *, after: int = 0) -> Iterator[None]:
    """Inside, every transaction but the first ones fails."""
    run = store._database.run
    left = count(after, -1)

    def fail(work: Callable[[Any], Any]) -> Any:
        if next(left) > 0:
            return run(work)
        raise StoreUnavailable(store.name, "no space left")

    store._database.run = fail  # type: ignore[method-assign]
    try:
        yield
    finally:
        store._database.run = run  # type: ignore[method-assign]


def test_what_has_happened_is_told_when_the_database_is_back(target: Path | str) -> None:
    failed: list[None] = []
    clock = count(1)
    store = Store(target, lambda: next(clock), failed=lambda: failed.append(None))

    def note(name: str) -> None:
        store.note(lambda change: change.add_event(name, EventKind.ONLINE, ""))

    note("coprocs/dsp0")
    assert not failed
    with broken(store):
        note("coprocs/dsp1")
        note("coprocs/dsp2")
        assert len(failed) == 2
        with store.read() as view:
            assert view.revision() == 2, "no revision is told that might not be kept"
        with pytest.raises(StoreUnavailable):
            store.recover()
    store.recover()
    with store.read() as view:
        assert [(e.name, e.time_ns) for e in view.events(1)] == [
            ("coprocs/dsp0", 1), ("coprocs/dsp1", 2), ("coprocs/dsp2", 3),
        ]  # fmt: skip
    store.close()


def test_notes_come_before_the_next_change(target: Path | str) -> None:
    store = make(target)
    with broken(store):
        store.note(lambda change: change.add_event("coprocs/dsp0", EventKind.OFFLINE, ""))
    add_events(store, 1)
    with store.read() as view:
        assert [event.name for event in view.events(1)] == ["coprocs/dsp0", "domains/a"]
    store.close()


def test_who_lets_notes_be_kept_has_not_caused_them(target: Path | str) -> None:
    store = make(target)
    with broken(store):
        store.note(lambda change: change.add_event("coprocs/dsp0", EventKind.OFFLINE, ""))
    token = ACTOR.set("alice")
    try:
        add_events(store, 1)
    finally:
        ACTOR.reset(token)
    with store.read() as view:
        assert [(event.name, event.actor) for event in view.events(1)] == [
            ("coprocs/dsp0", ""), ("domains/a", "alice"),
        ]  # fmt: skip
    store.close()


@pytest.mark.parametrize("kept", [True, False])
def test_notes_that_nobody_knew_were_kept_are_told_once(target: Path | str, kept: bool) -> None:
    store = make(target)

    def note(name: str) -> None:
        store.note(lambda change: change.add_event(name, EventKind.ONLINE, ""))

    with doubtful(store, after=0, kept=kept):
        note("coprocs/dsp0")
        note("coprocs/dsp1")
    store.recover()
    with store.read() as view:
        assert [event.name for event in view.events(1)] == ["coprocs/dsp0", "coprocs/dsp1"]
    store.close()


def test_notes_beyond_the_bound_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NOTES_WAITING_MAX", 2)
    store = make(tmp_path / "store.db")

    def note(name: str) -> None:
        store.note(lambda change: change.add_event(name, EventKind.ONLINE, ""))

    with broken(store):
        for name in ("a", "b", "c", "d", "e"):
            note(name)
    store.recover()
    with store.read() as view:
        assert [(e.name, e.description) for e in view.events(1)] == [
            ("d", ""),
            ("e", ""),
            ("services/store", "3 events were lost while it could not be written"),
        ]
    store.close()


def _raise(_change: Change) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (_raise, ZeroDivisionError),
        # No database takes it: found out only when it is written.
        (lambda change: change.put_fallback_ns("dsp0", 1 << 64), (OverflowError, sa.exc.DataError)),
    ],
)
def test_a_note_with_a_bug_does_not_stop_the_changes_after_it(
    target: Path | str, wrong: Callable[[Change], None], error: Any
) -> None:
    store = make(target)
    with pytest.raises(error):
        store.note(wrong)
    add_events(store, 1)
    store.close()


@pytest.mark.parametrize("after", [0, 1])
def test_a_creation_that_cannot_be_kept_is_undone(rig: Rig, after: int) -> None:
    """At its first transaction, before anything was done; and at its last one."""
    with broken(rig.store, after=after):
        with pytest.raises(StoreUnavailable):
            rig.create()
        assert STORE in rig.marks.wait()
        assert rig.repairer.repair(STORE) is (after == 0), "else to be tried again"
    assert after or rig.services.performed == []
    assert rig.repairer.repair(STORE)
    assert rig.services.held() == NOTHING
    assert rig.domains() == []
    rig.create()


@pytest.mark.parametrize("after", [0, 1])
def test_a_destruction_that_cannot_be_kept_is_refused_or_finished(rig: Rig, after: int) -> None:
    rig.create(one_vcoproc("fir"))
    before = rig.services.held()
    with broken(rig.store, after=after), suppress(StoreUnavailable):
        rig.changes.destroy_domain("fir", NO_REQUEST)
    assert rig.repairer.repair(STORE)
    assert rig.services.held() == (before if after == 0 else NOTHING)
    assert len(rig.domains()) == (1 if after == 0 else 0)


def test_what_cannot_be_kept_is_not_tried_again_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPAIR_DELAY_NS_MIN", 1000 * limits.S)
    monkeypatch.setattr(limits, "REPAIR_DELAY_NS_MAX", 1000 * limits.S)
    rig.create(one_vcoproc("fir"))
    with broken(rig.store, after=1):
        rig.changes.destroy_domain("fir", NO_REQUEST)
        rig.services.performed.clear()
        rig.repair_in_rounds()
    removals = [step for step in rig.services.performed if isinstance(step, RemoveDomain)]
    assert len(removals) == 1


@contextmanager
def doubtful(store: Store, *, after: int, kept: bool) -> Iterator[None]:
    """Inside, nobody knows what became of a transaction, and there is no database after it."""
    run = store._database.run
    left = count(after, -1)

    def fail(work: Callable[[Any], Any]) -> Any:
        number = next(left)
        if number > 0 or (number == 0 and kept):
            done = run(work)
        if number > 0:
            return done
        if number == 0:
            store._database.in_doubt = True
        raise StoreUnavailable(store.name, "the connection broke")

    store._database.run = fail  # type: ignore[method-assign]
    try:
        yield
    finally:
        store._database.run = run  # type: ignore[method-assign]


@pytest.mark.parametrize("kept", [True, False])
def test_no_context_is_lost_while_nobody_knows_whether_a_move_was_kept(
    rig: Rig, kept: bool
) -> None:
    """Both coprocs are looked at before the store can be read again."""
    rig.create(one_vcoproc("fir"))
    run_firmware(rig)
    label = rig.services.attached["dsp0"][1].label
    with doubtful(rig.store, after=1, kept=kept):
        with pytest.raises(StoreUnavailable):
            rig.moves.move("fir", "v", "dsp1", NO_REQUEST, seal_vcoproc)
        for service in rig.due():
            rig.repairer.repair(service)
            rig.marks.mark(service)
    rig.settle()
    home = "dsp1" if kept else "dsp0"
    assert [each.coproc for each in rig.domains()[0].vcoprocs] == [home]
    [(where, seat)] = [(c, seats[1]) for c, seats in rig.services.attached.items() if seats]
    assert (where, seat.label, seat.paused) == (home, label, False)


def test_coprocs_are_repaired_while_it_is_only_an_event_that_is_in_doubt(rig: Rig) -> None:
    rig.create(one_vcoproc("fir"))
    with doubtful(rig.store, after=0, kept=False):
        rig.store.note(lambda change: change.add_event("coprocs/dsp0", EventKind.OFFLINE, ""))
        rig.unlease("dsp0")
        rig.lease("dsp0")
        assert rig.repairer.repair("coproc/dsp0")
    assert [*rig.services.attached["dsp0"]] == [1]


def test_a_repetition_gets_its_answer_though_nobody_knew_whether_it_was_kept(rig: Rig) -> None:
    """It waited for its turn while the connection broke."""
    request = Request("once", b"print")
    with doubtful(rig.store, after=1, kept=True), pytest.raises(StoreUnavailable):
        rig.create(one_vcoproc("fir"), request)
    assert rig.create(one_vcoproc("fir"), request) == b"fir 1"


def test_a_domain_that_was_saved_and_stopped_is_not_said_to_go_on(rig: Rig) -> None:
    """Its client would throw away the only thing that is left of it."""
    rig.create(one_vcoproc("fir"))
    stream = rig.saving.save_domain("fir", shut_down=True)
    pieces = [next(stream)]
    with broken(rig.store, after=1):
        pieces += stream
    rig.settle()
    assert rig.domains()[0].state is DomainState.STOPPED
    assert rig.services.held() == NOTHING


def test_the_first_domain_is_made_though_the_store_failed_while_it_was(rig: Rig) -> None:
    rig.ask_for_first_domain("coproc=dsp0,name=a")
    with broken(rig.store, after=1):
        assert not rig.first_domain.make()
        assert not rig.first_domain.make(), "what there is of it is going to be undone"
    rig.marks.mark(FIRST_MARK)
    rig.settle()
    [domain] = rig.domains()
    assert (domain.domid, domain.life) == (DOMID_FIRST, Life.ALIVE)
    assert rig.events() == [("domains/Domain-0", "DESTROYED"), ("domains/Domain-0", "CREATED")]


def test_a_coproc_is_leased_while_nothing_can_be_kept(server: Server) -> None:
    """Else a coproc-sim that restarts would be lost as long as a disk is full."""
    with broken(server.rig.store):
        stream = server.lease.LeaseCoproc(lease_request("dsp0"), timeout=TIMEOUT_S)
        assert next(stream).coproc == "dsp0"
        fault = pb.ReportFaultRequest(coproc="dsp0", why="it burns")
        server.lease.ReportFault(fault, timeout=TIMEOUT_S)
    server.rig.store.recover()
    assert server.rig.events() == [("coprocs/dsp0", "ONLINE"), ("coprocs/dsp0", "FAULTED")]
    with server.rig.store.read() as view:
        assert view.platform(CORTEX_M4) is not None
    stream.cancel()


def test_reads_go_on_while_the_server_is_gone(postgresql: PostgresqlServer, tmp_path: Path) -> None:
    rig = Rig(tmp_path, postgresql.new_schema())
    rig.create()
    postgresql.stop()
    assert [each.name for each in rig.queries.domains("", 10)[0]] == ["fir"]
    with pytest.raises(StoreUnavailable):
        rig.create(one_vcoproc("late"))
    with pytest.raises(StoreUnavailable):
        rig.changes.destroy_domain("fir", NO_REQUEST)
    postgresql.start()
    assert rig.repairer.repair(STORE)
    rig.create(one_vcoproc("late"))
    assert [each.name for each in rig.queries.domains("", 10)[0]] == ["fir", "late"]
    rig.close()
