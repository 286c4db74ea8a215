"""The part of the store that the life cycle of domains needs."""

from __future__ import annotations

import json
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import DomainRecord, Hold, Life
from vcoproc_toolstack.rows import ending_text, to_hold
from vcoproc_toolstack.tables import DOMAIN_FILES, DOMAINS, HOLDS, VCOPROCS

_NEW_COLUMNS: Final = (
    "state",
    "state_reason",
    "create_time_ns",
    "on_poweroff",
    "on_crash",
    "ending",
)
"""Of domains, since version 3 of the store."""


class LifeView:
    """What can be read of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def domain_count(self) -> int:
        query = sa.select(sa.func.count()).select_from(DOMAINS)
        return int(self._connection.execute(query).scalar_one())

    def domain_text(self, domid: int) -> str:
        """The file that a domain was made from; empty for one that is older than such files."""
        query = sa.select(DOMAIN_FILES.c.text).where(DOMAIN_FILES.c.domid == domid)
        return self._connection.execute(query).scalar() or ""

    def memory_bytes(self) -> int:
        """Memory of all domains together that have any."""
        query = sa.select(sa.func.coalesce(sa.func.sum(DOMAINS.c.memory_bytes), 0)).where(
            (DOMAINS.c.state != DomainState.STOPPED.value) | (DOMAINS.c.life != Life.ALIVE.value)
        )
        return int(self._connection.execute(query).scalar_one())

    def holds(self, coproc: str = "") -> list[Hold]:
        """Who may have a vcoproc that it is not to have. coproc: only this one."""
        query = sa.select(HOLDS).order_by(HOLDS.c.coproc, HOLDS.c.vcoproc_id)
        if coproc:
            query = query.where(HOLDS.c.coproc == coproc)
        return [to_hold(row) for row in self._connection.execute(query).mappings()]


class LifeChange:
    """What can be changed of it."""

    _connection: Connection

    def update_domain(self, domain: DomainRecord) -> None:
        """Keeps what changes of a domain: its name, and where it is in its life."""
        self._connection.execute(
            DOMAINS.update().where(DOMAINS.c.domid == domain.domid).values(**life_values(domain))
        )
        self._connection.execute(
            VCOPROCS.update().where(VCOPROCS.c.domid == domain.domid).values(life=domain.life.value)
        )

    def set_vcoproc_coproc(self, vcoproc_id: int, coproc: str) -> None:
        """A vcoproc lives on another coproc from now on."""
        self._connection.execute(
            VCOPROCS.update().where(VCOPROCS.c.vcoproc_id == vcoproc_id).values(coproc=coproc)
        )

    def add_hold(self, hold: Hold) -> None:
        self.delete_hold(hold.coproc, hold.vcoproc_id)
        self._connection.execute(
            HOLDS.insert().values(
                coproc=hold.coproc, vcoproc_id=hold.vcoproc_id, files=json.dumps(hold.files)
            )
        )

    def delete_hold(self, coproc: str, vcoproc_id: int) -> None:
        self._connection.execute(
            HOLDS.delete().where((HOLDS.c.coproc == coproc) & (HOLDS.c.vcoproc_id == vcoproc_id))
        )


def life_values(domain: DomainRecord) -> dict[str, Any]:
    """Columns of what `LifeChange.update_domain` keeps."""
    return {
        "name": domain.name,
        "life": domain.life.value,
        "state": domain.state.value,
        "state_reason": domain.state_reason,
        "ending": ending_text(domain.ending),
    }


def widen_domains(connection: Connection) -> None:
    """From version 2 of the store to version 3."""
    have = {column["name"] for column in sa.inspect(connection).get_columns(DOMAINS.name)}
    for name in _NEW_COLUMNS:
        if name not in have:
            column = sa.schema.CreateColumn(DOMAINS.c[name]).compile(dialect=connection.dialect)
            connection.execute(sa.text(f"ALTER TABLE {DOMAINS.name} ADD COLUMN {column}"))
