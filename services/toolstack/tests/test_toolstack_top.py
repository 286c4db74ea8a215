"""`vcoproc top`: rates, filters, keys, and a real terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from typing import cast

import pytest
from rich.console import Console
from toolstack_rig import one_vcoproc
from toolstack_server import Server

from vcoproc.api.v1 import cluster_pb2 as pb
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster
from vcoproc.errors import PeerLost, VcoprocError
from vcoproc.limits import S
from vcoproc_toolstack.cli.top import View, render, run
from vcoproc_toolstack.cli.top_model import SORT_KEYS, groups


def vcoproc(name: str, *, run_ms: int = 0, wait_ms: int = 0, **counts: int) -> pb.VcoprocStatistics:
    domain, short = name.split("/")
    return pb.VcoprocStatistics(
        vcoproc=f"domains/{domain}/vcoprocs/{short}",
        state=api.Vcoproc.STATE_WAITING,
        accounting=api.Accounting(
            run_ns=run_ms * 10**6,
            wait_ns=wait_ms * 10**6,
            switch_count=counts.pop("switches", 0),
        ),
        **counts,  # type: ignore[arg-type]
    )


def look(clock_s: int, *vcoprocs: pb.VcoprocStatistics, **counts: int) -> pb.Statistics:
    return pb.Statistics(
        clock_ns=clock_s * S,
        coprocs=[
            pb.CoprocStatistics(
                coproc="coprocs/dsp0",
                state=api.Coproc.STATE_ONLINE,
                scheduler="credit",
                current_vcoproc="domains/fir/vcoprocs/audio",
                vcoprocs=vcoprocs,
                **counts,  # type: ignore[arg-type]
            )
        ],
    )


BEFORE = look(10, vcoproc("fir/audio"), vcoproc("sobel/video"))
NOW = look(
    12,
    vcoproc("fir/audio", run_ms=1500, wait_ms=400, switches=20, trap_count=6),
    vcoproc("sobel/video", run_ms=500, wait_ms=1000, switches=20, refusal_count=4),
    switch_count=40,
    trap_count=8,
    interrupt_count=2,
)


def test_rates_are_differences_over_the_time_between_two_looks() -> None:
    (group,) = groups(NOW, BEFORE)
    audio, video = group.rows
    assert (audio.name, audio.current, video.current) == ("fir/audio", True, False)
    assert (audio.rates.share, audio.rates.wait) == (0.75, 0.2)
    assert (audio.rates.switches, audio.rates.traps) == (10.0, 3.0)
    assert (video.rates.share, video.rates.refusals) == (0.25, 2.0)
    assert (group.rates.share, group.rates.wait) == (1.0, 0.7)
    assert (group.rates.switches, group.rates.traps, group.rates.interrupts) == (20.0, 4.0, 1.0)
    assert group.rates.refusals == 2.0
    assert (group.current, group.scheduler, group.state) == ("fir/audio", "credit", "ONLINE")


def test_the_first_look_has_no_rates() -> None:
    (group,) = groups(NOW, None)
    assert group.rates.share is None
    assert group.rows[0].rates.traps is None


def test_a_service_that_began_anew_gives_no_negative_rate() -> None:
    (group,) = groups(look(12, vcoproc("fir/audio")), look(10, vcoproc("fir/audio", run_ms=9)))
    assert group.rows[0].rates.share == 0.0


def test_a_scheduler_that_does_not_answer_leaves_the_other_columns() -> None:
    bare = pb.VcoprocStatistics(vcoproc="domains/fir/vcoprocs/audio", trap_count=4)
    (group,) = groups(look(12, bare), BEFORE)
    assert group.rows[0].rates.share is None
    assert group.rows[0].rates.traps == 2.0


def test_sorting_puts_the_busiest_first_and_names_in_order() -> None:
    (group,) = groups(NOW, BEFORE, sort="wait")
    assert [row.name for row in group.rows] == ["sobel/video", "fir/audio"]
    (group,) = groups(NOW, BEFORE, sort="wait", reverse=True)
    assert [row.name for row in group.rows] == ["fir/audio", "sobel/video"]
    for key in SORT_KEYS:
        groups(NOW, None, sort=key)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("video", ["sobel/video"]),
        ("fir/*", ["fir/audio"]),
        ("dsp0", []),
        ("", ["fir/audio", "sobel/video"]),
    ],
)
def test_filters(pattern: str, names: list[str]) -> None:
    (group,) = groups(NOW, BEFORE, pattern=pattern)
    assert [row.name for row in group.rows] == names


def test_a_filter_that_matches_nothing_shows_nothing() -> None:
    assert groups(NOW, BEFORE, pattern="nobody") == []


def test_keys() -> None:
    view = View()
    view.key("s")
    assert view.sort == SORT_KEYS[1]
    for _ in SORT_KEYS[1:]:
        view.key("s")
    assert view.sort == "name"
    for key in "/fx":
        view.key(key)
    assert (view.typing, view.pattern) == ("fx", "")
    view.key("\x7f")
    view.key("q")
    assert not view.quit, "it is part of the filter"
    view.key("\n")
    assert (view.typing, view.pattern) == (None, "fq")
    for key in "/z\x1b":
        view.key(key)
    assert view.pattern == "fq", "given up"
    for key in "rph":
        view.key(key)
    assert (view.reverse, view.paused, view.help) == (True, True, True)
    view.key("q")
    assert view.quit


def test_a_look_as_people_see_it() -> None:
    out = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    table, hidden = render(NOW, BEFORE, View(sort="share"))
    out.print(table)
    lines = [line.split() for line in out.export_text().splitlines()]
    assert lines[0] == ["NAME", "STATE", "SCHEDULER", "/", "OWNER", "SHAREv", "WAIT",
                        "SWITCH/s", "REFUSED/s", "TRAPS/s", "IRQ/s"]  # fmt: skip
    assert lines[1] == ["dsp0", "ONLINE", "credit:", "fir/audio", "100.0", "%", "70.0", "%",
                        "20.0", "2.0", "4.0", "1.0"]  # fmt: skip
    assert lines[2][:4] == ["*", "fir/audio", "WAITING", "75.0"]
    assert hidden == 0
    out.file.close()


def test_80_columns_are_enough_for_every_figure() -> None:
    """Names are cut where they are long, figures never."""
    long = look(10, vcoproc("infotainment/equalizer-of-the-rear"))
    now = look(12, vcoproc("infotainment/equalizer-of-the-rear", run_ms=2000, wait_ms=1999),
               switch_count=24690, trap_count=246913, interrupt_count=246913)  # fmt: skip
    out = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    out.print(render(now, long, View(sort="wait"), narrow=True)[0])
    out.file.close()
    lines = [line.split() for line in out.export_text().splitlines()]
    assert lines[0] == ["NAME", "STATE", "SHARE", "WAITv", "SW/s", "REF/s", "TRAP/s", "IRQ/s"]
    assert lines[1][:4] == ["dsp0", "credit:", "fir/audio", "ONLINE"]
    assert lines[1][-4:] == ["12345", "0.0", "123456", "123456"]
    assert lines[2][0].startswith("infotainment/eq") and lines[2][0].endswith("\u2026")
    assert lines[2][1:6] == ["WAITING", "100.0", "%", "100.0", "%"]


def test_what_has_no_room_is_counted() -> None:
    table, hidden = render(NOW, BEFORE, View(), rows_max=2)
    assert (table.row_count, hidden) == (2, 1)


def test_on_a_real_terminal(server: Server) -> None:
    """It shows what there is, hears keys, and leaves the terminal as it was."""
    server.online()
    server.create(one_vcoproc("fir"))
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (30, 110))
    kept = termios.tcgetattr(terminal)
    top = subprocess.Popen(
        [sys.executable, "-c", "from vcoproc_toolstack.cli.app import main; main()", "top"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "VCOPROC_RUN_DIR": str(server.run_dir.path), "TERM": "xterm-256color"},
    )
    try:
        seen = b""

        def until(words: bytes) -> None:
            nonlocal seen
            deadline = time.monotonic() + 30
            while words not in seen:
                left = deadline - time.monotonic()
                assert left > 0 and select.select([screen], [], [], left)[0], (words, seen)
                seen += os.read(screen, 1 << 16)

        until(b"fir/v")
        assert seen.startswith(b"\x1b[?1049h"), "a screen of its own"
        os.write(screen, b"s")
        until(b"sorted by share")
        os.write(screen, b"q")
        until(b"\x1b[?1049l")
        assert top.wait(20) == 0
        assert termios.tcgetattr(terminal) == kept
    finally:
        top.kill()
        top.wait()
        os.close(screen)
        os.close(terminal)


class Flaky:
    """A cluster whose looks fail where there is an error."""

    def __init__(self, *looks: pb.Statistics | VcoprocError) -> None:
        self._looks = iter(looks)

    def statistics(self) -> pb.Statistics:
        found = next(self._looks)
        if isinstance(found, VcoprocError):
            raise found
        return found


def batch(*looks: pb.Statistics | VcoprocError) -> None:
    run(cast("Cluster", Flaky(*looks)), interval_s=0.0, batch=True, count=len(looks))


def test_a_batch_outlasts_a_look_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    away = PeerLost("the toolstack")
    batch(look(1, trap_count=0), away, look(3, trap_count=50))
    printed = capsys.readouterr()
    assert printed.out.count("dsp0") == 1
    assert "25" in printed.out, "the rate since the last look that was answered"
    assert printed.err.count("error: ") == 1


def test_a_batch_whose_first_look_fails_ends() -> None:
    with pytest.raises(PeerLost):
        batch(PeerLost("the toolstack"), look(1))
