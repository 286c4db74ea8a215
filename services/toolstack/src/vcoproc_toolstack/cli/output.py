"""Answers of the cluster as JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import Message


def to_json(message: Message, *, indent: int | None = 2) -> str:
    """A message as JSON: names as in the proto file, every field there, 64-bit numbers as numbers.

    Bytes are hexadecimal, enums their names, a message that is absent is null.
    """
    return json.dumps(to_dict(message), indent=indent)


def to_dict(message: Message) -> dict[str, Any]:
    """See `to_json`."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {str(key): value[key] for key in sorted(value)}
    if field.is_repeated:
        return [_value(field, each) for each in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_dict(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value.hex() if isinstance(value, bytes) else value
