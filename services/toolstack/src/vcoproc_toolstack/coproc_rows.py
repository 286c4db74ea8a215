"""The part of the store that keeps what was changed of the coprocs at run time."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from vcoproc.config import CoprocConfig, LineConfig, RangeConfig
from vcoproc_toolstack.records import CoprocLife, CoprocRecord
from vcoproc_toolstack.tables import COPROCS


class CoprocRowsView:
    """What can be read of it."""

    _connection: Connection

    def coproc_records(self) -> list[CoprocRecord]:
        """One for each coproc that is not as its tree says."""
        rows = self._connection.execute(sa.select(COPROCS)).mappings()
        return [_to_record(row) for row in rows]


class CoprocRowsChange:
    """What can be changed of it."""

    _connection: Connection

    def put_coproc(self, record: CoprocRecord) -> None:
        """Keeps what was changed of a coproc, if anything was."""
        self.delete_coproc(record.name)
        if record == CoprocRecord(record.name):
            return
        self._connection.execute(
            COPROCS.insert().values(
                name=record.name,
                config=None if record.config is None else config_text(record.config),
                draining=record.draining,
                life=record.life.value,
                incarnation=record.incarnation,
            )
        )

    def delete_coproc(self, name: str) -> None:
        """Forgets what was changed of a coproc, if anything was."""
        self._connection.execute(COPROCS.delete().where(COPROCS.c.name == name))


def _to_record(row: RowMapping) -> CoprocRecord:
    return CoprocRecord(
        name=row["name"],
        config=None if row["config"] is None else read_config(row["config"]),
        draining=row["draining"],
        life=CoprocLife(row["life"]),
        incarnation=row["incarnation"],
    )


def config_text(config: CoprocConfig) -> str:
    """The configuration of a coproc as JSON."""
    return json.dumps(asdict(config))


def read_config(text: str) -> CoprocConfig:
    """The configuration that `config_text`, perhaps of an older version, has written."""
    fields: dict[str, Any] = json.loads(text)
    return CoprocConfig(
        **{
            **fields,
            "aliases": tuple(fields["aliases"]),
            "ranges": tuple(RangeConfig(**each) for each in fields["ranges"]),
            "lines": tuple(LineConfig(**each) for each in fields["lines"]),
            "scheduler_params": _pairs(fields["scheduler_params"]),
            "platform_params": _pairs(fields["platform_params"]),
        }
    )


def _pairs(found: list[list[Any]]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in found)
