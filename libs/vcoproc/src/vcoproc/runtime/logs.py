"""Structured logs: one JSON object a line on stderr."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


class Log:
    """The log of one service. Fields are for programs, the text is for people."""

    def __init__(self, service: str, *, debug: bool = False) -> None:
        self._service = service
        self._debug = debug

    def debug(self, text: str, **fields: Any) -> None:
        if self._debug:
            self._write("debug", text, fields)

    def info(self, text: str, **fields: Any) -> None:
        self._write("info", text, fields)

    def warning(self, text: str, **fields: Any) -> None:
        self._write("warning", text, fields)

    def error(self, text: str, **fields: Any) -> None:
        self._write("error", text, fields)

    def _write(self, level: str, text: str, fields: dict[str, Any]) -> None:
        record = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
            "level": level,
            "service": self._service,
            "text": text,
            **fields,
        }
        # One write a line: lines of several processes on one stderr stay whole.
        sys.stderr.write(json.dumps(record, default=str) + "\n")
        sys.stderr.flush()
