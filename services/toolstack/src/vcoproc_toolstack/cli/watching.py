"""`vcoproc events`: prints the cluster's events, those that are kept and those that come."""

from __future__ import annotations

from typing import Any

import typer

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.cli.client import Client
from vcoproc_toolstack.cli.output import to_json


def print_events(client: Client, *, follow: bool, after: int | None, json: bool) -> None:
    """Prints events after a revision, then those that come, or ends.

    Args:
        after: None for all that are kept.
    """
    newest = client.read("ListDomains", api.ListDomainsRequest(page_size=1)).revision
    # Revision 1 is that of a cluster in which nothing has happened; 0 would mean: from now on.
    first = max(1, newest - limits.EVENTS_KEPT_MAX) if after is None else max(1, after)
    if not follow and first == newest:
        return
    try:
        for event in client.watch(api.WatchEventsRequest(revision=first)):
            _print(event, json)
            if not follow and event.revision >= newest:
                return
    except KeyboardInterrupt:
        return  # the usual way to end it


def _print(event: Any, json: bool) -> None:
    if json:
        typer.echo(to_json(event, indent=None))
    else:
        from vcoproc_toolstack.cli.tables import event_line

        typer.echo(event_line(event))
