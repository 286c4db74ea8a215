"""The toolstack's command: vcoproc-toolstack, or python -m vcoproc_toolstack."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vcoproc.config import read_system_file
from vcoproc.errors import InvalidArgument, NotFound
from vcoproc.runtime.logs import Log
from vcoproc.runtime.process import main_guard
from vcoproc.runtime.rundir import RunDir, default_run_dir
from vcoproc_toolstack import target


def main() -> None:
    """Ends the process: 0 after a stop, 2 for a wrong configuration, 70 for a bug."""
    parser = argparse.ArgumentParser(prog="vcoproc-toolstack", description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=default_run_dir())
    parser.add_argument("--tree", type=Path, required=True, help="the system's device tree")
    parser.add_argument(
        "--include", type=Path, action="append", default=[], help="folder of what it includes"
    )
    parser.add_argument("--cpp", action="store_true", help="run the C preprocessor on the tree")
    parser.add_argument(
        "--store",
        default=os.environ.get(target.VARIABLE, ""),
        help=f"SQLite file or {target.POSTGRESQL} URL, also as ${target.VARIABLE}; "
        "a file in the run directory by default",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="also serve over TCP, by TLS with client certificates",
    )
    parser.add_argument(
        "--tls-dir",
        type=Path,
        help="for --listen: directory with ca.crt, server.crt, server.key",
    )
    parser.add_argument(
        "--access",
        type=Path,
        help="for --listen: file that gives names of certificates a role",
    )
    arguments = parser.parse_args()
    if arguments.listen and not (arguments.tls_dir and arguments.access):
        parser.error("--listen needs --tls-dir and --access")

    def run() -> None:
        try:
            system = read_system_file(arguments.tree, include=arguments.include, cpp=arguments.cpp)
        except NotFound as error:
            raise InvalidArgument("tree", str(error)) from error
        # The rest is a quarter of a second of imports; a wrong tree is told before.
        from vcoproc.runtime.grpc_kit import TlsFiles
        from vcoproc_toolstack import shell

        listen = None
        if arguments.listen:
            folder = arguments.tls_dir
            files = TlsFiles(folder / "server.crt", folder / "server.key", folder / "ca.crt")
            listen = shell.Listen(arguments.listen, files, arguments.access)
        shell.run(RunDir(arguments.run_dir), system, arguments.store, Log("toolstack"), listen)

    sys.exit(main_guard("toolstack", run))


if __name__ == "__main__":
    main()
