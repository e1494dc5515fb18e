"""A real service on the simulated microscope for the plug-ins; `BEAMWRIGHT` names the binary."""

import beamwright as bw
import pytest
from beamwright.testing import Daemon


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    running = Daemon(tmp_path_factory.mktemp("daemon"))
    yield running
    assert running.stop() == 0, "the service ends in order"


@pytest.fixture
def microscope(daemon):
    with bw.connect(daemon.address) as connected:
        yield connected
