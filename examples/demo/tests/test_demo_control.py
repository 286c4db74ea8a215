from __future__ import annotations

from pathlib import Path

import pytest

from vcoproc.config import parse_domain
from vcoproc_demo import assets
from vcoproc_demo.control import retarget


@pytest.mark.parametrize("name", assets.NAMES)
@pytest.mark.parametrize("coproc", ["dsp0", "ncore-3"])
def test_any_domain_file_can_be_moved_to_another_coproc(name: str, coproc: str) -> None:
    path: Path = assets.find(None).domains[name]
    before = parse_domain(path.read_text(), path.name)
    after = parse_domain(retarget(path.read_text(), coproc), path.name)
    assert after.name == name
    assert [vcoproc.coproc for vcoproc in after.vcoprocs] == [coproc]
    assert after.memory_bytes == before.memory_bytes
    assert after.vcoprocs[0].irq_base == before.vcoprocs[0].irq_base


def test_all_of_a_specification_but_the_coproc_stays() -> None:
    text = 'name = "a"\nvcoproc = [ "coproc=x,name=v,irq=70,addr=0xa000000" ]\n'
    assert retarget(text, "y") == text.replace("coproc=x", "coproc=y")
