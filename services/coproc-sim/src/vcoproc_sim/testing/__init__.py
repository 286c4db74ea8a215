"""Helps for tests of platforms and firmware."""

from __future__ import annotations

from vcoproc_sim.testing.m4_rig import RAM, Guest, Rig
from vcoproc_sim.testing.thumb import Thumb, vector_table

__all__ = ["RAM", "Guest", "Rig", "Thumb", "vector_table"]
