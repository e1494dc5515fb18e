"""Nion Swift without a window: its instrumentation finds the plug-in, and acquires from a real service."""

import math
import threading
import time

import beamwright as bw
import numpy as np
import pytest
from nion.instrumentation import HardwareSource, scan_base
from nion.swift.test import TestContext
from nionswift_plugin import beamwright as plugin
from nionswift_plugin import nion_instrumentation_ui

TIMEOUT_S = 300


@pytest.fixture
def swift(tmp_path):
    """Swift as its own tests start it: the application, its instrumentation, no user interface."""
    setup = TestContext.TestSetup()
    nion_instrumentation_ui.configuration_location = tmp_path
    nion_instrumentation_ui.run()
    yield setup
    plugin.stop()
    nion_instrumentation_ui.stop()


@pytest.fixture
def source(swift, daemon, monkeypatch):
    """The hardware source that Swift has made of the plug-in."""
    monkeypatch.setenv("BEAMWRIGHT_SERVER", daemon.address)
    plugin.run()
    found = HardwareSource.HardwareSourceManager().get_hardware_source_for_hardware_source_id("beamwright")
    assert found is not None
    frame(found, 32, 0.5)
    yield found
    found.abort_playing(sync_timeout=TIMEOUT_S)


def frame(source, size, fraction, dwell_us=2.0, **more):
    """Sets the frame that is viewed and recorded."""
    parameters = scan_base.ScanFrameParameters(pixel_size=(size, size), fov_nm=3.2, pixel_time_us=dwell_us, fraction=fraction, **more)
    source.set_current_frame_parameters(parameters)
    source.set_record_frame_parameters(parameters)
    return parameters


def record(source):
    """The data of one recorded frame, by channel."""
    finished, promises = threading.Event(), []

    def done(found):
        promises.extend(found)
        finished.set()

    source.start_recording(sync_timeout=TIMEOUT_S, finished_callback_fn=done)
    assert finished.wait(TIMEOUT_S)
    return [promise.xdata for promise in promises]


def test_a_recorded_frame_is_the_acquisition_of_the_service(source, microscope):
    (xdata,) = record(source)
    told = xdata.metadata["scan"]["scan_device_properties"]
    acquisition = microscope.acquisition(told["acquisition"])
    assert acquisition.state is bw.State.FINISHED
    assert np.array_equal(xdata.data, acquisition.image("haadf")) and xdata.data.std() > 0
    assert told["dose_e_per_a2"] == acquisition.told().dose.mean_dose_e_per_a2
    assert [c.units for c in xdata.dimensional_calibrations] == ["nm", "nm"]
    assert xdata.dimensional_calibrations[0].scale == pytest.approx(acquisition.told().field.pitch_nm)
    assert xdata.metadata["hardware_source"]["channel_name"] == "haadf"


def test_both_detectors_come_from_one_exposure(source, microscope):
    source.set_channel_enabled(1, True)
    before = len(list(microscope.acquisitions()))
    xdatas = record(source)
    assert [xdata.metadata["hardware_source"]["channel_name"] for xdata in xdatas] == ["haadf", "abf"]
    assert len(list(microscope.acquisitions())) == before + 1
    for xdata in xdatas:
        assert np.array_equal(xdata.data, microscope.acquisition().image(xdata.metadata["hardware_source"]["channel_name"]))


def test_viewing_goes_on_until_it_is_stopped_and_then_control_is_free(source, microscope):
    source.start_playing(sync_timeout=TIMEOUT_S)
    seen = {source.get_next_xdatas_to_finish(TIMEOUT_S)[0].metadata["scan"]["scan_device_properties"]["acquisition"] for _ in range(3)}
    source.stop_playing(sync_timeout=TIMEOUT_S)
    assert len(seen) > 1
    until(lambda: not microscope.status().lease.held)


def test_aborting_blanks_at_once(source, microscope):
    frame(source, 512, 1.0, dwell_us=1000.0)
    source.start_playing(sync_timeout=TIMEOUT_S)
    until(lambda: is_exposing(microscope))
    source.abort_playing(sync_timeout=TIMEOUT_S)
    acquisition = microscope.acquisition()
    assert acquisition.state is bw.State.ABORTED
    assert acquisition.told().progress.n_sampled < 512 * 512


def test_a_blank_from_elsewhere_ends_the_view_with_its_cause(source, microscope):
    frame(source, 512, 1.0, dwell_us=1000.0)
    failures = []
    source._test_acquire_exception = failures.append
    source.start_playing(sync_timeout=TIMEOUT_S)
    until(lambda: is_exposing(microscope))
    microscope.blank("a test")
    until(lambda: not source.is_playing)
    assert isinstance(failures[0], bw.Tripped)
    until(lambda: not microscope.status().lease.held)
    assert microscope.acquisition().state is bw.State.ABORTED


def is_exposing(microscope):
    """Whether what has the instrument now has its first sample."""
    name = microscope.status().acquisition
    return name and microscope.acquisition(name).told().progress.n_sampled


def until(holds):
    """Waits for what must come; a test that hangs fails."""
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_frame_of_swift_says_the_same_as_the_plan(source, microscope):
    half = frame(source, 64, 0.25, rotation_rad=0.5, center_nm=(0.2, -0.4))
    plan = plugin.plan_of(half, ["haadf"])
    assert (plan.fraction, plan.pixels, plan.field_of_view, plan.rotation) == (0.25, (64, 64), 3.2 * bw.nm, 0.5 * bw.rad)
    assert plan.centre == (-0.4 * bw.nm, 0.2 * bw.nm)
    half.subscan_pixel_size, half.subscan_fractional_size = (16, 32), (0.25, 0.5)
    half.subscan_fractional_center = (0.5, 0.75)
    plan = plugin.plan_of(half, ["haadf"])
    assert (plan.pixels, plan.field_of_view) == ((16, 32), 1.6 * bw.nm)
    assert plan.centre[0].value == pytest.approx(-0.4 + 0.8 * math.cos(0.5))
    assert plan.centre[1].value == pytest.approx(0.2 + 0.8 * math.sin(0.5))
    assert microscope.predict(plan).n_positions == 16 * 32 // 4


def test_without_a_service_swift_starts_and_says_why(swift, monkeypatch, caplog):
    monkeypatch.setenv("BEAMWRIGHT_SERVER", "127.0.0.1:1")
    plugin.run()
    assert "no service answers at 127.0.0.1:1" in caplog.text
    assert HardwareSource.HardwareSourceManager().get_hardware_source_for_hardware_source_id("beamwright") is None
