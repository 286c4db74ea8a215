"""The supervisor with stand-ins for the services: starts, deaths, returns and ends."""

from __future__ import annotations

import os
import queue
import re
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from vcoproc import limits
from vcoproc.runtime.process import EXIT_REMOVED
from vcoproc_toolstack.cli.supervisor import ChildSpec, StartAborted, StartFailed, Supervisor

READY = """
import os, signal, socket, sys
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text, os.environ["NOTIFY_SOCKET"])
"""
SERVE = READY + "tell(b'READY=1\\nMAINPID=0')\nsignal.pause()\n"
STUBBORN = (
    READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntell(b'READY=1')\nsignal.pause()\n"
)
SHORT = READY + "tell(b'READY=1')\nsys.exit(3)\n"
FAIL = "import sys\nprint('cannot: the disk is made of cheese', file=sys.stderr)\nsys.exit(4)\n"
SILENT = READY + "tell(b'STATUS=thinking')\nsignal.pause()\n"
WAIT_S = 20


class Rig:
    """A supervisor, and what it reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.supervisor: Supervisor | None = None

    def make(self, **programs: str) -> Supervisor:
        specs = [
            ChildSpec(name, (sys.executable, "-c", text), self.path / f"{name}.log")
            for name, text in programs.items()
        ]
        return self.of(specs)

    def of(self, specs: Sequence[ChildSpec]) -> Supervisor:
        self.supervisor = Supervisor(specs, self.path / "notify.sock", report=self.reports.put)
        return self.supervisor

    def report(self) -> str:
        return self.reports.get(timeout=WAIT_S)


@pytest.fixture
def rig(short_path: Path) -> Iterator[Rig]:
    rig = Rig(short_path)
    yield rig
    if rig.supervisor is not None:
        rig.supervisor.stop()
    assert not (short_path / "notify.sock").exists()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_start_ends_when_everybody_serves_and_a_stop_when_nobody_is_left(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE, b=SERVE)
    supervisor.start()
    pids = supervisor.pids()
    assert set(pids) == {"a", "b"}
    assert all(alive(pid) for pid in pids.values())
    supervisor.stop()
    assert not any(alive(pid) for pid in pids.values())
    assert supervisor.pids() == {}
    assert rig.reports.empty()


def test_children_do_not_get_the_terminals_signals(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE)
    supervisor.start()
    [pid] = supervisor.pids().values()
    assert os.getpgid(pid) == pid != os.getpgid(0)


def test_a_child_that_fails_ends_the_start_with_its_own_words(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE, b=FAIL)
    with pytest.raises(StartFailed, match=r"b ended with exit code 4:\n.*made of cheese") as caught:
        supervisor.start()
    assert (caught.value.process, caught.value.exit_code) == ("b", 4)
    assert supervisor.pids() == {}


def test_words_of_an_earlier_run_are_not_repeated(rig: Rig) -> None:
    (rig.path / "b.log").write_text("old words\n")
    with pytest.raises(StartFailed) as caught:
        rig.make(b=FAIL).start()
    assert "old words" not in caught.value.words


def test_of_a_log_only_what_tells_of_trouble_is_repeated(rig: Rig) -> None:
    lines = (
        '{"time": "t", "level": "info", "service": "b", "text": "all is well"}\n'
        '{"time": "t", "level": "error", "service": "b", "text": "no luck", "port": 5}\n'
        "[1, 2]\n"
    )
    program = f"import sys\nsys.stderr.write({lines!r})\nsys.exit(1)\n"
    with pytest.raises(StartFailed) as caught:
        rig.make(b=program).start()
    assert caught.value.words == "  error: no luck port=5\n  [1, 2]"


def test_a_program_that_is_not_there_ends_the_start(rig: Rig) -> None:
    supervisor = rig.of(
        [
            ChildSpec("a", (sys.executable, "-c", SERVE), None),
            ChildSpec("b", ("/nowhere/at/all",), None),
        ]
    )
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        supervisor.start()
    assert supervisor.pids() == {}


def test_a_child_that_never_serves_ends_the_start(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "START_TIMEOUT_NS", 300 * limits.MS)
    supervisor = rig.make(a=SERVE, b=SILENT)
    with pytest.raises(StartFailed, match="b did not serve") as caught:
        supervisor.start()
    assert caught.value.exit_code is None


def test_many_children_have_more_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "START_TIMEOUT_NS", 400 * limits.MS)
    monkeypatch.setattr(limits, "START_TOGETHER", 1)
    supervisor = rig.make(a=SERVE, b=SILENT, c=SERVE)
    with pytest.raises(StartFailed, match="b did not serve within 1 s"):
        supervisor.start()


def test_only_the_child_itself_can_say_that_it_serves(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, and datagrams that are no words, change nothing."""
    monkeypatch.setattr(limits, "START_TIMEOUT_NS", 500 * limits.MS)
    program = SILENT.replace(
        "signal.pause()",
        "tell(b'\\xff' * 4000); tell(b''); tell(b'READY=10'); tell(b'NOTREADY=1')\n"
        "if not os.fork(): tell(b'READY=1'); os._exit(0)\n"
        "signal.pause()",
    )
    with pytest.raises(StartFailed, match="did not serve"):
        rig.make(a=program).start()


def test_a_start_can_be_given_up(rig: Rig) -> None:
    supervisor = rig.make(a=SILENT)
    notify = rig.path / "a.log"
    supervisor.request_stop()
    with pytest.raises(StartAborted):
        supervisor.start()
    assert supervisor.pids() == {}
    assert not notify.exists() or notify.read_text() == ""


def test_a_child_that_dies_is_started_again_and_the_others_go_on(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE, b=SERVE)
    supervisor.start()
    before = supervisor.pids()
    os.kill(before["a"], signal.SIGKILL)
    assert re.fullmatch(r"a was ended by SIGKILL; starting it again in 100 ms", rig.report())
    assert re.fullmatch(r"a serves again \(pid \d+\)", rig.report())
    after = supervisor.pids()
    assert after["b"] == before["b"]
    assert after["a"] != before["a"]


def test_one_that_always_dies_is_started_more_and_more_slowly(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESTART_DELAY_NS_MAX", 400 * limits.MS)
    # It serves once, so that the start succeeds, and never again.
    once = SHORT.replace("sys.exit(3)", "signal.pause()")
    program = f"import os\nif os.path.exists({str(rig.path / 'x')!r}): os._exit(3)\n" + once
    supervisor = rig.make(a=program)
    supervisor.start()
    (rig.path / "x").touch()
    os.kill(supervisor.pids()["a"], signal.SIGKILL)
    waits: list[int] = []
    while len(waits) < 5:
        found = re.search(r"again in (\d+) ms", rig.report())
        assert found
        waits.append(int(found[1]))
    assert waits == [100, 200, 400, 400, 400]


def test_one_that_lived_long_enough_is_forgiven(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_FORGIVEN_NS", 0)
    supervisor = rig.make(a=SERVE)
    supervisor.start()
    for _ in range(3):
        os.kill(supervisor.pids()["a"], signal.SIGKILL)
        assert "in 100 ms" in rig.report()
        assert "serves again" in rig.report()


def test_one_that_does_not_stop_is_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOP_TIMEOUT_NS", 200 * limits.MS)
    supervisor = rig.make(a=STUBBORN, b=SERVE)
    supervisor.start()
    pids = supervisor.pids()
    supervisor.stop()
    assert rig.report() == "a did not stop in time and is killed"
    assert not any(alive(pid) for pid in pids.values())


def test_a_second_request_does_not_wait(rig: Rig) -> None:
    supervisor = rig.make(a=STUBBORN)
    supervisor.start()
    supervisor.request_stop()
    supervisor.request_stop()
    supervisor.join()
    assert rig.report() == "a did not stop in time and is killed"


def test_children_die_with_their_parent(rig: Rig) -> None:
    """kill -9 of the supervisor's own process leaves nothing behind."""
    child = SERVE.replace(
        "tell(b'READY=1",
        "from vcoproc.runtime.process import die_with_parent; die_with_parent()\ntell(b'READY=1",
    )
    parent = f"""
import sys
from pathlib import Path
from vcoproc_toolstack.cli.supervisor import ChildSpec, Supervisor
spec = ChildSpec("a", (sys.executable, "-c", {child!r}), None)
supervisor = Supervisor([spec], Path({str(rig.path / "inner.sock")!r}), report=print)
supervisor.start()
print(supervisor.pids()["a"], flush=True)
sys.stdin.read()
"""
    read, write = os.pipe()
    stdin, keep = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", parent],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, stdin, 0)],
    )
    child_pid = int(os.read(read, 32))
    pidfd = os.pidfd_open(child_pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ready, _, _ = select.select([pidfd], [], [], WAIT_S)
    assert ready, "the child lives on"
    for descriptor in (read, write, stdin, keep, pidfd):
        os.close(descriptor)


def test_a_report_that_cannot_be_written_does_not_end_the_cluster(short_path: Path) -> None:
    """The terminal was closed."""
    asked = queue.SimpleQueue[str]()

    def report(text: str) -> None:
        asked.put(text)
        raise OSError("Input/output error")

    spec = ChildSpec("a", (sys.executable, "-c", SERVE), None)
    supervisor = Supervisor([spec], short_path / "notify.sock", report=report)
    supervisor.start()
    os.kill(supervisor.pids()["a"], signal.SIGKILL)
    assert "SIGKILL" in asked.get(timeout=WAIT_S)
    assert "serves again" in asked.get(timeout=WAIT_S)
    supervisor.stop()


def test_a_bug_in_the_thread_reaches_whoever_waits(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = rig.make(a=SERVE)

    def bug(_deadline_ns: int | None) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(supervisor, "_wait", bug)
    with pytest.raises(ZeroDivisionError):
        supervisor.start()
    assert supervisor.pids() == {}


def test_a_socket_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    supervisor = Supervisor([], tmp_path / "no" / "where", report=print)
    with pytest.raises(OSError, match="No such file"):
        supervisor.start()


def test_the_notify_socket_speaks_as_service_managers_do(rig: Rig) -> None:
    """What sd_notify(3) sends: lines of NAME=value, READY among others."""
    program = READY + "tell(b'STATUS=ok\\nREADY=1\\nMAINPID=1')\nsignal.pause()\n"
    supervisor = rig.make(a=program)
    supervisor.start()
    assert set(supervisor.pids()) == {"a"}


# --- children that come and go --------------------------------------------------------------------


def spec(rig: Rig, name: str, program: str) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", program), rig.path / f"{name}.log")


def gone(pid: int) -> None:
    """Waits until a process has ended."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], WAIT_S)[0], "it lives on"
        finally:
            os.close(pidfd)


def test_a_child_that_is_added_is_kept_alive_like_the_others(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE)
    supervisor.start()
    first = supervisor.pids()["a"]
    supervisor.add(spec(rig, "b", SERVE))
    assert rig.report().startswith("b serves (pid ")
    os.kill(supervisor.pids()["b"], signal.SIGKILL)
    assert "b was ended by SIGKILL; starting it again" in rig.report()
    assert rig.report().startswith("b serves again (pid ")
    supervisor.add(spec(rig, "a", FAIL))  # there is one already
    supervisor.dismiss("nobody")
    supervisor.stop()
    assert rig.reports.empty()
    gone(first)


def test_one_that_is_dismissed_ends_and_stays_so(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE, b=SERVE)
    supervisor.start()
    pid = supervisor.pids()["b"]
    supervisor.dismiss("b")
    supervisor.dismiss("b")
    gone(pid)
    supervisor.add(spec(rig, "c", SERVE))
    assert rig.report().startswith("c serves"), "nothing was said of b, and it is not started again"
    assert set(supervisor.pids()) == {"a", "c"}


def test_one_that_is_dismissed_while_it_waits_to_be_started_again_is_forgotten(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE, b=SERVE)
    supervisor.start()
    os.kill(supervisor.pids()["b"], signal.SIGKILL)
    assert "starting it again" in rig.report()
    supervisor.dismiss("b")
    supervisor.add(spec(rig, "c", SERVE))
    reports = [rig.report()]
    while not reports[-1].startswith("c serves"):
        reports.append(rig.report())
    assert set(supervisor.pids()) == {"a", "c"}


def test_one_that_does_not_go_when_it_is_dismissed_is_killed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STOP_TIMEOUT_NS", 200 * limits.MS)
    supervisor = rig.make(a=SERVE, b=STUBBORN)
    supervisor.start()
    pid = supervisor.pids()["b"]
    supervisor.dismiss("b")
    assert rig.report() == "b did not stop in time and is killed"
    gone(pid)
    assert alive(supervisor.pids()["a"])


def test_one_that_is_added_while_the_one_before_it_still_ends_follows_it(rig: Rig) -> None:
    supervisor = rig.make(a=SERVE, b=SERVE)
    supervisor.start()
    pid = supervisor.pids()["b"]
    supervisor.dismiss("b")
    supervisor.add(spec(rig, "b", SERVE))
    assert rig.report().startswith("b serves (pid "), "it is another one, not one that died"
    assert supervisor.pids()["b"] != pid
    gone(pid)


def test_one_that_has_nothing_to_do_keeps_nobody_from_starting(rig: Rig) -> None:
    """A coproc-sim whose coproc was removed says so; it is started more and more rarely."""
    idle = f"import sys\nsys.exit({EXIT_REMOVED})\n"
    supervisor = rig.make(a=SERVE, b=idle)
    supervisor.start()
    assert rig.reports.empty()
    supervisor.dismiss("b")
    supervisor.add(spec(rig, "c", SERVE))
    assert rig.report().startswith("c serves")
    assert set(supervisor.pids()) == {"a", "c"}


def test_a_child_that_cannot_be_started_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESTART_DELAY_NS_MAX", 100 * limits.MS)
    supervisor = rig.make(a=SERVE)
    supervisor.start()
    program = rig.path / "program"
    supervisor.add(ChildSpec("b", (str(program),), None))
    assert "b cannot be started" in rig.report()
    program.write_text(f"#!{sys.executable}\n{SERVE}")
    program.chmod(0o700)
    reports = [rig.report()]
    while not reports[-1].startswith("b serves"):
        reports.append(rig.report())
