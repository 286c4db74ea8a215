"""Letting time pass while something else is measured."""

from __future__ import annotations

import select

from vcoproc.limits import MS


def pause(duration_ns: int) -> None:
    """Waits, without using the processor."""
    select.poll().poll(max(duration_ns, 0) // MS)
