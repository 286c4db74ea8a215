"""What to load where: an ELF executable read as Linux remoteproc reads it.

Theory of operation: `load_plan` checks an ELF32 little-endian ARM executable against the memory of
the domain and says which bytes go to which address; it writes nothing. As in Linux
(drivers/remoteproc/remoteproc_elf_loader.c) every PT_LOAD goes to its *physical* address (p_paddr),
p_filesz bytes from the file, zeros up to p_memsz, and `entry` is the header's. Stricter than Linux:
segments may not overlap, and the entry must be code that is loaded.

A remote processor's driver can write only what the domain can. Private memory of the coprocessor
is not that: a segment there without file bytes (.bss, stack) is skipped, as the firmware's own
start-up clears it; one with file bytes is refused.

The file is not trusted: any bytes give a `LoadPlan` or `BadFirmware`, in time proportional to their
length. pyelftools reads the file header and the program headers. Its section and segment objects
follow links between sections without a bound, so the symbol table is read by hand.

Not handled: resource tables, relocations, ELF64.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from vcoproc.errors import BadFirmware
from vcoproc.limits import ELF_BYTES_MAX, PRIVATE_MEMORY_BYTES_MAX

PRIVATE_BASE_IPA: Final = 0x2000_0000
"""Private memory of a coprocessor context, as firmware sees it: Armv7-M's SRAM region."""
PRIVATE_END_IPA: Final = PRIVATE_BASE_IPA + PRIVATE_MEMORY_BYTES_MAX
VECTOR_SYMBOLS: Final = ("__vectors", "vector_table")
VECTOR_ALIGN_BYTES: Final = 128
"""32 vectors of 4 bytes, rounded to a power of two: Armv7-M, VTOR.TBLOFF."""
VECTOR_BYTES_MIN: Final = 8
"""Initial stack pointer and reset handler: what the core reads when its reset is released."""
SEGMENTS_MAX: Final = 64
NAME_PLACES_MAX: Final = 64
"""Places in a string table where the name of a vector symbol is looked for. A linker stores a name
once; further places are ignored, or a hostile table would cost memory many times its size."""

PF_X: Final = 1
PF_W: Final = 2
PF_R: Final = 4

_PHDR_BYTES = 32
_SHDR = struct.Struct("<10I")  # name type flags addr offset size link info addralign entsize
_SYM = struct.Struct("<IIIBBH")  # name value size info other shndx
_SHT_SYMTAB = 2
_SHN_UNDEF = 0
_ADDRESS_LIMIT = 1 << 32
_MACHINES: Mapping[object, str] = {
    "EM_386": "x86 (32 bits)",
    "EM_X86_64": "x86-64",
    "EM_AARCH64": "AArch64 (64-bit ARM)",
    "EM_RISCV": "RISC-V",
    "EM_MIPS": "MIPS",
    "EM_PPC": "PowerPC",
    "EM_PPC64": "PowerPC (64 bits)",
    "EM_XTENSA": "Xtensa",
    "EM_AVR": "AVR",
    "EM_NONE": "no machine",
}
_TYPES: Mapping[object, str] = {
    "ET_REL": "a relocatable object that was never linked",
    "ET_DYN": "a shared object or a position-independent executable",
    "ET_CORE": "a core dump",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes to put at an address: `data`, then zeros up to `memory_bytes`.

    flags: PF_R, PF_W, PF_X as in the file; for information, stage 2 decides.
    """

    ipa: int
    data: bytes
    memory_bytes: int
    flags: int

    @property
    def end_ipa(self) -> int:
        """First address behind it."""
        return self.ipa + self.memory_bytes


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to load, and what to tell the core.

    entry: the ELF header's, with its Thumb bit.
    segments: by address, without overlap, all inside the domain's memory.
    vector_base: value for VECTOR_BASE, a multiple of 128. The symbol ``__vectors`` or
        ``vector_table`` when the file has one; else the lowest loaded address, because linkers
        put the vectors first.
    """

    entry: int
    segments: tuple[Segment, ...]
    vector_base: int


def load_plan(data: bytes, path: str, regions: Sequence[tuple[int, int]]) -> LoadPlan:
    """Checks an executable and plans its loading.

    Args:
        data: the whole file.
        path: its name, for errors only.
        regions: the domain's memory as (ipa, size_bytes); those that adjoin count as one.

    Raises:
        BadFirmware: it cannot be loaded; the text says what is wrong, with addresses.
    """
    elf = _open(data, path)
    headers = [header for header in _load_headers(elf, data, path) if header["p_memsz"]]
    memory = _merge(regions)
    segments = [
        _segment(header, data, path, memory) for header in headers if not _is_skipped(header, path)
    ]
    segments.sort(key=lambda segment: segment.ipa)
    if not segments:
        raise BadFirmware(path, "has no segment to load")
    for low, high in itertools.pairwise(segments):
        if high.ipa < low.end_ipa:
            raise BadFirmware(path, f"segments {_span(low)} and {_span(high)} overlap")
    entry: int = elf["e_entry"]
    _check_entry(entry, headers, segments, path)
    vector_base = _vector_base(elf, data, path, headers)
    if vector_base is None:
        vector_base = segments[0].ipa
    _check_vectors(vector_base, segments, path)
    return LoadPlan(entry, tuple(segments), vector_base)


# --- headers --------------------------------------------------------------------------------------


def _open(data: bytes, path: str) -> ELFFile:
    """The file with a header that is ours."""
    if len(data) > ELF_BYTES_MAX:
        raise BadFirmware(path, f"has {len(data)} bytes, at most {ELF_BYTES_MAX} are allowed")
    if data[:4] != b"\x7fELF":
        raise BadFirmware(path, "is not an ELF file")
    try:
        elf = ELFFile(io.BytesIO(data))
    except (ELFError, ValueError) as error:  # ValueError: undecodable bytes in the header
        raise BadFirmware(path, f"has a damaged ELF header ({error})") from None
    machine = elf["e_machine"]
    if machine != "EM_ARM":
        known = _MACHINES.get(machine)
        name = known or f"machine {str(machine).removeprefix('EM_')}"
        raise BadFirmware(path, f"is for {name}, this coprocessor is ARM")
    if elf.elfclass != 32:
        raise BadFirmware(path, "is ELF64, this coprocessor has 32 bits")
    if not elf.little_endian:
        raise BadFirmware(path, "is big-endian, this coprocessor is little-endian")
    kind = elf["e_type"]
    if kind != "ET_EXEC":
        name = _TYPES.get(kind, f"of type {kind}")
        raise BadFirmware(path, f"is {name}, want an executable (ET_EXEC)")
    return elf


def _check_inside(data: bytes, path: str, what: str, offset: int, size_bytes: int) -> None:
    if offset + size_bytes > len(data):
        raise BadFirmware(
            path,
            f"is truncated: {what} ends at byte {offset + size_bytes}, the file has {len(data)}",
        )


def _load_headers(elf: ELFFile, data: bytes, path: str) -> Iterator[Mapping[str, Any]]:
    count, size_bytes, offset = elf["e_phnum"], elf["e_phentsize"], elf["e_phoff"]
    if count > SEGMENTS_MAX:
        raise BadFirmware(path, f"has {count} program headers, at most {SEGMENTS_MAX} are allowed")
    if count and size_bytes != _PHDR_BYTES:
        raise BadFirmware(path, f"has program headers of {size_bytes} bytes, want {_PHDR_BYTES}")
    _check_inside(data, path, "the program header table", offset, count * _PHDR_BYTES)
    for index in range(count):
        header = struct_parse(elf.structs.Elf_Phdr, elf.stream, offset + index * _PHDR_BYTES)
        if header["p_type"] == "PT_LOAD":
            yield header


# --- segments -------------------------------------------------------------------------------------


def _merge(regions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Regions as (begin, end), by address; neighbours joined."""
    merged: list[tuple[int, int]] = []
    for ipa, size_bytes in sorted(regions):
        if merged and ipa <= merged[-1][1]:
            begin, end = merged.pop()
            merged.append((begin, max(end, ipa + size_bytes)))
        else:
            merged.append((ipa, ipa + size_bytes))
    return merged


def _range(begin: int, end: int) -> str:
    return f"{begin:#x}..{end:#x}"


def _span(segment: Segment) -> str:
    return _range(segment.ipa, segment.end_ipa)


def _is_skipped(header: Mapping[str, Any], path: str) -> bool:
    """True for a segment in private memory that has nothing to load."""
    ipa = header["p_paddr"]
    end_ipa = ipa + header["p_memsz"]
    if not PRIVATE_BASE_IPA <= ipa < end_ipa <= PRIVATE_END_IPA:
        return False
    if header["p_filesz"]:
        raise BadFirmware(
            path,
            f"segment {_range(ipa, end_ipa)} has {header['p_filesz']} bytes to load into the"
            " coprocessor's private memory, which a driver cannot write: give its sections a load"
            " address in domain memory and let the firmware's start-up copy them",
        )
    return True


def _segment(
    header: Mapping[str, Any], data: bytes, path: str, memory: Sequence[tuple[int, int]]
) -> Segment:
    ipa, memory_bytes = header["p_paddr"], header["p_memsz"]
    offset, file_bytes = header["p_offset"], header["p_filesz"]
    end_ipa = ipa + memory_bytes
    what = f"segment {_range(ipa, end_ipa)}"
    if file_bytes > memory_bytes:
        raise BadFirmware(path, f"{what} has {file_bytes} bytes in the file, more than in memory")
    if end_ipa > _ADDRESS_LIMIT:
        raise BadFirmware(path, f"{what} goes beyond 32 bits")
    _check_inside(data, path, what, offset, file_bytes)
    if not any(begin <= ipa and end_ipa <= end for begin, end in memory):
        have = ", ".join(itertools.starmap(_range, memory)) or "none"
        raise BadFirmware(path, f"{what} is outside the domain's memory ({have})")
    return Segment(ipa, data[offset : offset + file_bytes], memory_bytes, header["p_flags"])


def _check_entry(
    entry: int, headers: Sequence[Mapping[str, Any]], segments: Sequence[Segment], path: str
) -> None:
    address = entry & ~1  # bit 0 is the Thumb state, not part of the address
    for segment in segments:
        if segment.ipa <= address < segment.end_ipa:
            if segment.flags & PF_X:
                return
            raise BadFirmware(path, f"entry {entry:#x} is in {_span(segment)}, not executable")
    for header in headers:
        if header["p_vaddr"] <= address < header["p_vaddr"] + header["p_memsz"]:
            raise BadFirmware(
                path,
                f"entry {entry:#x} is a run address; its segment is loaded at"
                f" {header['p_paddr']:#x}, where the core would have to start",
            )
    raise BadFirmware(path, f"entry {entry:#x} is in no loaded segment")


# --- vector table ---------------------------------------------------------------------------------


def _check_vectors(vector_base: int, segments: Sequence[Segment], path: str) -> None:
    if vector_base % VECTOR_ALIGN_BYTES:
        raise BadFirmware(
            path, f"vector table at {vector_base:#x} is not {VECTOR_ALIGN_BYTES}-byte aligned"
        )
    end = vector_base + VECTOR_BYTES_MIN
    if not any(
        segment.ipa <= vector_base and end <= segment.ipa + len(segment.data)
        for segment in segments
    ):
        raise BadFirmware(path, f"vector table at {vector_base:#x} is not in the loaded bytes")


def _vector_base(
    elf: ELFFile, data: bytes, path: str, headers: Sequence[Mapping[str, Any]]
) -> int | None:
    """Load address of the first of VECTOR_SYMBOLS that the file defines."""
    found = _symbols(elf, data, path)
    value = next((found[name] for name in VECTOR_SYMBOLS if name in found), None)
    if value is None:
        return None
    for header in headers:  # a symbol has a run address; the core reads the table where it is now
        if header["p_vaddr"] <= value < header["p_vaddr"] + header["p_memsz"]:
            load_address: int = header["p_paddr"] + value - header["p_vaddr"]
            return load_address
    return value


def _symbols(elf: ELFFile, data: bytes, path: str) -> dict[str, int]:
    """Values of those VECTOR_SYMBOLS that the symbol table defines; empty for a stripped file."""
    count, offset = elf["e_shnum"], elf["e_shoff"]
    if not count or not offset:
        return {}
    if elf["e_shentsize"] != _SHDR.size:
        raise BadFirmware(path, f"has section headers of {elf['e_shentsize']} bytes")
    _check_inside(data, path, "the section header table", offset, count * _SHDR.size)
    sections = list(_SHDR.iter_unpack(data[offset : offset + count * _SHDR.size]))
    for section in sections:
        _, kind, _, _, symtab_offset, symtab_bytes, link, *_ = section
        if kind != _SHT_SYMTAB:
            continue
        _check_inside(data, path, "the symbol table", symtab_offset, symtab_bytes)
        if link >= len(sections):
            raise BadFirmware(path, f"symbol table names section {link} of {len(sections)}")
        _, _, _, _, names_offset, names_bytes, *_ = sections[link]
        _check_inside(data, path, "the string table", names_offset, names_bytes)
        names = data[names_offset : names_offset + names_bytes]
        table = memoryview(data)[symtab_offset : symtab_offset + symtab_bytes]
        return _find(names, table[: symtab_bytes // _SYM.size * _SYM.size])
    return {}


def _find(names: bytes, table: memoryview) -> dict[str, int]:
    # Linkers store the end of one name as another name, so a name may begin inside a longer one.
    name_at = {
        place: name
        for name in VECTOR_SYMBOLS
        for place in itertools.islice(_places(names, name.encode() + b"\0"), NAME_PLACES_MAX)
    }
    if not name_at:
        return {}
    return {
        name_at[name]: value
        for name, value, _, _, _, section in _SYM.iter_unpack(table)
        if name in name_at and section != _SHN_UNDEF
    }


def _places(text: bytes, wanted: bytes) -> Iterator[int]:
    place = text.find(wanted)
    while place >= 0:
        yield place
        place = text.find(wanted, place + 1)
