"""Where the store is, as people and programs say it. Needs no database."""

from __future__ import annotations

from typing import Final

VARIABLE: Final = "VCOPROC_STORE"
"""Environment variable for the same as option --store: it hides a password from other users."""
POSTGRESQL: Final = "postgresql://"
"""How the URL of a PostgreSQL database begins; everything else is the path of a SQLite file."""
