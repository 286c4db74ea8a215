"""The file that would make a domain as it is: read again, it makes the same one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from toolstack_rig import PLATFORM, TREE

from vcoproc.config import parse_domain, parse_system
from vcoproc.config.problems import Problems
from vcoproc.config.xlcfg import XlList, XlNumber, XlString, XlValue, parse_settings
from vcoproc_toolstack.domain_file import domain_text
from vcoproc_toolstack.placing import place_domain
from vcoproc_toolstack.records import DomainRecord, Life, Then

SYSTEM = parse_system(TREE, "tree.dts")
SOURCE = """
name = "fir"; memory = 3
on_crash = "restart"
coproc = ["dsp0"]
vcoproc = [ "coproc=dsp1,name=b,weight=-3,irq.event=200,addr.mbox=0x80000000" ]
kernel = 'a "quoted" \\\\ name'
disk = [ "x,y", [ 1, 0x10 ], ]
disk += [ "z" ]
extra = "tab\\tline\\n\\x01\xe9"
"""


def make(source: str) -> DomainRecord:
    config = parse_domain(source, "x.cfg")
    new = place_domain(config, SYSTEM, lambda _coproc: PLATFORM)
    return DomainRecord(
        domid=1,
        name=config.name,
        life=Life.ALIVE,
        memory_bytes=config.memory_bytes,
        irq_credential=b"",
        unknown_keys=tuple(sorted({key for key, _line in config.unknown_keys})),
        vcoprocs=tuple(each.record(0, 1, config.name, b"") for each in new),
        on_poweroff=Then(config.on_poweroff),
        on_crash=Then(config.on_crash),
    )


def values(source: str) -> dict[str, object]:
    """All settings, without where they stand."""

    def plain(value: XlValue | None) -> object:
        match value:
            case XlString(text=text):
                return text
            case XlNumber(value=number):
                return number
            case XlList(values=each):
                return [plain(one) for one in each]
        return None

    problems = Problems("x.cfg")
    settings = parse_settings(source, problems)
    problems.raise_if_any()
    return {setting.key: plain(setting.value) for setting in settings}


def test_it_makes_the_same_domain() -> None:
    domain = make(SOURCE)
    text = domain_text(domain, SOURCE)
    assert make(text) == domain
    assert domain_text(make(text), text) == text


def test_keys_that_mean_nothing_here_are_kept_with_their_values() -> None:
    kept = values(domain_text(make(SOURCE), SOURCE))
    assert {key: kept[key] for key in ("kernel", "disk", "extra")} == {
        "kernel": 'a "quoted" \\ name',
        "disk": ["x,y", [1, 16], "z"],
        "extra": "tab\tline\n\x01\xe9",
    }


def test_it_is_the_domain_as_it_is_now_and_not_as_it_was_made() -> None:
    domain = make(SOURCE)
    moved = replace(domain.vcoprocs[0], coproc="ncore-2", params=(("cap", 40),))
    now = replace(domain.renamed("other"), vcoprocs=(moved,), on_crash=Then.DESTROY)
    again = make(domain_text(now, SOURCE))
    assert [(v.coproc, v.params) for v in again.vcoprocs] == [("ncore-2", (("cap", 40),))]
    assert (again.name, again.on_crash) == ("other", Then.DESTROY)


def test_a_domain_whose_file_is_not_kept_has_one_all_the_same() -> None:
    domain = replace(make(SOURCE), unknown_keys=())
    assert make(domain_text(domain, "")) == domain


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_comes_back(text: str) -> None:
    escaped = "".join(f"\\x{ord(c):02x}" if ord(c) < 128 else c for c in text if c != "\r")
    source = f'name = "fir"\nextra = "{escaped}"\n'
    wanted = values(source)["extra"]
    assert values(domain_text(make(source), source))["extra"] == wanted
