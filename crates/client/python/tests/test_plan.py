"""Plans and quantities, without a service."""

import beamwright as bw
import numpy as np
import pytest
from beamwright import v1


def test_units_are_converted_once():
    plan = bw.Plan(
        dwell=20 * bw.us,
        field_of_view=2 * bw.um,
        rotation=90 * bw.deg,
        limits=bw.Limits(area=(500 * bw.e_per_A2, 2 * bw.angstrom), total=1e6 * bw.electrons),
        stop=[bw.until_resolution(90 * bw.pm), bw.until_time(1.5 * bw.s)],
    ).message()
    assert plan.exposure.dwell_ns == 20_000
    assert plan.field.fov_nm == 2000
    assert plan.field.rotation_rad == pytest.approx(np.pi / 2)
    assert (plan.limits.area.dose_e_per_a2, plan.limits.area.radius_nm) == (500, pytest.approx(0.2))
    assert plan.stop_rules[0].resolution_nm == pytest.approx(0.09)
    assert plan.stop_rules[1].time_ns == 1_500_000_000


def test_a_bare_number_is_refused_by_the_name_of_the_field():
    with pytest.raises(TypeError, match=r"dwell is 20; it takes a time with its unit, such as 20 \* bw.us"):
        bw.Plan(dwell=20).message()


def test_another_dimension_is_refused():
    with pytest.raises(TypeError, match="limits.mean_dose is 5 nm"):
        bw.Plan(limits=bw.Limits(mean_dose=5 * bw.nm)).message()
    with pytest.raises(TypeError, match="cannot be added"):
        _ = 1 * bw.nm + 1 * bw.us


def test_two_statements_of_the_exposure_are_refused():
    with pytest.raises(ValueError, match="dwell and dose"):
        bw.Plan(dwell=1 * bw.us, dose=3 * bw.e_per_A2).message()


def test_quantities_compare_and_convert():
    assert 1 * bw.ms > 999 * bw.us
    assert (1 * bw.ms).to(bw.us) == 1000
    assert (3 * bw.angstrom + 0.7 * bw.nm).to(bw.nm) == pytest.approx(1.0)


def test_every_pattern_order_and_estimator_exists_in_the_api():
    for pattern in bw.Pattern:
        v1.PatternKind.Value(f"PATTERN_KIND_{pattern.name}")
    for order in bw.Order:
        v1.OrderKind.Value(f"ORDER_KIND_{order.name}")
    for estimator in bw.Estimator:
        v1.EstimatorKind.Value(f"ESTIMATOR_KIND_{estimator.name}")
    assert len(bw.Pattern) == len(v1.PatternKind.keys()) - 1
    assert len(bw.State) == len(v1.AcquisitionState.keys()) - 1


def test_a_region_of_an_earlier_picture_replaces_the_field():
    plan = bw.Plan(pixels=256, region=bw.Pixels(10, 20, 30, 40, of="acquisitions/x")).message()
    assert plan.region.parent.acquisition == "acquisitions/x"
    assert plan.region.parent.grid.n_rows == 256
    assert not plan.HasField("field")
