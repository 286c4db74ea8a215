"""An algorithm and the parameters of vcoprocs set at once, as edf and a table of times need it."""

from __future__ import annotations

import pytest

from vcoproc.errors import InvalidArgument, NotAdmitted, NotFound
from vcoproc_scheduler.events import LostParameter, SetAlgorithm
from vcoproc_scheduler.policies.loader import load_catalogue
from vcoproc_scheduler.service import SchedulerService

MS = 1_000_000


def set_algorithm(name: str, **vcoprocs: dict[str, int]) -> SetAlgorithm:
    """vcoprocs: v1 is number 1."""
    given = {int(key[1:]): parameters for key, parameters in vcoprocs.items()}
    return SetAlgorithm(name, 5 * MS, 0, {}, vcoprocs=given)


@pytest.fixture
def service() -> SchedulerService:
    """dsp0 with rr and three vcoprocs, of which the first has a slice of its own."""
    service = SchedulerService(load_catalogue(), lambda _coproc, _message: None, validate=True)
    service.set_coproc("dsp0", set_algorithm("rr"), 1)
    for number in (1, 2, 3):
        service.add_vcoproc("dsp0", number, {"slice_us": 700} if number == 1 else {}, 1)
    return service


def budgets(service: SchedulerService) -> dict[int, int]:
    view = service.schedule("dsp0", 9)
    return {number: values["budget_us"] for number, values in view.parameters.items()}


def test_defaults_that_are_too_much_are_replaced_in_one_step(service: SchedulerService) -> None:
    with pytest.raises(NotAdmitted, match="cannot be guaranteed"):
        service.set_coproc("dsp0", set_algorithm("edf"), 2)
    assert service.schedule("dsp0", 3).coproc.algorithm == "rr"
    wanted = set_algorithm("edf", v1={"budget_us": 1000}, v3={"budget_us": 2000})
    assert service.set_coproc("dsp0", wanted, 4) == (LostParameter(1, "slice_us", 700),)
    assert budgets(service) == {1: 1000, 2: 4000, 3: 2000}


def test_the_same_again_does_nothing_and_less_takes_back(service: SchedulerService) -> None:
    wanted = set_algorithm("edf", v1={"budget_us": 1000}, v3={"budget_us": 2000})
    service.set_coproc("dsp0", wanted, 2)
    before = service._cores["dsp0"]._policy.policy
    service.set_coproc("dsp0", wanted, 3)
    assert service._cores["dsp0"]._policy.policy is before
    # All parameters that are set: what is not named has its default again.
    wanted = set_algorithm("edf", v2={"budget_us": 500}, v3={})
    assert service.set_coproc("dsp0", wanted, 4) == (LostParameter(3, "budget_us", 2000),)
    assert budgets(service) == {1: 1000, 2: 500, 3: 4000}


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        (set_algorithm("edf", v1={"budget_us": 1}), InvalidArgument),
        (set_algorithm("edf", v1={"weight": 1}), InvalidArgument),
        (set_algorithm("edf", v1={"budget_us": 9000}), NotAdmitted),
        (set_algorithm("edf", v1={"budget_us": 100}, v9={"budget_us": 100}), NotFound),
    ],
)
def test_what_is_refused_changes_nothing(
    service: SchedulerService, wanted: SetAlgorithm, kind: type[Exception]
) -> None:
    before = service.schedule("dsp0", 2)
    with pytest.raises(kind):
        service.set_coproc("dsp0", wanted, 3)
    after = service.schedule("dsp0", 4)
    assert (after.wanted, after.parameters) == (before.wanted, before.parameters)
