"""Generates the Python code of the control plane from proto/, or checks that it is up to date.

Usage: python tools/generate_api.py [--check]
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
TARGET = ROOT / "libs" / "vcoproc" / "src"


def generate(out: Path) -> list[Path]:
    """Writes all generated files below `out`; gives their paths relative to it."""
    protos = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{well_known}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *protos,
        ]
    )
    if code:
        sys.exit(code)
    return sorted(path.relative_to(out) for path in out.rglob("*_pb2*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when stale")
    if not parser.parse_args().check:
        for path in generate(TARGET):
            (TARGET / path.parent / "__init__.py").touch()
        return
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        stale = [
            path
            for path in generate(out)
            if not (TARGET / path).exists()
            or not filecmp.cmp(out / path, TARGET / path, shallow=False)
        ]
    if stale:
        sys.exit(f"generated code is stale, run `make api`: {', '.join(map(str, stale))}")


if __name__ == "__main__":
    main()
