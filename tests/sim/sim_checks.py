"""What must be true of a simulated cluster, seen from outside. Apart from all cores."""

from __future__ import annotations

from sim_domain import Driver, Records
from sim_world import World

from vcoproc.model.run_state import RunState
from vcoproc_sim.testing.fake_platform import FakeContext, FakePlatform


def check_safety(world: World) -> None:
    """At any time."""
    for domain in world.domains.values():
        assert domain.wrong_interrupts == 0, "an interrupt went to a wrong domain"
        for driver in domain.drivers.values():
            _domid, coproc = world.home[driver.vcoproc_id]
            platform = world.coprocs[coproc].platform
            if isinstance(platform, FakePlatform) and driver.vcoproc_id in platform.contexts:
                check_doorbells(driver, platform.contexts[driver.vcoproc_id])
    for driver, context in world.retired:
        check_doorbells(driver, context)


def check_doorbells(driver: Driver, context: FakeContext) -> None:
    """Each came at most once, in order; none from nowhere."""
    rung = [ring.value for ring in driver.records.rings]
    place = 0
    for value in context.rung:
        assert value in rung[place:], (
            f"doorbell {value:#x} came twice, out of order or from nowhere"
        )
        place = rung.index(value, place) + 1


def check_all_done(world: World) -> None:
    """After a time without faults: everything that was ever asked for has happened."""
    for domain in world.domains.values():
        for driver in domain.drivers.values():
            _check_driver_done(world, driver, driver.records)
    for name, node in world.coprocs.items():
        assert not node.executor.failure
        assert (
            sum(len(each.replay) + len(each.held) for each in node.executor.vcoprocs.values()) == 0
        )
        scheduler = world.schedulers[name].core
        for vcoproc_id in node.executor.vcoprocs:
            assert scheduler.run_state(vcoproc_id) in (RunState.SLEEPING, RunState.FAULTED)
    check_edges(world)
    for line in world.router.core.list_lines():
        assert not line.pending and not line.active, f"an interrupt was not served: {line}"


def _check_driver_done(world: World, driver: Driver, records: Records) -> None:
    who = f"driver {driver.vcoproc_id}"
    assert driver.work.jobs is not None
    assert records.completed >= driver.work.jobs, f"{who}: {records}, {driver.stage}"
    _domid, coproc = world.home[driver.vcoproc_id]
    platform = world.coprocs[coproc].platform
    assert isinstance(platform, FakePlatform)
    heard = list(platform.contexts[driver.vcoproc_id].rung)
    for ring in records.rings:
        if ring.known and not ring.void:
            assert ring.value in heard, f"{who}: doorbell {ring.value:#x} was lost"


def check_edges(world: World) -> None:
    """Each pulse of the hardware was told to the router, or merged with one that was waiting."""
    pulses = sum(
        node.platform.pulse_count
        for node in world.coprocs.values()
        if isinstance(node.platform, FakePlatform)
    )
    sides = [node.router_side for node in world.coprocs.values()]
    ended = sum(side.merged + side.gone - side.brought for side in sides)
    assert pulses == world.router.edges_taken + ended, "an edge was lost or doubled"


def jain(values: list[int]) -> float:
    """Jain's fairness index, 1.0 for equal shares: (sum x)^2 / (n * sum x^2)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))
