"""Writes docs/api.md from proto/ and docs/commands.md from the `vcoproc` command, or checks them.

Usage: python tools/generate_docs.py [--check]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click
import typer
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "vcoproc.api.v1"
_PATHS: Final = {"message": 4, "enum": 5, "service": 6, "field": 2, "nested enum": 4, "value": 2}
"""Field numbers of descriptor.proto, which source locations are made of."""
_SYNTAX: Final = 12


def api_page() -> str:
    """Every service, call, message and enum of the public API, with the comments of proto/."""
    files = [file for file in _descriptors() if file.package == PACKAGE]
    lines = [
        "# Control API",
        "",
        "Made from the comments of `proto/vcoproc/api/v1/`; `make docs` writes it anew.",
        "The package is `vcoproc.api.v1`. The server has reflection and the gRPC health service,",
        "so that `grpcurl -plaintext -unix $VCOPROC_RUN_DIR/toolstack.grpc list` needs no files.",
        "",
    ]
    headers = [_Comments(file).of((_SYNTAX,), detached=True) for file in files]
    lines += [line for each in headers if "\n\n" in each for line in ("```", each, "```", "")]
    for file in files:
        comments = _Comments(file)
        for place, service in enumerate(file.service):
            path = (_PATHS["service"], place)
            lines += [f"## {service.name}", "", comments.of(path), ""]
            lines += ["| call | request | answer | |", "|---|---|---|---|"]
            for index, method in enumerate(service.method):
                request = _stream(method.client_streaming) + _link(method.input_type)
                answer = _stream(method.server_streaming) + _link(method.output_type)
                words = _cell(comments.of((*path, 2, index)))
                lines.append(f"| `{method.name}` | {request} | {answer} | {words} |")
            lines.append("")
    lines += ["## Messages", ""]
    for file in files:
        comments = _Comments(file)
        for place, message in enumerate(file.message_type):
            lines += _message(message, (_PATHS["message"], place), comments)
    return "\n".join(lines).rstrip() + "\n"


def _descriptors() -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        proto = ROOT / "proto"
        code = protoc.main(
            [
                "protoc",
                f"-I{proto}",
                f"-I{resources.files('grpc_tools') / '_proto'}",
                "--include_source_info",
                f"--descriptor_set_out={out}",
                *sorted(str(path.relative_to(proto)) for path in proto.rglob("api/**/*.proto")),
            ]
        )
        if code:
            sys.exit(code)
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


class _Comments:
    """The comments of a file, by path of numbers."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._found = {tuple(each.path): each for each in file.source_code_info.location}

    def of(self, path: tuple[int, ...], *, detached: bool = False) -> str:
        location = self._found.get(path)
        if location is None:
            return ""
        text = location.leading_comments
        if detached:
            text = "\n".join(location.leading_detached_comments) + text
        return "\n".join(line.removeprefix(" ") for line in text.strip("\n").split("\n")).strip()


def _message(message: DescriptorProto, path: tuple[int, ...], comments: _Comments) -> Iterator[str]:
    yield from (f"### {message.name}", "", comments.of(path), "")
    maps = {each.name: each for each in message.nested_type if each.options.map_entry}
    if message.field:
        yield from ("| field | type | |", "|---|---|---|")
        for place, field in enumerate(message.field):
            words = _cell(comments.of((*path, _PATHS["field"], place)))
            yield f"| `{field.name}` | {_type(field, maps)} | {words} |"
        yield ""
    for place, enum in enumerate(message.enum_type):
        yield from _enum(message, enum, (*path, _PATHS["nested enum"], place), comments)


def _enum(
    message: DescriptorProto,
    enum: EnumDescriptorProto,
    path: tuple[int, ...],
    comments: _Comments,
) -> Iterator[str]:
    yield from (f"`{message.name}.{enum.name}`: {comments.of(path)}", "")
    yield from ("| value | number | |", "|---|---|---|")
    for place, value in enumerate(enum.value):
        words = _cell(comments.of((*path, _PATHS["value"], place)))
        yield f"| `{value.name}` | {value.number} | {words} |"
    yield ""


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = entry.field
        return f"map of {_type(key, {})} to {_type(value, {})}"
    if field.type_name:
        name = _link(field.type_name)
    else:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"list of {name}" if repeated else name


def _link(type_name: str) -> str:
    """A message of ours as a link; an enum goes to the message that it is in."""
    name = type_name.removeprefix(f".{PACKAGE}.")
    return f"[{name}](#{name.partition('.')[0].lower()})"


def _stream(streaming: bool) -> str:
    return "stream of " if streaming else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- the command ----------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments and options, from its own help."""
    from vcoproc_toolstack.cli.app import app
    from vcoproc_toolstack.cli.exit_codes import EXIT_CODES

    root = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "Made from the help texts of `vcoproc`; `make docs` writes it anew.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {code} | {words} |" for code, words in EXIT_CODES.items()),
        "",
        "Errors go to stderr: `error: WHAT [REASON]`, and `next: WHAT TO DO`; a command line that",
        "cannot be read gets its usage, and `Error: WHAT`. Code 74 without words: the reader has",
        "closed the pipe. `--output json` and `--output yaml` print the messages of the",
        "[control API](api.md), every field there;",
        "tables have colours on a terminal only.",
        "",
    ]
    for path, command in _walk("vcoproc", root):
        lines += _command(path, command)
    return "\n".join(lines).rstrip() + "\n"


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if command.hidden:
        return
    yield path, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _walk(f"{path} {name}", child)


def _command(path: str, command: Any) -> Iterator[str]:
    context = click.Context(command, info_name=path, terminal_width=100)
    level = "##" if path.count(" ") < 1 or hasattr(command, "commands") else "###"
    yield from (f"{level} {path}", "", " ".join((command.help or "").split()), "")
    if hasattr(command, "commands"):
        names = sorted(name for name, each in command.commands.items() if not each.hidden)
        yield from (", ".join(f"`{name}`" for name in names), "")
    else:
        yield from (f"    {command.get_usage(context).removeprefix('Usage: ')}", "")
    rows = []
    for parameter in command.params:
        record = _record(parameter, context)
        if record is not None:
            rows.append(f"| `{record[0]}` | {_cell(record[1])} |")
    if rows:
        yield from ("| | |", "|---|---|", *rows, "")


def _record(parameter: Any, context: click.Context) -> tuple[str, str] | None:
    if parameter.name in ("help", "install_completion", "show_completion"):
        return None
    found: tuple[str, str] | None = parameter.get_help_record(context)
    return found


# --- both -----------------------------------------------------------------------------------------

PAGES: Final = {"docs/api.md": api_page, "docs/commands.md": commands_page}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when stale")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        page, path = make(), ROOT / name
        if check and (not path.exists() or path.read_text() != page):
            stale.append(name)
        elif not check:
            path.write_text(page)
    if stale:
        sys.exit(f"pages are stale, run `make docs`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
