"""Filters: what they mean, what is refused, and that no text takes long to match."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.errors import InvalidArgument
from vcoproc_toolstack import filter_fields
from vcoproc_toolstack.filters import FLAG, Field, Name, Number, Text, Word, parse_filter


@dataclass(frozen=True)
class Thing:
    name: str = "domains/fir/vcoprocs/audio"
    words: tuple[str, ...] = ("dsp0", "dsp1")
    state: str = "RUNNING"
    number: int = 64
    on: bool = True


FIELDS = {
    "name": Field(Name(), lambda thing: (thing.name,)),
    "word": Field(Text(), lambda thing: thing.words),
    "state": Field(Word(("RUNNING", "STOPPED", "PAUSED"), "STATE_"), lambda thing: (thing.state,)),
    "number": Field(Number(1019), lambda thing: (thing.number,)),
    "on": Field(FLAG, lambda thing: ("true" if thing.on else "false",)),
}


def matches(text: str, thing: Thing = Thing()) -> bool:
    return parse_filter(text, FIELDS).matches(thing)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "name=audio",
        "name=domains/fir/vcoprocs/audio",
        "name=domains/*/audio",
        "name=*",
        "name=a*o",
        "name=au*di*o",
        "name!=video",
        "word=dsp0",
        "word=dsp1",
        "word!=dsp2",
        "word=*",
        "word=d*p*",
        "state=RUNNING",
        "state=running",
        "state=STATE_RUNNING",
        "state=R*",
        "state!=PAUSED",
        "number=64",
        "number=0x40",
        "number!=65",
        "on=true",
        "on!=False",
        "word=dsp0 word=dsp1",
        "name=audio\tstate=RUNNING\n",
    ],
)
def test_a_thing_matches(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "name=fir",
        "name=domains/fir",
        "name=udio",
        "name=Audio",
        "name!=audio",
        "word=dsp",
        "word!=dsp0",
        "word=",
        "state=stopped",
        "state!=*",
        "state=*P*",
        "number=65",
        "on=false",
        "name=audio state=PAUSED",
        "name=audio*audio",
        "name=au*ud*io",
    ],
)
def test_a_thing_does_not_match(text: str) -> None:
    assert not matches(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name", "'name' must be FIELD=VALUE or FIELD!=VALUE"),
        ("=", "'' is no field; this list has name, word, state, number, on"),
        ("stat=RUNNING", "'stat' is no field; .*; did you mean 'state'?"),
        ("NAME=a", "'NAME' is no field"),
        ("name=", "name must be a name"),
        ("state=", "state must be one of RUNNING, STOPPED, PAUSED"),
        (
            "state=RUNING",
            "one of RUNNING, STOPPED, PAUSED; did you mean 'RUNNING'.; it is 'RUNING'",
        ),
        ("state=X*", "state must be one of"),
        ("number=many", "number must be a number from 0 to 1019; it is 'many'"),
        ("number=1020", "from 0 to 1019"),
        ("number=-1", "from 0 to 1019"),
        ("number=6*", "from 0 to 1019"),
        ("number=٣", "from 0 to 1019"),
        ("number=" + "9" * 900, "from 0 to 1019"),
        ("on=maybe", "on must be one of true, false"),
        ("name=" + "é" * 510, "is longer than 1024 bytes"),
        ("name=\ud800" + "a" * 1024, "is longer than 1024 bytes"),
    ],
)
def test_a_filter_without_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^filter: .*{words}"):
        parse_filter(text, FIELDS)


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
def test_stars_mean_what_they_mean_to_a_shell(pattern: str, text: str) -> None:
    found = parse_filter(f"word={pattern}", FIELDS).matches(Thing(words=(text,)))
    assert found == (re.fullmatch(fnmatch.translate(pattern), text) is not None)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        wanted = parse_filter(text, FIELDS)
    except InvalidArgument as error:
        assert error.field == "filter"
        assert len(str(error)) < 400
    else:
        wanted.matches(Thing())


def test_a_pattern_that_would_make_a_regular_expression_slow_is_quick() -> None:
    pattern = "a*" * ((limits.FILTER_BYTES_MAX - 6) // 2)
    wanted = parse_filter(f"word={pattern}b", FIELDS)
    assert not wanted.matches(Thing(words=("a" * 100_000,)))


def test_every_field_that_the_api_promises_is_there() -> None:
    assert set(filter_fields.DOMAINS) == {"state", "name", "domid", "coproc"}
    assert set(filter_fields.COPROCS) == {"state", "name", "compatible", "scheduler", "draining"}
    assert set(filter_fields.VCOPROCS) == {"state", "name", "domain", "coproc", "compatible"}
    assert set(filter_fields.EVENTS) == {"name", "kind", "type"}
    assert set(filter_fields.FAULTS) == {"name", "code", "current"}
    assert set(filter_fields.LINES) == {
        "domain", "vcoproc", "coproc", "line", "irq", "pending", "active", "enabled",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("domains/d", "domain"),
        ("domains/d/vcoprocs/v", "vcoproc"),
        ("coprocs/c", "coproc"),
        ("coprocs/c/schedule", "schedule"),
        ("services/scheduler", "service"),
        ("domains/d/vcoprocs", ""),
        ("else/d", ""),
    ],
)
def test_a_name_says_what_it_names(name: str, type_: str) -> None:
    assert filter_fields.resource_type(name) == type_


def test_words_of_states_are_those_of_the_api() -> None:
    domain = api.Domain(name="domains/d", state=api.Domain.STATE_CREATING)
    for state in api.Domain.State.values():
        word = api.Domain.State.Name(state).removeprefix("STATE_")
        if state == api.Domain.STATE_UNSPECIFIED:
            with pytest.raises(InvalidArgument):
                parse_filter(f"state={word}", filter_fields.DOMAINS)
        else:
            found = parse_filter(f"state={word}", filter_fields.DOMAINS).matches(domain)
            assert found == (word == "CREATING")
    vcoproc = api.Vcoproc(name="domains/d/vcoprocs/v")
    assert parse_filter("state=UNSPECIFIED", filter_fields.VCOPROCS).matches(vcoproc)
