"""The demo: three domains, three firmwares, one coprocessor.

Each firmware first has the coprocessor to itself, then all three share it. Every output of the
shared run is compared with scipy or hashlib, and with the output of the unshared run.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from vcoproc.errors import VcoprocError
from vcoproc.limits import MIB, MS
from vcoproc_demo import assets as asset_files
from vcoproc_demo import report as reports
from vcoproc_demo import timeline
from vcoproc_demo.assets import NAMES, Assets
from vcoproc_demo.control import Control, CoprocInfo, retarget
from vcoproc_demo.crew import Crew, Outcome
from vcoproc_demo.display import Display
from vcoproc_demo.inputs import Inputs, prepare
from vcoproc_demo.report import Report, Row, SharedRun
from vcoproc_demo.workload import Job

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""
SCRATCH_BYTES: Final = 128 * MIB
"""Room that the demo wants: memory of three domains, input and output."""


def run(
    *,
    run_dir: Path | None,
    out: Path,
    firmware: Path | None = None,
    json_output: bool = False,
) -> int:
    """Runs the demo; gives its exit code.

    Args:
        run_dir: of a running cluster; None starts one for the time of the demo.
        out: folder for filtered.wav, edges.png, timeline.png and report.json.
        firmware: folder with other builds, NAME/NAME.elf.
        json_output: the report goes to stdout as JSON, everything else to stderr.

    Returns:
        0 when every output is right, 1 when one is not or the demo could not run, 130 after Ctrl-C.
    """
    talk = Console(stderr=json_output)
    try:
        with _one_interrupt(), _scratch() as scratch:
            found = asset_files.find(firmware)
            out.mkdir(parents=True, exist_ok=True)
            with Display(talk) as display:
                report = _Demo(found, scratch, out, display).run(run_dir)
    except KeyboardInterrupt:
        talk.print("interrupted; nothing is left behind")
        return EXIT_INTERRUPTED
    except (VcoprocError, OSError) as error:
        talk.print(f"demo: {error}", style="bold red", highlight=False, markup=False)
        return EXIT_FAILED
    text = report.to_json()
    (out / "report.json").write_text(text + "\n")
    if json_output:
        print(text)
    reports.print_report(report, talk)
    return EXIT_OK if report.is_right else EXIT_FAILED


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """SIGINT or SIGTERM ends the demo once; a second one does not disturb the tidying up."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A private folder, on tmpfs where that has room; gone in the end."""
    shared_memory = Path("/dev/shm")
    place = None
    with contextlib.suppress(OSError):
        if shutil.disk_usage(shared_memory).free >= SCRATCH_BYTES:
            place = str(shared_memory)
    # Short: the paths of sockets in it are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="vcoproc-", dir=place) as folder:
        yield Path(folder)


class _Demo:
    """One run. scratch: private folder. out: for the files that stay."""

    def __init__(self, assets: Assets, scratch: Path, out: Path, display: Display) -> None:
        self._assets = assets
        self._scratch = scratch
        self._out = out
        self._display = display

    def run(self, run_dir: Path | None) -> Report:
        with (
            Crew(NAMES, self._scratch) as crew,
            ThreadPoolExecutor(1) as background,
        ):
            # scipy takes a second to import; meanwhile the services start.
            preparing = background.submit(prepare, self._assets, self._scratch)
            with contextlib.ExitStack() as stack:
                if run_dir is None:
                    run_dir = self._scratch / "run"
                    self._display.step("starting a cluster of this machine's processes")
                    stack.enter_context(_cluster(self._assets.tree, run_dir))
                control = stack.enter_context(Control(run_dir))
                return self._phases(crew, control, run_dir, preparing)

    def _phases(
        self, crew: Crew, control: Control, run_dir: Path, preparing: Future[Inputs]
    ) -> Report:
        coproc = control.pick_coproc(len(NAMES))
        inputs = preparing.result()
        unshared: dict[str, Outcome] = {}
        for name in NAMES:
            self._display.step(f"{name} alone on {coproc.name}: {inputs.works()[name]}", [name])
            with control.domain(*self._domain_file(name, coproc)):
                job = self._job(inputs, name, run_dir, "unshared")
                unshared |= crew.run({name: job}, self._display.progress)
        self._display.step(f"all three on {coproc.name}, {coproc.slice_us} us a turn", NAMES)
        with contextlib.ExitStack() as stack:
            ids = {
                name: stack.enter_context(control.domain(*self._domain_file(name, coproc)))
                for name in NAMES
            }
            jobs = {name: self._job(inputs, name, run_dir, "shared") for name in NAMES}
            outcomes = crew.run(jobs, self._display.progress)
            accounts = control.accounts()
        # The last turn of each ends when its domain goes, for want of anybody else.
        shared = SharedRun(ids, outcomes, accounts, control.turns(coproc.name))
        self._display.step("comparing the outputs and drawing the timeline")
        rows = tuple(self._row(name, inputs, unshared[name], shared) for name in NAMES)
        return self._finish(coproc, inputs, rows, shared)

    def _domain_file(self, name: str, coproc: CoprocInfo) -> tuple[str, str]:
        path = self._assets.domains[name]
        return retarget(path.read_text(), coproc.name), path.name

    def _job(self, inputs: Inputs, name: str, run_dir: Path, phase: str) -> Job:
        output = self._output_file(name, phase)
        return inputs.job(name, self._assets.firmware[name], run_dir, output)

    def _output_file(self, name: str, phase: str) -> Path:
        return self._scratch / f"{name}.{phase}"

    def _row(self, name: str, inputs: Inputs, unshared: Outcome, shared: SharedRun) -> Row:
        output = self._output_file(name, "shared").read_bytes()
        alone = self._output_file(name, "unshared").read_bytes()
        width = inputs.picture.shape[1] if name == "sobel" else 0
        return reports.make_row(
            name,
            inputs.works()[name],
            run=shared,
            unshared=unshared,
            checks=(
                reports.compare(output, inputs.expected[name], inputs.references[name], width),
                reports.compare(output, alone, "unshared", width),
            ),
        )

    def _finish(
        self, coproc: CoprocInfo, inputs: Inputs, rows: tuple[Row, ...], shared: SharedRun
    ) -> Report:
        """Writes the files that stay."""
        sound = self._output_file("fir", "shared").read_bytes()
        edges = self._output_file("sobel", "shared").read_bytes()
        digest = self._output_file("sha256", "shared").read_bytes()
        height, width = inputs.picture.shape
        files = {
            "recording": self._out / "filtered.wav",
            "edges": self._out / "edges.png",
            "timeline": self._out / "timeline.png",
            "report": self._out / "report.json",
        }
        reports.write_wav(files["recording"], sound, inputs.recording.rate_hz)
        reports.write_png(files["edges"], edges, width, height)
        timeline.draw(
            files["timeline"],
            shared.turns,
            [timeline.Lane(name, shared.ids[name]) for name in NAMES],
            title=f"Who held the coprocessor {coproc.name}, and when: three domains, "
            f"algorithm {coproc.scheduler}, {coproc.slice_us / 1000:g} ms a turn",
        )
        return Report(
            coproc=coproc,
            rows=rows,
            contended_ns=shared.contest.length_ns,
            notes=(
                f"share: of the {shared.contest.length_ns // MS} ms in which all three had work; "
                "run: on the coprocessor in all",
                "switch: save, MMU and restore; trap: a register access of the driver; "
                "irq: from the rise of the line until the driver has it",
                f"recording: {inputs.snr_db(sound):.1f} dB signal to error, against the same "
                "filter in floating point (scipy.signal.lfilter)",
                f"digest: {digest.hex()}",
            ),
            files={what: str(path) for what, path in files.items()},
        )


def _cluster(tree: Path, run_dir: Path) -> contextlib.AbstractContextManager[object]:
    # Imported here: with a running cluster it is not needed.
    from vcoproc_toolstack.cli.up import Cluster

    return Cluster(tree, run_dir)
