"""Between settings and their proto message. Needs nothing of the toolstack: the command uses it."""

from __future__ import annotations

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config.settings import Setting


def setting_message(resource: str, setting: Setting, *, changed: bool = False) -> api.Setting:
    """changed: set at run time, whatever the file says."""
    message = api.Setting(resource=resource, name=setting.name, value=setting.value)
    if changed:
        message.source = api.Setting.SOURCE_RUN_TIME
    elif setting.origin is None:
        message.source = api.Setting.SOURCE_DEFAULT
    else:
        message.source = api.Setting.SOURCE_FILE
        message.file, message.line = setting.origin.file, setting.origin.line
    return message
