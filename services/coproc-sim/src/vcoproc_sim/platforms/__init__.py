"""Coprocessor types."""
