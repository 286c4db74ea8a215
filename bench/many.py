"""Systems with many coprocs, and the files of many domains on them."""

from __future__ import annotations

from typing import Final

from vcoproc.limits import PAGE_BYTES, VCOPROCS_PER_COPROC_MAX

VCOPROCS: Final = 4
"""Of each domain."""
_NODE: Final = """
	dsp{number}: dsp@{base:x} {{
		compatible = "vcoproc,cortex-m4";
		xen,coproc;
		reg = <{base:#x} 0x1000>, <{mailbox:#x} 0x1000>;
		reg-names = "ctrl", "mbox";
		interrupts = <64>, <65>, <66>;
		interrupt-names = "irq", "event", "fault";
		vcoproc,private-memory = <{private_bytes:#x}>;
	}};"""


def coprocs_for(domains: int) -> int:
    """How many coprocs so many domains need, and some more that come and go."""
    return -(-(domains + 1) * VCOPROCS // VCOPROCS_PER_COPROC_MAX)


def write_many(coprocs: int) -> str:
    """The tree of a system with so many coprocs, dsp0 and so on, of little memory each."""
    shared = "".join(f"dsp{n} {{ coproc = <&dsp{n}>; }}; " for n in range(coprocs))
    bases = range(0xE000_0000, 0xF000_0000, 0x1_0000)
    nodes = "".join(
        _NODE.format(number=number, base=base, mailbox=base + PAGE_BYTES, private_bytes=PAGE_BYTES)
        for number, base in zip(range(coprocs), bases, strict=False)
    )
    chosen = f'compatible = "vcoproc,shared-coprocs"; {shared}'
    return (
        "/dts-v1/;\n/ { #address-cells = <1>; #size-cells = <1>;\n"
        f"chosen {{ shared {{ {chosen} }}; }};{nodes}\n}};\n"
    )


def domain_file(name: str, first: int, coprocs: int) -> str:
    """first: number of the coproc of its first vcoproc; the others are on those that follow."""
    specs = [f'"coproc=dsp{(first + n) % coprocs},name=v{n}"' for n in range(VCOPROCS)]
    return f'name = "{name}"\nmemory = 1\nvcoproc = [{", ".join(specs)}]\n'
