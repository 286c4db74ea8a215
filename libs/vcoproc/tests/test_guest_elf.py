"""ELF loading plans: what is loaded where, and everything that is refused.

Files are built here with struct from the ELF specification (TIS ELF 1.2, figures 1-3 and 2-1), so
that nothing of pyelftools or of our parser checks itself. The committed firmware is read as well.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcoproc.errors import BadFirmware
from vcoproc.guest import elf as elf_module
from vcoproc.guest.elf import PF_R, PF_W, PF_X, LoadPlan, Segment, load_plan

RAM = 0x6000_0000
RAM_BYTES = 0x10_0000
REGIONS = ((RAM, RAM_BYTES),)
PRIVATE = 0x2000_0000
EM_386, EM_ARM, EM_X86_64, EM_AARCH64, EM_RISCV = 3, 40, 62, 183, 243
FIRMWARE = Path(__file__).parents[3] / "firmware"


@dataclass(frozen=True)
class Load:
    """One program header, with the bytes it names."""

    paddr: int = RAM
    data: bytes = bytes(range(256))
    memsz: int | None = None
    vaddr: int | None = None
    flags: int = PF_R | PF_X
    kind: int = 1  # PT_LOAD


@dataclass(frozen=True)
class Image:
    """An ELF file, field by field."""

    loads: tuple[Load, ...] = (Load(),)
    entry: int = RAM | 0x41
    machine: int = EM_ARM
    elf_class: int = 1
    endian: int = 1
    kind: int = 2  # ET_EXEC
    symbols: dict[str, int] = field(default_factory=dict)
    undefined: tuple[str, ...] = ()

    def build(self) -> bytes:
        if self.elf_class == 2:
            return self._ident() + struct.pack(
                "<HHIQQQIHHHHHH",
                self.kind,
                self.machine,
                1,
                self.entry,
                0,
                0,
                0,
                64,
                56,
                0,
                0,
                0,
                0,
            )
        bodies = b"".join(load.data for load in self.loads)
        offset = 52 + 32 * len(self.loads)
        headers = b""
        for load in self.loads:
            memsz = len(load.data) if load.memsz is None else load.memsz
            vaddr = load.paddr if load.vaddr is None else load.vaddr
            headers += struct.pack(
                "<8I", load.kind, offset, vaddr, load.paddr, len(load.data), memsz, load.flags, 4
            )
            offset += len(load.data)
        sections, count, tail = self._sections(offset)
        order = "<" if self.endian == 1 else ">"
        shoff = offset + len(tail) if count else 0
        return (
            self._ident()
            + struct.pack(
                f"{order}HHIIIIIHHHHHH",
                *(self.kind, self.machine, 1, self.entry, 52, shoff, 0x0500_0200),
                *(52, 32, len(self.loads), 40, count, 0),
            )
            + headers
            + bodies
            + tail
            + sections
        )

    def _ident(self) -> bytes:
        return b"\x7fELF" + bytes([self.elf_class, self.endian, 1]) + bytes(9)

    def _sections(self, offset: int) -> tuple[bytes, int, bytes]:
        names = b"\0"
        table = bytes(16)
        for name, value in self.symbols.items():
            section = 0 if name in self.undefined else 1
            table += struct.pack("<IIIBBH", len(names), value, 0, 0x11, 0, section)
            names += name.encode() + b"\0"
        if not self.symbols:
            return b"", 0, b""
        return (
            bytes(40)
            + struct.pack("<10I", 0, 2, 0, 0, offset, len(table), 2, 1, 4, 16)  # SHT_SYMTAB
            + struct.pack("<10I", 0, 3, 0, 0, offset + len(table), len(names), 0, 0, 1, 0),
            3,
            table + names,
        )


def plan(image: Image, regions: tuple[tuple[int, int], ...] = REGIONS) -> LoadPlan:
    return load_plan(image.build(), "fw.elf", regions)


def refusal(image: Image | bytes, regions: tuple[tuple[int, int], ...] = REGIONS) -> str:
    data = image if isinstance(image, bytes) else image.build()
    with pytest.raises(BadFirmware) as caught:
        load_plan(data, "fw.elf", regions)
    assert caught.value.path == "fw.elf"
    return caught.value.why


# --- what is loaded where -------------------------------------------------------------------------


def test_a_segment_goes_to_its_physical_address_with_zeros_behind() -> None:
    image = Image(loads=(Load(paddr=RAM + 0x1000, vaddr=0x1000, data=b"x" * 64, memsz=100),))
    got = plan(replace(image, entry=RAM + 0x1001))
    assert got == LoadPlan(
        entry=RAM + 0x1001,
        segments=(Segment(RAM + 0x1000, b"x" * 64, 100, PF_R | PF_X),),
        vector_base=RAM + 0x1000,
    )


def test_segments_come_by_address_and_the_lowest_holds_the_vectors() -> None:
    low, high = Load(), Load(paddr=RAM + 0x800, data=b"data", flags=PF_R | PF_W)
    got = plan(Image(loads=(high, low)))
    assert [segment.ipa for segment in got.segments] == [RAM, RAM + 0x800]
    assert got.vector_base == RAM


def test_only_load_segments_count_and_empty_ones_do_not() -> None:
    note = Load(paddr=0, data=b"note", kind=4)
    stack = Load(paddr=0, data=b"", memsz=0, kind=0x6474_E551)
    empty = Load(paddr=0x1234, data=b"", memsz=0)
    assert len(plan(Image(loads=(note, stack, empty, Load()))).segments) == 1


def test_private_memory_without_bytes_is_left_to_the_firmware() -> None:
    bss = Load(paddr=PRIVATE, data=b"", memsz=0x1000, flags=PF_R | PF_W)
    got = plan(Image(loads=(Load(), bss)))
    assert [segment.ipa for segment in got.segments] == [RAM]
    assert got.vector_base == RAM  # not the lower address of the private segment


def test_private_memory_with_bytes_is_refused_with_the_way_out() -> None:
    data = Load(paddr=PRIVATE, data=b"init", flags=PF_R | PF_W)
    why = refusal(Image(loads=(Load(), data)))
    assert "0x20000000..0x20000004" in why
    assert "private memory" in why
    assert "load address in domain memory" in why


def test_initial_data_for_private_memory_may_be_stored_in_domain_memory() -> None:
    # .data run at 0x2000_0000, stored behind the code: p_vaddr and p_paddr differ.
    data = Load(paddr=RAM + 0x100, vaddr=PRIVATE, data=b"init", flags=PF_R | PF_W)
    assert plan(Image(loads=(Load(), data))).segments[1].ipa == RAM + 0x100


@pytest.mark.parametrize("name", ["__vectors", "vector_table"])
def test_a_vector_symbol_wins_over_the_lowest_address(name: str) -> None:
    assert plan(Image(symbols={"main": RAM + 1, name: RAM + 0x80})).vector_base == RAM + 0x80


def test_a_vector_symbol_is_moved_to_where_its_segment_is_loaded() -> None:
    image = Image(loads=(Load(paddr=RAM, vaddr=0),), symbols={"__vectors": 0x80})
    assert plan(image).vector_base == RAM + 0x80


@pytest.mark.parametrize(
    "image",
    [
        Image(symbols={"my__vectors_": RAM + 0x80, "vector_table_end": RAM + 0x80}),
        Image(symbols={"__vectors": RAM + 0x80}, undefined=("__vectors",)),
    ],
)
def test_other_symbols_do_not_move_the_vectors(image: Image) -> None:
    assert plan(image).vector_base == RAM


def test_a_name_that_shares_the_end_of_a_longer_one_is_found() -> None:
    """Linkers merge string tails: __vectors may be stored as the end of reset__vectors."""
    data = bytearray(Image(symbols={"reset__vectors": RAM + 0x80}).build())
    place = data.index(b"reset__vectors")
    symbol = data.index(struct.pack("<III", 1, RAM + 0x80, 0))
    assert data[place - 1] == 0
    struct.pack_into("<I", data, symbol, 1 + len("reset"))
    assert load_plan(bytes(data), "fw.elf", REGIONS).vector_base == RAM + 0x80


def test_adjoining_regions_are_one_memory() -> None:
    image = Image(loads=(Load(data=bytes(0x3000)),))
    regions = ((RAM + 0x2000, 0x1000), (RAM, 0x1000), (RAM + 0x1000, 0x1000))
    assert plan(image, regions).segments[0].memory_bytes == 0x3000
    assert "outside" in refusal(image, ((RAM, 0x1000), (RAM + 0x2000, 0x1000)))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (Image(machine=EM_X86_64, elf_class=2), "is for x86-64, this coprocessor is ARM"),
        (Image(machine=EM_AARCH64, elf_class=2), "is for AArch64 (64-bit ARM), this"),
        (Image(machine=EM_RISCV), "is for RISC-V, this coprocessor is ARM"),
        (Image(machine=EM_386), "is for x86 (32 bits), this coprocessor is ARM"),
        (Image(machine=0xBEEF), "is for machine 48879, this coprocessor is ARM"),
        (Image(elf_class=2), "is ELF64"),
        (Image(endian=2), "is big-endian"),
        (Image(kind=1), "a relocatable object that was never linked, want an executable"),
        (Image(kind=3), "a shared object or a position-independent executable, want"),
        (Image(kind=4), "a core dump, want"),
        (Image(kind=0x1234), "is of type 4660, want"),
        (Image(loads=()), "has no segment to load"),
        (Image(loads=(Load(),) * 65), "has 65 program headers, at most 64"),
        (Image(entry=RAM + 0x100), "entry 0x60000100 is in no loaded segment"),
        (Image(loads=(Load(flags=PF_R),)), "entry 0x60000041 is in 0x60000000..0x60000100, not ex"),
        (
            Image(loads=(Load(vaddr=0x0800_0000),), entry=0x0800_0041),
            "entry 0x8000041 is a run address; its segment is loaded at 0x60000000",
        ),
        (
            Image(loads=(Load(memsz=10),)),
            "segment 0x60000000..0x6000000a has 256 bytes in the file, more than in memory",
        ),
        (
            Image(loads=(Load(), Load(paddr=0x1000))),
            "segment 0x1000..0x1100 is outside the domain's memory (0x60000000..0x60100000)",
        ),
        (
            Image(loads=(Load(memsz=RAM_BYTES + 1),)),
            "segment 0x60000000..0x60100001 is outside the domain's memory",
        ),
        (
            Image(loads=(Load(), Load(paddr=0xFFFF_FFF0))),
            "segment 0xfffffff0..0x1000000f0 goes beyond 32 bits",
        ),
        (
            Image(loads=(Load(), Load(paddr=RAM + 0xFF))),
            "segments 0x60000000..0x60000100 and 0x600000ff..0x600001ff overlap",
        ),
        (  # the zeros behind a segment count
            Image(loads=(Load(memsz=0x201), Load(paddr=RAM + 0x200))),
            "segments 0x60000000..0x60000201 and 0x60000200..0x60000300 overlap",
        ),
        (
            Image(loads=(Load(paddr=PRIVATE + 0xFF_F000, data=b"", memsz=0x1001), Load())),
            "segment 0x20fff000..0x21000001 is outside the domain's memory",
        ),
        (
            Image(symbols={"__vectors": RAM + 0x40}),
            "vector table at 0x60000040 is not 128-byte aligned",
        ),
        (
            Image(loads=(Load(memsz=0x1000),), symbols={"__vectors": RAM + 0x800}),
            "vector table at 0x60000800 is not in the loaded bytes",  # it would be zeros
        ),
        (Image(loads=(Load(paddr=RAM + 4),)), "vector table at 0x60000004 is not 128-byte"),
    ],
)
def test_refusals_say_what_is_wrong(image: Image, why: str) -> None:
    assert why in refusal(image)


def test_no_domain_memory_at_all() -> None:
    assert "is outside the domain's memory (none)" in refusal(Image(), ())


def test_not_an_elf_file() -> None:
    for data in (b"", b"\x7fEL", b"#!/bin/sh\n", bytes(100)):
        assert refusal(data) == "is not an ELF file"


def test_too_large_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Image().build()
    monkeypatch.setattr(elf_module, "ELF_BYTES_MAX", len(data) - 1)
    assert refusal(data) == f"has {len(data)} bytes, at most {len(data) - 1} are allowed"
    monkeypatch.setattr(elf_module, "ELF_BYTES_MAX", len(data))
    assert load_plan(data, "fw.elf", REGIONS).entry == RAM | 0x41


def test_every_truncation_is_refused() -> None:
    data = Image(symbols={"__vectors": RAM}).build()
    load_plan(data, "fw.elf", REGIONS)
    for length in range(len(data)):
        refusal(data[:length])
    assert "is truncated: segment 0x60000000..0x60000100 ends at byte 340" in refusal(
        Image().build()[:-1]
    )


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (42, 31, "program headers of 31 bytes"),  # e_phentsize
        (28, 0xFFFF_FFF0, "the program header table ends at byte"),  # e_phoff
        (46, 41, "section headers of 41 bytes"),  # e_shentsize
        (32, 0xFFFF_FFF0, "the section header table ends at byte"),  # e_shoff
    ],
)
def test_damaged_headers_are_refused(offset: int, value: int, why: str) -> None:
    data = bytearray(Image(symbols={"__vectors": RAM}).build())
    struct.pack_into("<I" if offset < 40 else "<H", data, offset, value)
    assert why in refusal(bytes(data))


def test_a_symbol_table_that_links_to_itself_or_nowhere_ends() -> None:
    image = Image(symbols={"__vectors": RAM})
    link_at = len(image.build()) - 2 * 40 + 6 * 4
    for link, expected in ((1, None), (2, None), (3, "names section 3 of 3")):
        data = bytearray(image.build())
        struct.pack_into("<I", data, link_at, link)
        if expected:
            assert expected in refusal(bytes(data))
        else:
            assert load_plan(bytes(data), "fw.elf", REGIONS).vector_base == RAM


# --- any bytes ------------------------------------------------------------------------------------


def check_any(data: bytes) -> None:
    """Either a plan that keeps what `LoadPlan` promises, or BadFirmware; nothing else."""
    try:
        got = load_plan(data, "fw.elf", REGIONS)
    except BadFirmware as refused:
        assert refused.why
        return
    end = RAM
    for segment in got.segments:
        assert end <= segment.ipa
        end = segment.end_ipa
        assert len(segment.data) <= segment.memory_bytes
        assert segment.data in data
    assert end <= RAM + RAM_BYTES
    assert any(
        segment.ipa <= got.entry & ~1 < segment.end_ipa and segment.flags & PF_X
        for segment in got.segments
    )
    assert got.vector_base % 128 == 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_noise_is_refused(noise: bytes, known: int) -> None:
    check_any((b"", b"\x7fELF", b"\x7fELF\1\1\1", Image().build()[:52])[known] + noise)


_GOOD = Image(
    loads=(Load(), Load(paddr=RAM + 0x800, data=b"data", memsz=0x80, flags=PF_R | PF_W)),
    symbols={"main": RAM | 0x41, "__vectors": RAM},
).build()
_METADATA = [*range(52 + 64), *range(len(_GOOD) - 200, len(_GOOD))]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(_METADATA),
            st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_mutated_files_give_a_plan_or_are_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(_GOOD)
    for place, value in changes:
        data[place] = value
    check_any(bytes(data))


@settings(max_examples=200, deadline=None)
@given(
    place=st.integers(0, (len(_GOOD) - 4) // 4),
    value=st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 2**31, 2**32 - 1, RAM])),
)
def test_mutated_words_give_a_plan_or_are_refused(place: int, value: int) -> None:
    data = bytearray(_GOOD)
    struct.pack_into("<I", data, place * 4, value)
    check_any(bytes(data))


# --- the committed firmware -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fir", "hello", "sha256", "sobel", "spin", "wild"])
def test_committed_firmware_loads(name: str) -> None:
    data = (FIRMWARE / name / f"{name}.elf").read_bytes()
    got = load_plan(data, name, REGIONS)
    image = got.segments[0]
    # From the linker script: one image at the bottom of domain memory, vectors first.
    assert (got.vector_base, image.ipa) == (RAM, RAM)
    stack_pointer, reset = struct.unpack_from("<II", image.data)
    assert PRIVATE < stack_pointer <= PRIVATE + 0x1_0000
    assert reset == got.entry
    assert reset & 1, "Thumb"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_firmware_gives_a_plan_or_is_refused(draw: st.DataObject) -> None:
    data = bytearray((FIRMWARE / "fir" / "fir.elf").read_bytes())
    head, tail = draw.draw(st.integers(0, 84)), draw.draw(st.integers(1, 400))
    for place in (head, len(data) - tail):
        data[place] = draw.draw(st.integers(0, 255))
    check_any(bytes(data[: len(data) - draw.draw(st.sampled_from([0, 0, 1, 400, 5000]))]))
