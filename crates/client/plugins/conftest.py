"""A real service on the simulated microscope for the plug-ins; `BEAMWRIGHT` names the binary."""

import contextlib

import beamwright as bw
import pytest
from beamwright.testing import daemon, microscope  # noqa: F401 (fixtures)


@pytest.fixture(autouse=True)
def tidy(microscope):
    """Ends what an earlier test has left: the trip is cleared, the acquisition aborted."""
    status = microscope.status()
    if not status.lease.held and (status.acquisition or status.HasField("trip")):
        with microscope.control("the tests") as control:
            control.clear_trip()
            if status.acquisition:
                acquisition = control.adopt(microscope.acquisition(status.acquisition))
                with contextlib.suppress(bw.WrongState):  # it ends by itself
                    acquisition.abort()
                for _ in acquisition.watch():
                    pass
