"""``python -m vcoproc_scheduler --run-dir DIR``: the scheduler process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vcoproc.runtime.process import main_guard
from vcoproc.runtime.rundir import RunDir, default_run_dir
from vcoproc_scheduler.shell import NAME, SchedulerShell


def main() -> None:
    parser = argparse.ArgumentParser(prog="vcoproc-scheduler", description=__doc__)
    parser.add_argument(
        "--run-dir", type=Path, default=None, help="where the cluster's sockets are"
    )
    parser.add_argument(
        "--validate", action="store_true", help="check every invariant after every step (slow)"
    )
    arguments = parser.parse_args()

    def run() -> None:
        run_dir = RunDir(arguments.run_dir or default_run_dir())
        shell = SchedulerShell(run_dir, validate=arguments.validate)
        try:
            shell.run()
        finally:
            shell.close()

    sys.exit(main_guard(NAME, run))


if __name__ == "__main__":
    main()
