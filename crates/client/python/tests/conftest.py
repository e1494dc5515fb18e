"""A real daemon on the simulated microscope for every test; `BEAMWRIGHT` names the binary."""

import beamwright as bw
import pytest
from beamwright.testing import Daemon, daemon, microscope  # noqa: F401 (fixtures)


@pytest.fixture
def own_daemon(tmp_path):
    """A daemon that a test may kill."""
    running = Daemon(tmp_path)
    yield running
    running.kill()


@pytest.fixture
def control(microscope):
    with microscope.control("the tests") as held:
        held.clear_trip()
        yield held


@pytest.fixture
def small():
    """2,048 positions of 5 µs."""
    return bw.Plan(fraction=0.5, dwell=5 * bw.us, pixels=64, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)


@pytest.fixture
def long():
    """Some minutes of beam."""
    return bw.Plan(fraction=1.0, dwell=1 * bw.ms, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)
