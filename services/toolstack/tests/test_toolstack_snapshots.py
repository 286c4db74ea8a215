"""Domains and contexts are written down, and made again of what was written."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any

import pytest
from toolstack_fakes import CONTEXT_BYTES_MAX
from toolstack_operations import crashed, paused, running, seal_vcoproc, stopped
from toolstack_picture import WRITTEN, picture
from toolstack_rig import (
    NO_REQUEST,
    NOTHING,
    REFUSED,
    TWO_VCOPROCS,
    Rig,
    one_vcoproc,
    refuse_at,
    seal_domain,
)

from vcoproc import limits
from vcoproc.errors import (
    AlreadyExists,
    BadSnapshot,
    InvalidArgument,
    InvalidConfig,
    LimitExceeded,
    NotFound,
    PeerLost,
    WrongState,
)
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import DomainRecord, LineNow
from vcoproc_toolstack.restoring import Wishes
from vcoproc_toolstack.steps import AddDomain, SaveContext, Step
from vcoproc_toolstack.turns import Request

AS_IT_WAS = Wishes("", False, {})
UNKNOWN_KEYS = 'kernel = "/boot/vmlinuz \\"x\\""\ndisk = [ "a,b", [1, 0x10] ]\nvcpus = 2\n'


def save(rig: Rig, name: str = "fir", *, shut_down: bool = False) -> bytes:
    return b"".join(rig.saving.save_domain(name, shut_down=shut_down))


def save_vcoproc(rig: Rig, name: str = "audio") -> bytes:
    return b"".join(rig.saving.save_vcoproc("fir", name))


def restore(
    rig: Rig, data: bytes, wishes: Wishes = AS_IT_WAS, request: Request = NO_REQUEST
) -> bytes:
    with rig.restoring.take_in(pieces(data)) as upload:
        return rig.restoring.restore_domain(upload, wishes, request, seal_domain)


def load(rig: Rig, data: bytes, name: str = "audio", request: Request = NO_REQUEST) -> bytes:
    with rig.restoring.take_in(pieces(data)) as upload:
        return rig.restoring.restore_vcoproc(upload, ("fir", name), request, seal_vcoproc)


def pieces(data: bytes) -> Iterator[bytes]:
    """As a client sends them."""
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]


def fir(rig: Rig) -> DomainRecord:
    [domain] = [domain for domain in rig.domains() if domain.name == "fir"]
    return domain


def changed(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """An archive with other members; its manifest says what they are."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    change(members)
    said = json.loads(members["manifest.json"])
    said["members"] = {
        name: {"bytes": len(content), "sha256": sha256(content).hexdigest()}
        for name, content in members.items()
        if name != "manifest.json"
    }
    members["manifest.json"] = json.dumps(said).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return file.getvalue()


def say(**fields: Any) -> Callable[[dict[str, bytes]], None]:
    """Changes what the manifest says."""

    def change(members: dict[str, bytes]) -> None:
        said = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps({**said, **fields}).encode()

    return change


# --- domains --------------------------------------------------------------------------------------


def test_a_restored_domain_is_the_saved_one(rig: Rig) -> None:
    running(rig, UNKNOWN_KEYS)
    before, record = picture(rig), fir(rig)
    data = save(rig)
    assert picture(rig) == before, "it goes on as it was"
    rig.changes.destroy_domain("fir", NO_REQUEST)
    assert restore(rig, data) == b"fir 2"
    assert picture(rig) == before
    restored = fir(rig)
    assert [v.params for v in restored.vcoprocs] == [v.params for v in record.vcoprocs]
    assert restored.unknown_keys == record.unknown_keys
    assert restored.irq_credential != record.irq_credential
    assert not {v.vcoproc_id for v in restored.vcoprocs} & {1, 2}


def test_saving_a_restored_domain_gives_the_same_bytes(rig: Rig) -> None:
    running(rig, UNKNOWN_KEYS)
    data = save(rig)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    restore(rig, data)
    for seats in rig.services.attached.values():
        for seat in seats.values():
            seat.run_count -= 1  # it was let run once more
    assert save(rig) == data


def test_a_domain_is_restored_with_what_was_changed_since_it_was_made(rig: Rig) -> None:
    running(rig)
    rig.lifecycle.rename("fir", "sobel", NO_REQUEST)
    rig.changes.create_vcoproc("sobel", "coproc=dsp1,name=late,irq=90", NO_REQUEST, seal_vcoproc)
    rig.moves.move("sobel", "audio", "ncore-0", NO_REQUEST, seal_vcoproc)
    rig.changes.destroy_vcoproc("sobel", "video", NO_REQUEST)
    before = picture(rig)
    data = save(rig, "sobel")
    rig.changes.destroy_domain("sobel", NO_REQUEST)
    restore(rig, data)
    assert picture(rig) == before


def test_the_file_in_a_snapshot_makes_the_same_domain(rig: Rig) -> None:
    running(rig, UNKNOWN_KEYS)
    with zipfile.ZipFile(io.BytesIO(save(rig))) as zipped:
        text = zipped.read("domain.cfg").decode()
    places = [(v.name, v.coproc, v.params, v.ranges, v.lines) for v in fir(rig).vcoprocs]
    unknown = fir(rig).unknown_keys
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.create(text)
    assert [(v.name, v.coproc, v.params, v.ranges, v.lines) for v in fir(rig).vcoprocs] == places
    assert fir(rig).unknown_keys == unknown == ("disk", "kernel", "vcpus")


def test_a_paused_domain_is_saved_and_stays_paused(rig: Rig) -> None:
    paused(rig)
    before = picture(rig)
    data = save(rig)
    assert picture(rig) == before
    rig.changes.destroy_domain("fir", NO_REQUEST)
    restore(rig, data)
    assert fir(rig).state is DomainState.RUNNING, "how it is restored is for who restores it"


def test_a_domain_can_be_restored_paused_with_another_name_and_other_coprocs(rig: Rig) -> None:
    running(rig)
    data = save(rig)
    restore(rig, data, Wishes("copy", True, {"audio": "ncore-0"}))
    [copy] = [domain for domain in rig.domains() if domain.name == "copy"]
    assert copy.state is DomainState.PAUSED
    assert [v.coproc for v in copy.vcoprocs] == ["ncore-0", "dsp1"]
    seat = rig.services.attached["ncore-0"][copy.vcoprocs[0].vcoproc_id]
    assert (seat.label, seat.paused, seat.step.vcoproc.resource) == (
        "worked",
        True,
        "domains/copy/vcoprocs/audio",
    )
    assert rig.memory.contexts() == frozenset()
    rig.lifecycle.resume("copy", NO_REQUEST)
    assert not seat.paused


def test_interrupts_that_wait_and_masks_are_restored(rig: Rig) -> None:
    running(rig)
    now = (LineNow(0, False, True), LineNow(1, True, False), LineNow(2, False, False))
    rig.services.lines_now[1] = now
    data = save(rig)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    restore(rig, data)
    assert rig.services.lines_now[fir(rig).vcoprocs[0].vcoproc_id] == now


def test_a_saved_domain_that_is_to_be_shut_down_is_stopped(rig: Rig) -> None:
    running(rig, 'on_poweroff = "restart"\n')
    data = save(rig, shut_down=True)
    assert (fir(rig).state, fir(rig).state_reason) == (DomainState.STOPPED, "saved")
    assert rig.services.held() == NOTHING
    restore(rig, data, Wishes("copy", False, {}))


def test_a_domain_is_off_its_coprocs_until_its_last_piece_was_taken(rig: Rig) -> None:
    running(rig)
    stream = rig.saving.save_domain("fir", shut_down=True)
    next(stream)
    assert fir(rig).state is DomainState.SAVING
    with pytest.raises(WrongState, match="SAVING"):
        rig.lifecycle.resume("fir", NO_REQUEST)
    rig.settle()
    assert all(s.paused for of in rig.services.attached.values() for s in of.values())
    rig.create(one_vcoproc("other"))  # nobody waits for the client
    list(stream)
    assert fir(rig).state is DomainState.STOPPED


@pytest.mark.parametrize("before", [running, paused])
def test_a_client_that_goes_away_leaves_the_domain_as_it_was(
    rig: Rig, before: Callable[[Rig], None]
) -> None:
    before(rig)
    old = picture(rig)
    stream = rig.saving.save_domain("fir", shut_down=True)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    rig.settle()
    assert picture(rig) == old


def test_a_domain_that_is_destroyed_while_it_is_saved(rig: Rig) -> None:
    running(rig)
    stream = rig.saving.save_domain("fir", shut_down=True)
    next(stream)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    with pytest.raises(NotFound):
        list(stream)
    rig.settle()
    assert rig.services.held() == NOTHING


def test_memory_of_zeros_costs_nothing_in_a_snapshot(rig: Rig) -> None:
    rig.create(TWO_VCOPROCS.replace("memory = 1", "memory = 512"))
    with rig.memory.path_of("domain-1").open("r+b") as file:
        for at in (0, 200 * limits.MIB + 12_288):
            file.seek(at)
            file.write(os.urandom(4096))
    data = save(rig)
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        memory = [name for name in zipped.namelist() if name.startswith("memory/")]
    assert memory == ["memory/00000000", "memory/0c800000"]
    assert len(data) < 30_000
    before = picture(rig)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    restore(rig, data)
    assert picture(rig)["memory"] == before["memory"]
    assert rig.memory.path_of("domain-2").stat().st_blocks * 512 == 8192, "as sparse as it was"


def test_nothing_of_a_failed_save_is_left(rig: Rig) -> None:
    running(rig)
    before = picture(rig)
    for shut_down in (False, True):
        rig.services.before = refuse_at(4, REFUSED)
        with pytest.raises(InvalidArgument):
            save(rig, shut_down=shut_down)
        rig.settle()
        assert picture(rig) == before


def test_a_coproc_sim_that_dies_while_it_saves_fails_the_save(rig: Rig) -> None:
    running(rig)

    def die(step: Step) -> None:
        if isinstance(step, SaveContext):
            rig.services.before = lambda _step: None
            rig.unlease(step.coproc)
            raise PeerLost(step.coproc)

    rig.services.before = die
    with pytest.raises(PeerLost):
        save(rig)
    assert not rig.services.attached["dsp1"][2].paused


@pytest.mark.parametrize("prepare", [stopped, crashed])
def test_what_does_not_run_cannot_be_saved(rig: Rig, prepare: Callable[[Rig], None]) -> None:
    prepare(rig)
    with pytest.raises(WrongState, match="this needs RUNNING or PAUSED"):
        save(rig)


def test_a_context_that_is_too_large_is_not_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    running(rig)
    before = picture(rig)
    rig.services.attached["dsp0"][1].label = "x" * CONTEXT_BYTES_MAX
    with pytest.raises(LimitExceeded, match="at most 10000 bytes"):
        save(rig)
    rig.services.attached["dsp0"][1].label = "worked"
    assert picture(rig) == before


# --- what is refused ------------------------------------------------------------------------------


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.pop(name) and None


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


AUDIO = {"name": "audio", "compatible": "vcoproc,cortex-m4", "lines": []}
VIDEO = {**AUDIO, "name": "video"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("domain.cfg"), "has no member 'domain.cfg'"),
        (drop("contexts/audio"), "has no member 'contexts/audio'"),
        (put("more", b""), "has a member 'more'"),
        (put("memory/00100000", b"x"), "has a member 'memory/00100000'"),
        (put("memory/00000000", b"x"), "'memory/00000000' has 1 bytes"),
        (put("domain.cfg", b"\xff"), "'domain.cfg' is no text"),
        (put("domain.cfg", b"name = 7"), "'domain.cfg' is wrong: domain.cfg:1: name"),
        (put("domain.cfg", b'name = "fir"\nmemory = 2'), "differ in the size of the memory"),
        (put("domain.cfg", b'name = "fir"\nmemory = 1'), "differ in the vcoprocs"),
        (say(memory_bytes=7), "differ in the size of the memory"),
        (say(vcoprocs={}), "does not list vcoprocs"),
        (say(vcoprocs=[AUDIO] * 33), "does not list vcoprocs"),
        (say(vcoprocs=[AUDIO]), "differ in the vcoprocs"),
        (say(vcoprocs=[7]), "a vcoproc without name or type"),
        (say(vcoprocs=[{"name": "audio"}]), "a vcoproc without name or type"),
        (say(vcoprocs=[{**AUDIO, "lines": 7}]), "does not list lines"),
        (say(vcoprocs=[{**AUDIO, "lines": [{}]}]), "lists a line that is none"),
        (say(vcoprocs=[{**AUDIO, "lines": [{}] * 33}]), "does not list lines"),
        (
            say(vcoprocs=[AUDIO, {**VIDEO, "compatible": "other,core"}]),
            "video was a other,core, and coproc dsp1 is a vcoproc,cortex-m4",
        ),
        (say(version=9), "is of version 9"),
        (say(kind="vcoproc"), "is of a 'vcoproc'"),
    ],
)
def test_a_snapshot_that_is_wrong_changes_nothing(
    rig: Rig, change: Callable[[dict[str, bytes]], None], words: str
) -> None:
    running(rig)
    data = changed(save(rig), change)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    with pytest.raises(BadSnapshot, match=words):
        restore(rig, data)
    assert (rig.domains(), rig.services.held()) == ([], NOTHING)


@pytest.mark.parametrize("part", ["memory/00000000", "contexts/video"])
def test_a_damaged_part_is_found_before_anything_changes(rig: Rig, part: str) -> None:
    running(rig)
    good = save(rig)
    with zipfile.ZipFile(io.BytesIO(good)) as zipped:
        info = zipped.getinfo(part)
    data = bytearray(good)
    data[info.header_offset + 30 + len(part) + 2] ^= 1
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.services.performed.clear()
    with pytest.raises(BadSnapshot, match="damaged"):
        restore(rig, bytes(data))
    assert (rig.domains(), rig.services.held()) == ([], NOTHING)
    assert rig.services.performed == []


def test_a_snapshot_is_refused_for_all_that_a_creation_is(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(rig)
    data = save(rig)
    rig.unlease("ncore-0")
    before = picture(rig)
    with pytest.raises(AlreadyExists, match="'fir'"):
        restore(rig, data)
    with pytest.raises(InvalidArgument, match=r"options.coprocs: the domain has no vcoproc 'x'"):
        restore(rig, data, Wishes("copy", False, {"x": "dsp0"}))
    with pytest.raises(InvalidConfig, match="nowhere"):
        restore(rig, data, Wishes("copy", False, {"audio": "nowhere"}))
    with pytest.raises(WrongState, match="OFFLINE"):
        restore(rig, data, Wishes("copy", False, {"audio": "ncore-0"}))
    monkeypatch.setattr(limits, "DOMAINS_MAX", 1)
    with pytest.raises(LimitExceeded, match="domains: at most 1"):
        restore(rig, data, Wishes("copy", False, {}))
    assert picture(rig) == before


def test_an_endless_upload_is_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_BYTES_MAX", 5000)

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1000)

    with pytest.raises(BadSnapshot, match="longer than 5000"), rig.restoring.take_in(endless()):
        pass


def test_a_repeated_restoration_gets_the_first_answer(rig: Rig) -> None:
    running(rig)
    data = save(rig)
    request = Request("r", b"print")
    first = restore(rig, data, Wishes("copy", False, {}), request)
    assert restore(rig, data, Wishes("copy", False, {}), request) == first
    assert len(rig.domains()) == 2


def test_a_repetition_of_a_restoration_that_is_under_way_waits_for_its_answer(rig: Rig) -> None:
    running(rig)
    data = save(rig)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    request = Request("once", b"print")
    answers: list[bytes] = []
    again = threading.Thread(target=lambda: answers.append(restore(rig, data, AS_IT_WAS, request)))
    asked = threading.Event()
    wait = rig.changes.wait_for_coprocs

    def begin_again(step: Step) -> None:
        if isinstance(step, AddDomain):
            rig.changes.wait_for_coprocs = note  # type: ignore[method-assign]
            again.start()
            assert asked.wait(20)

    def note(references: Iterable[str]) -> None:
        asked.set()
        wait(references)

    rig.services.before = begin_again
    answer = restore(rig, data, AS_IT_WAS, request)
    again.join(20)
    assert answers == [answer]


def test_nothing_is_left_of_what_was_unpacked(rig: Rig) -> None:
    """Refused at the last moment: somebody was faster."""
    running(rig)
    data = save(rig)
    files = set(rig.memory_dir.iterdir())
    rig.services.before = refuse_at(9, REFUSED)
    with pytest.raises(InvalidArgument):
        restore(rig, data, Wishes("copy", False, {}))
    assert set(rig.memory_dir.iterdir()) == files


# --- one vcoproc ----------------------------------------------------------------------------------


def test_a_context_is_loaded_into_the_vcoproc_that_it_is_of(rig: Rig) -> None:
    running(rig)
    data = save_vcoproc(rig)
    rig.services.attached["dsp0"][1].label = "later"
    assert load(rig, data) == b"domains/fir/vcoprocs/audio dsp0"
    seat = rig.services.attached["dsp0"][1]
    assert (seat.label, seat.paused) == ("worked", False)
    assert rig.events()[-1] == ("domains/fir/vcoprocs/audio", "CHANGED")
    assert rig.memory.contexts() == frozenset()
    assert not [path for path in rig.memory_dir.iterdir() if path.name.startswith("staged")]


def test_a_context_may_go_into_another_vcoproc_of_the_type(rig: Rig) -> None:
    running(rig)
    data = save_vcoproc(rig)
    rig.services.attached["dsp1"][2].label = "later"
    load(rig, data, "video")
    assert rig.services.attached["dsp1"][2].label == "worked"


def test_a_paused_vcoproc_stays_paused_with_another_context(rig: Rig) -> None:
    running(rig)
    data = save_vcoproc(rig)
    rig.lifecycle.pause("fir", NO_REQUEST)
    load(rig, data)
    assert rig.services.attached["dsp0"][1].paused


def test_the_context_of_a_crashed_domain_can_be_saved_but_not_replaced(rig: Rig) -> None:
    crashed(rig)
    data = save_vcoproc(rig)
    assert rig.services.attached["dsp0"][1].paused
    with pytest.raises(WrongState, match="CRASHED"):
        load(rig, data)


def test_a_context_of_something_else_is_refused(rig: Rig) -> None:
    running(rig)
    before = picture(rig)
    good = save_vcoproc(rig)
    cases = [
        (save(rig), "is of a 'domain', not of a vcoproc"),
        (changed(good, say(vcoprocs=[])), "lists 0 vcoprocs, not 1"),
        (
            changed(good, say(vcoprocs=[{**AUDIO, "compatible": "other,core"}])),
            "audio was a other,core",
        ),
        (changed(good, say(vcoprocs=[VIDEO])), "has no member 'contexts/video'"),
        (changed(good, put("more", b"")), "has a member 'more'"),
    ]
    for data, words in cases:
        with pytest.raises(BadSnapshot, match=words):
            load(rig, data)
    with pytest.raises(NotFound, match="vcoproc 'fir/nobody'"):
        load(rig, good, "nobody")
    with pytest.raises(NotFound, match="vcoproc 'fir/nobody'"):
        save_vcoproc(rig, "nobody")
    assert picture(rig) == before


def test_a_context_that_its_coproc_sim_refuses_changes_nothing(rig: Rig) -> None:
    running(rig)
    data = save_vcoproc(rig)
    before = picture(rig)
    rig.services.before = refuse_at(1, REFUSED)
    with pytest.raises(InvalidArgument):
        load(rig, data)
    assert picture(rig) == before


def test_memory_is_what_the_guest_wrote(rig: Rig) -> None:
    running(rig)
    with zipfile.ZipFile(io.BytesIO(save(rig))) as zipped:
        assert zipped.read("memory/00000000").startswith(WRITTEN)
