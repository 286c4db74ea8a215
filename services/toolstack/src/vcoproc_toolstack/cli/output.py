"""Answers of the cluster as JSON or YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message


def to_text(answer: Message | Mapping[str, Any], form: str) -> str:
    """An answer as "json" or "yaml". A mapping may hold messages, also in lists."""
    plain = _plain(answer)
    return json.dumps(plain, indent=2) if form == "json" else _yaml(plain)


def to_item(item: Message, form: str) -> str:
    """One of many: JSON in one line, or a YAML document."""
    plain = to_dict(item)
    return json.dumps(plain) if form == "json" else f"---\n{_yaml(plain)}"


def _yaml(plain: Any) -> str:
    import yaml

    return str(yaml.safe_dump(plain, sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def to_dict(message: Message) -> dict[str, Any]:
    """A message: names as in the proto file, every field there, 64-bit numbers as numbers.

    Bytes are hexadecimal, enums their names, a message that is absent is null.
    """
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
