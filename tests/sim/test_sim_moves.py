"""All cores together, with vcoprocs that are paused and moved; with faults from a seed."""

from __future__ import annotations

import pytest
from sim_checks import check_all_done, check_safety
from sim_domain import Work
from sim_moves import MovingWorld
from test_sim import ALL_THENS, BAD, SEEDS, all_done, played, set_refusals, trouble

from vcoproc.limits import MS, US
from vcoproc.testing.network import PERFECT, Faults
from vcoproc_sim.testing.fake_platform import FakePlatform, Then

COPROCS = ("dsp0", "dsp1", "dsp2")


def make_world(seed: int, faults: Faults) -> MovingWorld:
    world = MovingWorld(seed, faults)
    for name in COPROCS:
        world.add_coproc(name)
    for domid in (1, 2, 3):
        world.add_domain(domid)
    for domid, coproc, work in (
        (1, "dsp0", Work(jobs=15, thens=ALL_THENS)),
        (1, "dsp1", Work(jobs=12, length=(1, 50), think_ns=(1 * US, 20 * US))),
        (2, "dsp0", Work(jobs=12, length=(500, 8000), ahead=3)),
        (2, "dsp2", Work(jobs=20, length=(0, 5), think_ns=(1 * US, 5 * US))),
        (3, "dsp1", Work(jobs=10, thens=ALL_THENS, ahead=2)),
        (3, "dsp0", Work(jobs=10, thens=(Then.EVENT, Then.YIELD, Then.TIMER))),
    ):
        world.add_vcoproc(domid, coproc, work)
    return world


def change_something(world: MovingWorld) -> None:
    """What an operator does, at a bad moment."""
    random = world.random
    present = [each for each in world.home if each in world.trap_links]
    if not present:
        return
    vcoproc_id = random.choice(present)
    match random.randrange(6):
        case 0:
            world.pause_for(vcoproc_id, world.between((50 * US, 4 * MS)))
        case 1:
            world.pause_domain_for(random.choice((1, 2, 3)), world.between((50 * US, 4 * MS)))
        case 2:
            world.move(vcoproc_id, random.choice(COPROCS), give_up=True)
        case _:
            world.move(vcoproc_id, random.choice(COPROCS))


def until_quiet(world: MovingWorld) -> None:
    """Everything that was begun is brought to its end."""
    for _ in range(200):
        world.run(5 * MS)
        if not world.busy and all_done(world):
            break
    assert not world.busy, "the toolstack never finished"
    world.run(50 * MS)
    world.check_places()
    check_safety(world)
    check_all_done(world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_is_done_twice(seed: int) -> None:
    world = make_world(seed, BAD)

    def play() -> None:
        set_refusals(world, 30)
        for _ in range(60):
            world.run(1 * MS)
            change_something(world)
            if world.random.randrange(6) == 0 and not world.busy:
                trouble(world)
            world.check_places()
            check_safety(world)
        world.network.faults = PERFECT
        set_refusals(world, 0)
        for link in list(world.network.links):
            link.connect()
        until_quiet(world)
        # Where a connection broke some may have merged.
        assert all(raised <= pulsed for raised, pulsed in edges_of(world)), "an edge came twice"
        assert world.ended.get("moved", 0) >= 3, world.ended

    played(world, play)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[:10])
@pytest.mark.parametrize("slowest_ns", [40 * US, 5 * MS])
def test_without_faults_no_driver_notices_a_move(seed: int, slowest_ns: int) -> None:
    """Nobody starts anew, each job is rung once, and its interrupt comes once."""
    world = make_world(seed, Faults(delay_ns=(5 * US, slowest_ns), through_codec=True))

    def play() -> None:
        for domain in world.domains.values():
            for driver in domain.drivers.values():
                driver.work.thens = (Then.NOTHING, Then.EVENT, Then.YIELD, Then.TIMER)
                driver.work.jobs = 40
        world.run(2 * MS)
        for _ in range(60):
            world.run(1 * MS)
            change_something(world)
            world.check_places()
        until_quiet(world)
        moves = 0
        for domain in world.domains.values():
            for driver in domain.drivers.values():
                records = driver.records
                assert (records.restarts, records.faults, records.errors) == (1, 0, [])
                assert len(records.rings) == records.completed >= 40
                moves += driver.moves  # type: ignore[attr-defined]
                self_consistent(world, driver.vcoproc_id)
        assert moves >= 5
        assert world.router.core.guest_error_count == 0
        # No edge was refused since it came late, from where its vcoproc had been.
        assert all(raised == pulsed for raised, pulsed in edges_of(world))

    played(world, play)


def edges_of(world: MovingWorld) -> list[tuple[int, int]]:
    """For each edge line: how many the router has taken, and how many there were."""
    found = []
    for line in world.router.core.list_lines():
        if not line.level and line.vcoproc_id in world.home:
            platform = world.coprocs[world.home[line.vcoproc_id][1]].platform
            assert isinstance(platform, FakePlatform)
            found.append((line.raised_count, platform.contexts[line.vcoproc_id].pulses))
    return found


def self_consistent(world: MovingWorld, vcoproc_id: int) -> None:
    """What the scheduler's books say of it is what it did, wherever it was."""
    _domid, coproc = world.home[vcoproc_id]
    view = world.schedulers[coproc].core.view(world.now_ns)
    account = next(each.account for each in view.vcoprocs if each.vcoproc == vcoproc_id)
    platform = world.coprocs[coproc].platform
    assert isinstance(platform, FakePlatform)
    context = platform.contexts[vcoproc_id]
    turn = world.coprocs[coproc].executor.turn
    unreported = turn.instructions if turn is not None and turn.vcoproc.id == vcoproc_id else 0
    assert account.instructions + unreported == context.instructions
    assert account.run_ns >= context.instructions * 10
    vcoproc = world.coprocs[coproc].executor.vcoprocs[vcoproc_id]
    assert vcoproc.instruction_count == context.instructions


def test_the_same_seed_gives_the_same_moves() -> None:
    hashes = []
    for _ in range(2):
        world = make_world(SEEDS[0], BAD)
        for _ in range(20):
            world.run(1 * MS)
            change_something(world)
        hashes.append((world.events, world.trace_hash(), world.ended))
    assert hashes[0] == hashes[1]
