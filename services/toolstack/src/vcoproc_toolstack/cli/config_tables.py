"""Settings and where they come from, as tables for people."""

from __future__ import annotations

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.cli import tables

_SOURCES = {
    api.Setting.SOURCE_DEFAULT: "default",
    api.Setting.SOURCE_RUN_TIME: "run-time change",
    api.Setting.SOURCE_CHOSEN: "chosen",
}


def settings(answer: api.Configuration) -> None:
    """Prints a configuration."""
    tables.show(
        ("OF", "SETTING", "VALUE", "FROM"),
        (
            (setting.resource.rpartition("/")[2], setting.name, setting.value, _source(setting))
            for setting in answer.settings
        ),
        empty="nothing is configured",
    )


def _source(setting: api.Setting) -> str:
    if setting.source != api.Setting.SOURCE_FILE:
        return _SOURCES.get(setting.source, "-")
    return f"{setting.file}:{setting.line}" if setting.line else setting.file
