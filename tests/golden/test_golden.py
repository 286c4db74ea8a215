"""Golden transcripts: commands to a core, and exactly what it did.

``NAME_topic.txt`` is played by the class `Transcript` of ``NAME_transcript.py`` beside it. A file
is made of blocks: commands, one a line or separated by semicolons; a line of four dashes; what
happened, up to an empty line. Lines that begin with # are for the reader.

To write the files anew: ``pytest tests/golden --rewrite-golden``. Commit the difference only if you
understand what caused it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Protocol

import pytest

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("*_*.txt"))
RULE = "----"


class Player(Protocol):
    def command(self, line: str) -> list[str]:
        """Does one command; says what happened, a line each."""


def player_for(path: Path) -> Player:
    name = path.name.partition("_")[0]
    source = FOLDER / f"{name}_transcript.py"
    spec = importlib.util.spec_from_file_location(f"golden_{name}_transcript", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    player: Player = module.Transcript()
    return player


def replay(text: str, player: Player) -> str:
    """The same transcript with what happens now."""
    out: list[str] = []
    happened: list[str] = []
    expected = False
    for line in text.splitlines():
        if expected:
            if not line.strip():
                expected = False
                out.append(line)
            continue
        out.append(line)
        if line.strip() == RULE:
            out += happened
            happened, expected = [], True
        elif line.strip() and not line.startswith("#"):
            for command in line.split(";"):
                happened += player.command(command.strip())
    assert not happened, "the last commands have no line of dashes after them"
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda each: each.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    want = path.read_text(encoding="utf-8")
    got = replay(want, player_for(path))
    if request.config.getoption("--rewrite-golden", default=False):
        path.write_text(got, encoding="utf-8")
        return
    assert got == want


def test_there_are_transcripts() -> None:
    assert FILES


class _Echo:
    def command(self, line: str) -> list[str]:
        return [f"did {line}"]


def test_a_difference_would_be_seen() -> None:
    text = "# about\na; b\n----\ndid a\ndid b\n\nc\n----\ndid c\n"
    assert replay(text, _Echo()) == text
    wrong = text.replace("did c", "did d")
    assert replay(wrong, _Echo()) == text
