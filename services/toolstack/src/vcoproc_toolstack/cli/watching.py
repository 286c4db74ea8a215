"""`vcoproc events`: prints the cluster's events, those that are kept and those that come."""

from __future__ import annotations

from typing import Any, Final

import typer

from vcoproc.client import Cluster, calls
from vcoproc.limits import S
from vcoproc_toolstack.cli.options import Output, print_item

PATIENCE_NS: Final = 10 * S
"""How long a cluster that does not answer is waited for."""


def print_events(
    client: Cluster, *, filter: str, follow: bool, after: int | None, output: Output
) -> None:
    """Prints events after a revision, then those that come, or ends.

    Args:
        after: None for all that are kept.
    """
    kept = client.whole(calls.events(filter, after or 0))
    for event in kept.events:
        _print(event, output)
    if not follow:
        return
    try:
        for event in client.watch(filter, revision=kept.revision, patience_ns=PATIENCE_NS):
            _print(event, output)
    except KeyboardInterrupt:
        return  # the usual way to end it


def _print(event: Any, output: Output) -> None:
    if not print_item(output, event):
        from vcoproc_toolstack.cli.tables import event_line

        typer.echo(event_line(event))
