"""External policies against a real daemon."""

import dataclasses

import beamwright as bw
import numpy as np
import pytest

PLAN = bw.Plan(
    fraction=0.5, dwell=100 * bw.us, pixels=64, batch=256, wait_when_late=True, estimator=bw.Estimator.KRIGING, refinement=0 * bw.ms
)


def test_a_policy_says_where_the_beam_goes(control):
    asked = []

    @bw.policy(planes=[])
    def left_half(offer):
        places = bw.Positions(offer.rng.integers(0, 64, offer.n), offer.rng.integers(0, 32, offer.n))
        asked.append(places)
        return places

    report = left_half.run(control, PLAN)
    assert report.outcomes["ACCEPTED"] >= 1, report
    samples = report.acquisition.samples()
    assert len(samples) == 2048
    visited = set(zip(samples["row"], samples["col"]))
    accepted = report.outcomes["ACCEPTED"]
    fitting = sum(set(zip(np.float32(p.row), np.float32(p.col))) <= visited for p in asked)
    assert fitting >= accepted, "every accepted answer was exposed, whole"
    assert len(report.round_trip_us) == sum(report.outcomes.values())
    assert "offers" in str(report) and "p99" in str(report)


def test_ten_lines_see_the_estimate(control):
    seen = []

    @bw.policy(planes=["estimate", "uncertainty"])
    def least_certain(offer):
        seen.append(offer.uncertainty)
        if offer.uncertainty is None:
            return offer.random()
        return offer.choose(offer.uncertainty**2)

    report = least_certain.run(control, dataclasses.replace(PLAN, dwell=1 * bw.ms))
    assert report.outcomes["ACCEPTED"] >= 1, report
    assert any(plane is not None and plane.shape == (64, 64) for plane in seen)


def test_a_place_outside_the_grid_is_refused_by_field(control):
    @bw.policy(planes=[])
    def outside(offer):
        return np.array([[70.0, 3.0]])

    with pytest.raises(bw.InvalidField) as refused:
        outside.run(control, PLAN)
    assert refused.value.field == "positions.row_px[0]"
    assert control.microscope.acquisition().state == bw.State.ABORTED


def test_a_policy_that_fails_aborts_its_acquisition(control):
    @bw.policy
    def broken(offer):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken.run(control, PLAN)
    assert control.microscope.acquisition().state == bw.State.ABORTED
