"""The physical node of a shared coprocessor: address ranges, interrupt lines, memory, clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vcoproc import limits
from vcoproc.config.fields import Fields
from vcoproc.config.platform_params import known_params, read_platform_params
from vcoproc.config.problems import Problems, name_problem
from vcoproc.config.records import LineConfig, RangeConfig
from vcoproc.config.trees import DtsNode, DtsTree

PRIVATE_MEMORY: Final = "vcoproc,private-memory"
_ADDRESS_CELLS_DEFAULT: Final = 2
_SIZE_CELLS_DEFAULT: Final = 1
_GIC_CELLS: Final = 3
_GIC_SPI: Final = 0
_GIC_SPI_FIRST: Final = 32


@dataclass(frozen=True, slots=True)
class Hardware:
    compatible: str
    ranges: tuple[RangeConfig, ...]
    lines: tuple[LineConfig, ...]
    private_bytes: int
    clock_hz: int
    platform_params: tuple[tuple[str, int | str], ...]


def read_hardware(tree: DtsTree, node: DtsNode, problems: Problems) -> Hardware:
    """Reads a node that an entry under /chosen shares, and notes all that is wrong with it."""
    fields = Fields(node, problems)
    if fields.get("xen,coproc") is None:
        problems.add(node.place, node.path, "is not shareable: it lacks the property xen,coproc;")
    if (status := fields.text("status", "okay")) not in ("okay", "ok"):
        fields.wrong("status", f"the node is {status}, so it cannot be shared")
    compatible = fields.texts("compatible")
    if not compatible or not compatible[0]:
        fields.wrong("compatible", "must name the type of the coprocessor")
    platform = compatible[0] if compatible else ""
    fields.refuse_others({PRIVATE_MEMORY, *known_params(platform)}, prefix="vcoproc,")
    private_bytes = fields.number(
        PRIVATE_MEMORY,
        limits.PRIVATE_MEMORY_BYTES_DEFAULT,
        0,
        limits.PRIVATE_MEMORY_BYTES_MAX,
    )
    if private_bytes % limits.PAGE_BYTES:
        fields.wrong(PRIVATE_MEMORY, f"must be a multiple of {limits.PAGE_BYTES}")
    return Hardware(
        compatible=platform,
        ranges=_ranges(tree, fields),
        lines=_lines(tree, fields),
        private_bytes=private_bytes,
        clock_hz=fields.number(
            "clock-frequency", limits.CLOCK_HZ_DEFAULT, limits.CLOCK_HZ_MIN, limits.CLOCK_HZ_MAX
        ),
        platform_params=read_platform_params(fields, platform, {PRIVATE_MEMORY}),
    )


def _ranges(tree: DtsTree, fields: Fields) -> tuple[RangeConfig, ...]:
    bus = tree.parent(fields.node)
    if bus is None:
        fields.wrong("reg", "the root cannot be a coprocessor")
        return ()
    found = fields.get("reg")
    cells = found.cells if found else None
    if not cells:
        fields.wrong("reg", "must give at least one address range, as in <0xf0000000 0x1000>")
        return ()
    address_cells = _cells_of(tree, bus, "#address-cells", _ADDRESS_CELLS_DEFAULT)
    size_cells = _cells_of(tree, bus, "#size-cells", _SIZE_CELLS_DEFAULT)
    step = address_cells + size_cells
    if not (1 <= address_cells <= 2 and 1 <= size_cells <= 2):
        fields.wrong("reg", f"{bus.path} must have 1 or 2 #address-cells and #size-cells")
        return ()
    if len(cells) % step:
        why = f"{len(cells)} numbers, not a multiple of {step} ({bus.path} has {address_cells}"
        fields.wrong("reg", f"{why} #address-cells and {size_cells} #size-cells)")
        return ()
    pairs = [
        (_join(cells[i : i + address_cells]), _join(cells[i + address_cells : i + step]))
        for i in range(0, len(cells), step)
    ]
    names = _names(fields, "reg-names", len(pairs), limits.RANGES_PER_COPROC_MAX)
    ranges = []
    for name, (base, size_bytes) in zip(names, pairs, strict=False):
        _check_range(fields, name, base, size_bytes)
        base_pa = _translate(tree, fields, base, size_bytes)
        ranges.append(RangeConfig(name, base_pa, size_bytes))
    return tuple(ranges)


def _check_range(fields: Fields, name: str, base: int, size_bytes: int) -> None:
    if base % limits.PAGE_BYTES or size_bytes % limits.PAGE_BYTES:
        fields.wrong("reg", f"range {name} must begin and end at a multiple of 4096")
    if not 0 < size_bytes <= limits.RANGE_BYTES_MAX:
        fields.wrong("reg", f"range {name} must have 1 to {limits.RANGE_BYTES_MAX} bytes")


def _lines(tree: DtsTree, fields: Fields) -> tuple[LineConfig, ...]:
    found = fields.get("interrupts")
    if found is None:
        if fields.get("interrupts-extended") or fields.get("interrupt-names"):
            fields.wrong("interrupts", "is missing; interrupts-extended is not supported")
        return ()
    step = _interrupt_cells(tree, fields.node)
    if not found.cells or not 1 <= step <= _GIC_CELLS or len(found.cells) % step:
        fields.wrong("interrupts", f"must be numbers, {step} for each line (#interrupt-cells)")
        return ()
    specifiers = [found.cells[i : i + step] for i in range(0, len(found.cells), step)]
    names = _names(fields, "interrupt-names", len(specifiers), limits.LINES_PER_VCOPROC_MAX)
    lines: list[LineConfig] = []
    for name, specifier in zip(names, specifiers, strict=False):
        number = specifier[0]
        if step == _GIC_CELLS:  # type, number, flags: the binding arm,gic of the kernel
            number = specifier[1] + _GIC_SPI_FIRST
            if specifier[0] != _GIC_SPI:
                fields.wrong("interrupts", f"line {name} is not an SPI (first cell 0)")
        if number > limits.GUEST_IRQ_MAX:
            fields.wrong("interrupts", f"line {name}: {number} is above {limits.GUEST_IRQ_MAX}")
        if any(number == line.number for line in lines):
            fields.wrong("interrupts", f"line {name}: {number} is given twice")
        lines.append(LineConfig(name, number))
    return tuple(lines)


def _names(fields: Fields, what: str, count: int, count_max: int) -> tuple[str, ...]:
    """The names of `count` things, made up where they are wrong so that reading goes on."""
    if count > count_max:
        fields.wrong(what.replace("-names", "s"), f"{count} are too many, at most {count_max}")
        return ()
    names = fields.texts(what)
    if len(names) != count:
        fields.wrong(what, f"must have {count} names, one for each, and has {len(names)}")
        return tuple(str(place) for place in range(count))
    for place, name in enumerate(names):
        if why := name_problem(name):
            fields.wrong(what, f"name {place} {why}")
        elif name in names[:place]:
            fields.wrong(what, f"{name!r} is given twice")
    return names


def _cells_of(tree: DtsTree, bus: DtsNode, name: str, default: int) -> int:
    """`#address-cells` or `#size-cells` that holds for the children of a bus.

    Taken from the nearest node above that has it, as Linux (of_bus_n_addr_cells) and Xen
    (dt_n_addr_cells) do; the specification alone would give the default to a bus without it.
    """
    above: DtsNode | None = bus
    while above is not None:
        found = above.properties.get(name)
        if found is not None and found.cells is not None and len(found.cells) == 1:
            return found.cells[0]
        above = tree.parent(above)
    return default


def _interrupt_cells(tree: DtsTree, node: DtsNode) -> int:
    """Cells of one interrupt, said by the controller that interrupt-parent names; else 1."""
    above: DtsNode | None = node
    while above is not None:
        found = above.properties.get("interrupt-parent")
        if found is not None and found.cells is not None and len(found.cells) == 1:
            controller = tree.nodes.get(tree.phandles.get(found.cells[0], ""))
            cells = controller.properties.get("#interrupt-cells") if controller else None
            return cells.cells[0] if cells and cells.cells else 1
        above = tree.parent(above)
    return 1


def _translate(tree: DtsTree, fields: Fields, base: int, size_bytes: int) -> int:
    """The physical address of a range: through the `ranges` of every bus above it.

    A bus without `ranges`, or with an empty one, has the addresses of the bus above.
    """
    bus = tree.parent(fields.node)
    while bus is not None and (above := tree.parent(bus)) is not None:
        found = bus.properties.get("ranges")
        if found is not None and found.cells:
            child_cells = _cells_of(tree, bus, "#address-cells", _ADDRESS_CELLS_DEFAULT)
            parent_cells = _cells_of(tree, above, "#address-cells", _ADDRESS_CELLS_DEFAULT)
            size_cells = _cells_of(tree, bus, "#size-cells", _SIZE_CELLS_DEFAULT)
            step = child_cells + parent_cells + size_cells
            for i in range(0, len(found.cells) - step + 1, step):
                window = _join(found.cells[i : i + child_cells])
                target = _join(found.cells[i + child_cells : i + child_cells + parent_cells])
                length = _join(found.cells[i + child_cells + parent_cells : i + step])
                if window <= base and base + size_bytes <= window + length:
                    base = base - window + target
                    break
            else:
                fields.wrong("reg", f"{base:#x} is in none of the `ranges` of {bus.path}")
                return base
        bus = above
    return base


def _join(cells: tuple[int, ...]) -> int:
    value = 0
    for cell in cells:
        value = value << 32 | cell
    return value
