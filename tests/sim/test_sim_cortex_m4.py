"""The simulation with the real engine and real firmware: fewer steps, the same rules."""

from __future__ import annotations

from functools import partial

import pytest
from sim_checks import jain
from sim_cortex_m4 import COUNT_WORD, FirmwareMaker, driver_of, make_m4
from sim_domain import Work
from sim_world import World
from test_sim import BAD, SEEDS, all_done, played

from vcoproc.limits import MS, US
from vcoproc.testing.network import PERFECT, Faults
from vcoproc_sim.platforms.cortex_m4_info import make_info

HELLO, SPIN = FirmwareMaker("hello"), FirmwareMaker("spin")


def shadow() -> list[int]:
    return make_info(64 * 1024).reset_values()


def add(world: World, domid: int, firmware: FirmwareMaker, jobs: int) -> None:
    world.add_vcoproc(
        domid,
        "m4",
        Work(jobs=jobs, think_ns=(1 * US, 100 * US)),
        spec=firmware.spec(shadow),
        make_driver=driver_of(firmware),
    )


def make_world(seed: int, faults: Faults) -> World:
    world = World(seed, faults)
    world.add_coproc("m4", slice_ns=1 * MS, make_platform=make_m4)
    for domid in (1, 2, 3):
        world.add_domain(domid)
    add(world, 1, HELLO, jobs=12)
    add(world, 2, HELLO, jobs=12)
    add(world, 2, HELLO, jobs=8)
    add(world, 3, SPIN, jobs=0)
    return world


def close(world: World) -> None:
    for node in world.coprocs.values():
        node.platform.close()


def turns_of(world: World, vcoproc_id: int) -> int:
    """The count that a firmware keeps in its mailbox."""
    mailbox = world.coprocs["m4"].executor.vcoprocs[vcoproc_id].spec.mapped[0]
    return int.from_bytes(mailbox[4 * COUNT_WORD : 4 * COUNT_WORD + 4], "little")


def run(world: World) -> None:
    for _ in range(8):
        world.run(2 * MS)
        if world.random.randrange(2):
            trouble_m4(world)
    world.network.faults = PERFECT
    for link in world.network.links:
        link.connect()
    for _ in range(40):
        world.run(5 * MS)
        if all_done(world):
            break
    assert all_done(world)
    assert all(domain.wrong_interrupts == 0 for domain in world.domains.values())
    assert not world.coprocs["m4"].executor.failure
    # The hog ran on all the while.
    before = turns_of(world, 4)
    world.run(5 * MS)
    assert turns_of(world, 4) > before
    for line in world.router.core.list_lines():
        assert not line.pending and not line.active


def trouble_m4(world: World) -> None:
    random = world.random
    match random.randrange(4):
        case 0:
            world.crash_domain(random.choice((1, 2)))
        case 1:
            random.choice(world.network.links).cut()
        case 2:
            world.restart_scheduler("m4")
        case _:
            for domain in world.domains.values():
                for driver in domain.drivers.values():
                    driver.look_at_cycles()


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_real_firmware_loses_nothing(seed: int) -> None:
    world = make_world(seed, BAD)
    try:
        played(world, lambda: run(world))
    finally:
        close(world)


def test_the_same_seed_gives_the_same_run_of_real_firmware() -> None:
    hashes = []
    for _ in range(2):
        world = make_world(SEEDS[0], BAD)
        try:
            played(world, partial(run, world))
            mailbox = world.coprocs["m4"].executor.vcoprocs[4].spec.mapped[0]
            hashes.append((world.trace_hash(), bytes(mailbox)))
        finally:
            close(world)
    assert hashes[0] == hashes[1]


def test_two_spinning_firmwares_get_equal_shares() -> None:
    world = World(1, Faults(delay_ns=(20 * US, 60 * US)))
    world.add_coproc("m4", slice_ns=1 * MS, make_platform=make_m4)
    for domid in (1, 2, 3):
        world.add_domain(domid)
        add(world, domid, SPIN, jobs=0)

    def play() -> None:
        world.run(5 * MS)
        before = [turns_of(world, vcoproc_id) for vcoproc_id in (1, 2, 3)]
        world.run(60 * MS)
        ran = [turns_of(world, each) - before[each - 1] for each in (1, 2, 3)]
        assert jain(ran) >= 0.999

    try:
        played(world, play)
    finally:
        close(world)
