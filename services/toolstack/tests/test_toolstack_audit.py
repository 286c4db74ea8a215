"""The audit log: what was asked for, by whom, and what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from toolstack_server import Server, refused

from vcoproc.api.v1 import audit_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.audit import shown
from vcoproc_toolstack.audit_log import AuditLog
from vcoproc_toolstack.records import CUT_OFF, AuditRecord, Role

CONFIG = 'name = "d"\nmemory = 1\nvcoproc = ["coproc=dsp0,name=v"]\nvncpasswd = "secret"\n'


@pytest.fixture
def server(short_path: Path) -> Iterator[Server]:
    server = Server(short_path / "run")
    server.online()
    yield server
    server.close()


def entries(server: Server) -> list[AuditRecord]:
    return server.audit_log.entries(0, 100)


def test_a_change_is_kept_with_who_what_before_and_after(server: Server) -> None:
    server.create(CONFIG)
    server.call("DestroyDomain", api.DestroyDomainRequest(name="domains/d"))
    destroyed, created = entries(server)
    assert (created.number, destroyed.number) == (1, 2)
    assert created.caller == f"uid {os.getuid()}"
    assert created.role is Role.ADMIN
    assert (created.method, created.name, created.outcome) == ("CreateDomain", "domains/d", "OK")
    assert created.before == ""
    assert json.loads(created.after)["vcoprocs"][0]["name"] == "domains/d/vcoprocs/v"
    assert json.loads(destroyed.before)["memory_bytes"] == str(1 << 20)
    assert (destroyed.after, destroyed.outcome) == ("", "OK")


def test_looking_leaves_no_trace(server: Server) -> None:
    server.call("ListDomains", api.ListDomainsRequest())
    server.call("GetCoproc", api.GetCoprocRequest(name="coprocs/dsp0"))
    assert not entries(server)


def test_handing_out_secrets_leaves_a_trace(server: Server) -> None:
    server.create(CONFIG)
    server.call("OpenDomain", api.OpenDomainRequest(name="domains/d"))
    assert entries(server)[0].method == "OpenDomain"


def test_a_refused_change_is_kept_with_its_reason(server: Server) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        server.call("DestroyDomain", api.DestroyDomainRequest(name="domains/nobody"))
    (entry,) = entries(server)
    assert (entry.name, entry.outcome, entry.after) == ("domains/nobody", "NOT_FOUND", "")


def test_the_text_of_a_domain_file_stays_out_of_the_log(server: Server) -> None:
    server.create(CONFIG)
    (entry,) = entries(server)
    assert "secret" not in entry.request + entry.after
    assert json.loads(entry.request)["config"] == f"<{len(CONFIG)} characters>"


def test_long_texts_are_told_by_their_length() -> None:
    request = api.CreateVcoprocRequest(domain="domains/d", spec="x" * 300)
    assert json.loads(shown(request))["spec"] == "<300 characters>"


def test_a_schedule_is_kept_with_its_parameters(server: Server) -> None:
    request = api.SetScheduleRequest(coproc="coprocs/dsp0", algorithm="credit", slice_us=2000)
    server.call("SetSchedule", request)
    (entry,) = entries(server)
    assert entry.name == "coprocs/dsp0"
    assert json.loads(entry.before)["scheduler"] == "rr"
    after = json.loads(entry.after)
    assert (after["scheduler"], after["slice_us"]) == ("credit", 2000)


def test_an_event_names_who_caused_it(server: Server) -> None:
    server.create(CONFIG)
    with server.rig.store.read() as view:
        actors = {event.name: event.actor for event in view.events(1)}
    assert actors["domains/d"] == f"uid {os.getuid()}"


def test_nothing_is_changed_that_cannot_be_written_down(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vcoproc.errors import StoreUnavailable

    def full(*_args: object, **_kwargs: object) -> int:
        raise StoreUnavailable("store.db", "the disk is full")

    monkeypatch.setattr(server.audit_log, "begin", full)
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "full"):
        server.create(CONFIG)
    assert not server.rig.domains()


def test_an_entry_that_was_cut_off_is_completed_by_the_next_toolstack(server: Server) -> None:
    log = server.audit_log
    log.begin(caller="a", role=Role.ADMIN, method="M", name="n", request="", before="")
    log.complete_cut_off()
    (entry,) = entries(server)
    assert entry.outcome == CUT_OFF


def test_the_log_is_read_by_pages_and_filters(server: Server) -> None:
    for name in ("a", "b", "c"):
        server.create(f'name = "{name}"\n')
    request = audit_pb2.ListAuditEntriesRequest(page_size=2)
    first = server.cluster.ListAuditEntries(request)
    assert [entry.name for entry in first.entries] == ["domains/c", "domains/b"]
    request.page_token = first.next_page_token
    assert [e.name for e in server.cluster.ListAuditEntries(request).entries] == ["domains/a"]
    wanted = audit_pb2.ListAuditEntriesRequest(filter="name=b outcome=OK")
    assert [entry.number for entry in server.cluster.ListAuditEntries(wanted).entries] == [2]


def test_the_caller_is_told_who_it_is(server: Server) -> None:
    caller = server.cluster.GetCaller(audit_pb2.GetCallerRequest())
    assert (caller.name, caller.role) == (f"uid {os.getuid()}", audit_pb2.Caller.ROLE_ADMIN)


def test_numbers_go_on_after_a_restart_of_the_log(server: Server) -> None:
    server.create(CONFIG)
    again = AuditLog(server.rig.store, lambda: 1)
    assert (
        again.begin(caller="a", role=Role.VIEWER, method="M", name="\0", request="", before="") == 2
    )
