"""Adds ``pytest tests/golden --rewrite-golden``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write what happens now into the transcripts; read the difference before committing",
    )
