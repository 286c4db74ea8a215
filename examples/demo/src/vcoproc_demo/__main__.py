"""`python -m vcoproc_demo`: the demo without the vcoproc command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vcoproc_demo.main import run


def main() -> int:
    """Reads the arguments and runs the demo."""
    parser = argparse.ArgumentParser(prog="vcoproc_demo", description=__doc__)
    parser.add_argument("--run-dir", type=Path, help="of a running cluster; default: start one")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the files")
    parser.add_argument("--firmware", type=Path, help="folder with other NAME/NAME.elf")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    return run(
        run_dir=options.run_dir,
        out=options.out,
        firmware=options.firmware,
        json_output=options.output == "json",
    )


if __name__ == "__main__":
    sys.exit(main())
