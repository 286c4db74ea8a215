"""Snapshots on their way to and from files, with progress for somebody at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from vcoproc.errors import InvalidArgument

Told = Callable[[int], None]
"""Is told how many bytes have passed so far."""


@contextmanager
def saving(what: str, file: Path) -> Iterator[Told]:
    """Around the saving of something into a file.

    Raises:
        InvalidArgument: the file cannot be written.
    """
    with _explained(file), _progress(f"saving {what}", None) as told:
        yield told
    typer.echo(f"saved {what} in {file}, {file.stat().st_size} bytes")


@contextmanager
def restoring(file: Path) -> Iterator[Told]:
    """Around the restoring of something from a file.

    Raises:
        InvalidArgument: the file cannot be read.
    """
    with _explained(file):
        size_bytes = file.stat().st_size
        with _progress(f"restoring {file}", size_bytes) as told:
            yield told


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidArgument(str(file), error.strerror or str(error)) from None


@contextmanager
def _progress(words: str, size_bytes: int | None) -> Iterator[Told]:
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress("{task.description}", *columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(words, total=size_bytes)
        yield lambda count: progress.update(task, completed=count)
