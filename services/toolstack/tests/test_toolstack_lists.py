"""Lists over real gRPC: filters, and pages while things come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from toolstack_rig import TWO_VCOPROCS, one_vcoproc
from toolstack_server import Server, refused

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.records import VcoprocState

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def full(server: Server) -> Server:
    """fir has audio on dsp0 and video on dsp1; other has v on dsp0; bare has none."""
    server.online()
    server.create(TWO_VCOPROCS)
    server.create(one_vcoproc("other"))
    server.create('name = "bare"\nmemory = 1\n')
    return server


def names(messages: Any) -> list[str]:
    return [message.name.rpartition("/")[2] for message in messages]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("", ["bare", "fir", "other"]),
        ("name=fir", ["fir"]),
        ("name=domains/*r", ["fir", "other"]),
        ("name!=fir", ["bare", "other"]),
        ("state=RUNNING", ["bare", "fir", "other"]),
        ("state=STOPPED", []),
        ("domid=2", ["other"]),
        ("coproc=dsp0", ["fir", "other"]),
        ("coproc=coprocs/dsp1", ["fir"]),
        ("coproc!=dsp1", ["bare", "other"]),
        ("coproc=dsp0 coproc=dsp1", ["fir"]),
        ("coproc=dsp9", []),
    ],
)
def test_domains_are_filtered(full: Server, filter_: str, expected: list[str]) -> None:
    answer = full.call("ListDomains", api.ListDomainsRequest(filter=filter_))
    assert names(answer.domains) == expected
    assert not answer.next_page_token


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("name=dsp*", ["dsp0", "dsp1"]),
        ("state=OFFLINE", ["dsp1"]),
        ("state!=OFFLINE", ["dsp0", "ncore-0", "ncore-1", "ncore-2"]),
        ("compatible=vcoproc,*", ["dsp0", "dsp1", "ncore-0", "ncore-1", "ncore-2"]),
        ("scheduler=credit", []),
        ("draining=true", []),
    ],
)
def test_coprocs_are_filtered(full: Server, filter_: str, expected: list[str]) -> None:
    full.rig.unlease("dsp1")
    answer = full.call("ListCoprocs", api.ListCoprocsRequest(filter=filter_))
    assert names(answer.coprocs) == expected


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("state=RUNNING", ["video"]),
        ("state=LOST", []),
        ("domain=fir", ["audio", "video"]),
        ("domain=domains/other", ["v"]),
        ("coproc=dsp0", ["audio", "v"]),
        ("compatible!=vcoproc,cortex-m4", []),
        ("name=domains/*/vcoprocs/v*", ["video", "v"]),
    ],
)
def test_vcoprocs_are_filtered_by_how_they_are_now(
    full: Server, filter_: str, expected: list[str]
) -> None:
    full.rig.services.states = {2: VcoprocState.RUNNING}
    answer = full.call("ListVcoprocs", api.ListVcoprocsRequest(filter=filter_))
    assert names(answer.vcoprocs) == expected


def pages(server: Server, size: int, between: Callable[[int], None], **fields: Any) -> list[str]:
    """Names of all domains, page by page. between: called after each page with its number."""
    found: list[str] = []
    token, count = "", 0
    while True:
        request = api.ListDomainsRequest(page_size=size, page_token=token, **fields)
        answer = server.call("ListDomains", request)
        assert len(answer.domains) <= size
        found += names(answer.domains)
        token = answer.next_page_token
        if not token:
            return found
        between(count)
        count += 1


@pytest.mark.parametrize("filter_", ["", "name=d*"])
def test_what_is_there_all_the_time_is_listed_once(server: Server, filter_: str) -> None:
    """Between two pages one domain goes and another comes, on both sides of the position."""
    for number in range(9):
        server.create(f'name = "d{number}"\nmemory = 1\n')
    lasting = {f"d{number}" for number in (2, 4, 5, 7, 8)}

    def between(count: int) -> None:
        for number in ([0, 6], [1, 3])[count] if count < 2 else ():
            server.call("DestroyDomain", api.DestroyDomainRequest(name=f"domains/d{number}"))
        server.create(f'name = "a{count}"\nmemory = 1\n')
        server.create(f'name = "d{count}x"\nmemory = 1\n')

    found = pages(server, 2, between, filter=filter_)
    assert found == sorted(set(found))
    assert lasting <= set(found)


def test_a_page_is_full_however_few_match(server: Server) -> None:
    for number in range(8):
        server.create(f'name = "{"ab"[number % 2]}{number}"\nmemory = 1\n')
    answer = server.call("ListDomains", api.ListDomainsRequest(page_size=3, filter="name=b*"))
    assert names(answer.domains) == ["b1", "b3", "b5"]
    token = answer.next_page_token
    rest = api.ListDomainsRequest(page_size=3, filter="name=b*", page_token=token)
    answer = server.call("ListDomains", rest)
    assert names(answer.domains) == ["b7"]
    assert not answer.next_page_token


def test_a_token_is_for_its_own_filter_only(full: Server) -> None:
    first = full.call("ListDomains", api.ListDomainsRequest(page_size=1, filter="coproc=dsp0"))
    for filter_ in ("", "coproc=dsp1"):
        with refused(INVALID, "INVALID_ARGUMENT", "page_token: "):
            full.call(
                "ListDomains",
                api.ListDomainsRequest(filter=filter_, page_token=first.next_page_token),
            )


def test_pages_of_coprocs_survive_one_that_is_no_longer_there(full: Server) -> None:
    """A position is a name, so what it named need not be there any more."""
    first = full.call("ListCoprocs", api.ListCoprocsRequest(page_size=3))
    assert names(first.coprocs) == ["dsp0", "dsp1", "ncore-0"]
    full.rig.unlease("ncore-0")
    full.rig.leases._seen.discard("ncore-0")
    request = api.ListCoprocsRequest(page_token=first.next_page_token)
    rest = full.call("ListCoprocs", request)
    assert names(rest.coprocs) == ["ncore-1", "ncore-2"]


# --- revisions and the other figures of a resource ------------------------------------------------


def test_a_resource_says_which_event_changed_it_last(full: Server) -> None:
    def revisions() -> dict[str, int]:
        domain = full.call("GetDomain", api.GetDomainRequest(name="domains/fir"))
        return {each.name.rpartition("/")[2]: each.revision for each in (domain, *domain.vcoprocs)}

    newest = full.call("ListDomains", api.ListDomainsRequest()).revision
    created = revisions()
    assert set(created.values()) == {newest - 2}, "of its creation; two more came since"
    spec = "coproc=dsp1,name=late"
    late = full.call("CreateVcoproc", api.CreateVcoprocRequest(domain="domains/fir", spec=spec))
    assert late.revision == newest + 1
    assert revisions() == {**created, "fir": newest + 1, "late": newest + 1}
    parameters = api.SetVcoprocParametersRequest(
        name="domains/fir/vcoprocs/audio", parameters={"weight": 7}
    )
    changed = full.call("SetVcoprocParameters", parameters)
    assert changed.revision == newest + 2
    assert revisions() == {
        "fir": newest + 2, "audio": newest + 2, "late": newest + 1, "video": created["video"],
    }  # fmt: skip


def test_a_coproc_says_which_event_changed_it_last(full: Server) -> None:
    def revision(name: str) -> int:
        coproc = full.call("GetCoproc", api.GetCoprocRequest(name=f"coprocs/{name}"))
        return int(coproc.revision)

    assert revision("dsp0") == revision("dsp1") == 0
    full.call("SetSchedule", api.SetScheduleRequest(coproc="coprocs/dsp0", slice_us=700))
    newest = full.call("ListDomains", api.ListDomainsRequest()).revision
    assert (revision("dsp0"), revision("dsp1")) == (newest, 0)


def test_memory_of_a_domain_counts_once_on_each_of_its_coprocs(full: Server) -> None:
    full.call(
        "CreateVcoproc", api.CreateVcoprocRequest(domain="domains/fir", spec="coproc=dsp1,name=w")
    )
    coprocs = full.call("ListCoprocs", api.ListCoprocsRequest()).coprocs
    assert [coproc.memory_bytes // limits.MIB for coproc in coprocs] == [2, 1, 0, 0, 0]
    full.call("ShutDownDomain", api.ShutDownDomainRequest(name="domains/fir"))
    coprocs = full.call("ListCoprocs", api.ListCoprocsRequest()).coprocs
    assert [coproc.memory_bytes // limits.MIB for coproc in coprocs] == [1, 0, 0, 0, 0]
