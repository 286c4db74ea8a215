"""Resource names, from what people write: "fir" for domains/fir, "fir/audio" for its vcoproc."""

from __future__ import annotations

from vcoproc.errors import InvalidArgument


def domain_name(name: str) -> str:
    """domains/{domain}, from that or from the domain's name alone.

    Raises:
        InvalidArgument: it is empty, or the name of something else.
    """
    return _named("domain", "domains", name)


def coproc_name(name: str) -> str:
    """coprocs/{coproc}, from that or from the coproc's name alone.

    Raises:
        InvalidArgument: it is empty, or the name of something else.
    """
    return _named("coproc", "coprocs", name)


def vcoproc_name(name: str) -> str:
    """domains/{domain}/vcoprocs/{vcoproc}, from that or from {domain}/{vcoproc}.

    Raises:
        InvalidArgument: it has neither form.
    """
    words = name.split("/")
    if len(words) == 4 and words[0] == "domains" and words[2] == "vcoprocs":
        return name
    if len(words) == 2 and all(words):
        return f"domains/{words[0]}/vcoprocs/{words[1]}"
    raise InvalidArgument("vcoproc", f"{name!r} is not DOMAIN/VCOPROC")


def short_name(resource: str) -> str:
    """What people write: the inverse of the functions above. Other names stay as they are."""
    words = resource.split("/")
    if len(words) == 4 and words[0] == "domains" and words[2] == "vcoprocs":
        return f"{words[1]}/{words[3]}"
    if len(words) == 2 and words[0] in ("domains", "coprocs"):
        return words[1]
    return resource


def _named(what: str, kind: str, name: str) -> str:
    words = name.split("/")
    if len(words) == 1 and name:
        return f"{kind}/{name}"
    if len(words) == 2 and words[0] == kind and words[1]:
        return name
    raise InvalidArgument(what, f"{name!r} is no name of a {what}")
