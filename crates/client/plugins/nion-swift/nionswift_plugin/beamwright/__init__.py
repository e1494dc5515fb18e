"""Beamwright as a scan device of Nion Swift.

Each frame is an acquisition: `pixel_time_us` is its dwell, the enabled channels are its detectors, the parameter
`fraction` says how many of the pixels are visited, and what is shown is the estimate of all of them. Control is held
while something scans, and given back, which blanks the beam, when it ends, is cancelled or fails.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import pathlib
import threading
import time
import typing

import beamwright as bw
import numpy
from beamwright import v1
from nion.instrumentation import scan_base
from nion.utils import Geometry, Registry

if typing.TYPE_CHECKING:
    from nion.instrumentation import stem_controller

DEVICE_ID = "beamwright"
POLL_S = 0.1
LEASE = 5 * bw.s
"""Time to live of control: its renewal shares the interpreter with a user interface."""


def plan_of(frame: scan_base.ScanFrameParameters, detectors: typing.Sequence[str], is_view: bool = False) -> bw.Plan:
    """The scan plan of a frame; no time goes into refining one of a view, as the next one comes. Swift's rotation turns +x towards +y (down) as Beamwright's does; `fov_nm` is that of the
    context along its longer side."""
    context, size = frame.pixel_size, frame.subscan_pixel_size or frame.pixel_size
    pitch_nm = frame.fov_nm / max(context.height, context.width)
    width_nm, centre = pitch_nm * context.width, frame.center_nm
    if frame.subscan_fractional_size:
        width_nm *= frame.subscan_fractional_size.width
    if frame.subscan_fractional_center:
        offset = frame.subscan_fractional_center - Geometry.FloatPoint(0.5, 0.5)
        turned = Geometry.FloatPoint(y=offset.y * pitch_nm * context.height, x=offset.x * pitch_nm * context.width).rotate(frame.rotation_rad)
        centre = centre + turned
    return bw.Plan(
        fraction=frame.get_parameter("fraction", 0.1),
        dwell=frame.pixel_time_us * bw.us,
        pixels=(size.height, size.width),
        field_of_view=width_nm * bw.nm,
        centre=(centre.x * bw.nm, centre.y * bw.nm),
        rotation=(frame.rotation_rad - (frame.subscan_rotation or 0.0)) * bw.rad,
        detectors=detectors,
        refinement=0 * bw.ms if is_view else None,
        title="Nion Swift",
    )


class Scan(scan_base.ScanDevice):
    """What Swift asks of a scan device, said to the service."""

    scan_device_id = DEVICE_ID
    scan_device_name = "Beamwright"
    scan_device_is_secondary = False

    def __init__(self, microscope: bw.Microscope, frame: scan_base.ScanFrameParameters) -> None:
        self.on_device_state_changed = None
        self._microscope = microscope
        self._capabilities = microscope.capabilities()
        self._names = [detector.name for detector in self._capabilities.detectors if detector.signal == v1.SIGNAL_KIND_SCALAR]
        self._enabled = [name in self._capabilities.default_detectors for name in self._names]
        self._frame = frame
        self._lock = threading.RLock()
        self._control: bw.Control | None = None
        self._running: Frame | None = None
        self._is_last = False
        self._frame_number = 0

    def close(self) -> None:
        self._end()
        self._microscope.close()

    @property
    def channel_count(self) -> int:
        return len(self._names)

    @property
    def channels_enabled(self) -> tuple[bool, ...]:
        return tuple(self._enabled)

    def get_channel_name(self, channel_index: int) -> str:
        return self._names[channel_index]

    def set_channel_enabled(self, channel_index: int, enabled: bool) -> bool:
        self._enabled[channel_index] = enabled
        if not any(self._enabled):
            self.cancel()
        return True

    @property
    def current_frame_parameters(self) -> scan_base.ScanFrameParameters:
        return self._frame

    def set_frame_parameters(self, frame_parameters: scan_base.ScanFrameParameters) -> None:
        self._frame = copy.copy(frame_parameters)

    def save_frame_parameters(self) -> None:
        """The service keeps none."""

    def calculate_flyback_pixels(self, frame_parameters: scan_base.ScanFrameParameters) -> int:
        return 0

    def calculate_max_field_of_view(self, frame_parameters: scan_base.ScanFrameParameters) -> float:
        return 2 * min(self._capabilities.reach_x_nm, self._capabilities.reach_y_nm)

    @property
    def is_scanning(self) -> bool:
        return self._control is not None

    def start_frame(self, is_continuous: bool) -> int:
        with self._lock:
            self._is_last = not is_continuous
            if self._control is None:
                self._control = self._microscope.control("Nion Swift", LEASE)
            if self._running is None:
                self._begin(self._control)
            return self._frame_number

    def _begin(self, control: bw.Control) -> None:
        try:
            indices = [i for i, enabled in enumerate(self._enabled) if enabled]
            plan = plan_of(self._frame, [self._names[i] for i in indices], not self._is_last)
            self._running = Frame(control.acquire(plan), indices, self._names, self._frame)
        except bw.Error:
            self._end()
            raise
        self._frame_number += 1

    def cancel(self) -> None:
        """Blanks now. The frame is complete as far as it is."""
        with self._lock:
            self._is_last = True
            if self._running:
                self._running.cancel()
            else:
                self._end()

    def stop(self) -> None:
        """Ends with the frame that runs."""
        with self._lock:
            self._is_last = True
            if self._running is None:
                self._end()

    def _end(self) -> None:
        with self._lock:
            control, self._control = self._control, None
            running, self._running = self._running, None
        if running:
            running.cancel()
        if control:
            # Where control is lost the beam is blanked already; what went wrong is told by whoever reads the frame.
            with contextlib.suppress(bw.Error):
                control.release()

    def read_partial(self, frame_number: int | None, pixels_to_skip: int) -> tuple[typing.Any, ...]:
        """All channels so far, whether that is all, and the whole frame as the area that is valid, as an estimate has no
        pixels to come."""
        with self._lock:
            if self._running is None:
                self.start_frame(not self._is_last)
            running = typing.cast(Frame, self._running)
        try:
            is_complete = running.read()
        except bw.Error:
            self._end()
            raise
        with self._lock:
            if is_complete:
                self._running = None
                if self._is_last:
                    self._end()
        return running.elements(), is_complete, False, ((0, 0), running.shape), self._frame_number, 0

    def get_buffer_data(self, start: int, count: int) -> list[list[dict[str, typing.Any]]]:
        return []

    def set_scan_context_probe_position(self, scan_context: stem_controller.ScanContext, probe_position: Geometry.FloatPoint | None) -> None:
        """The beam rests blanked; it cannot be parked on the specimen from here."""

    def set_idle_position_by_percentage(self, x: float, y: float) -> None:
        """See `set_scan_context_probe_position`."""

    def prepare_synchronized_scan(self, scan_frame_parameters: scan_base.ScanFrameParameters, *, camera_exposure_ms: float, **kwargs: typing.Any) -> None:
        raise NotImplementedError("Beamwright does not scan in step with a camera of Nion Swift")


class Frame:
    """One acquisition, and the newest picture of each of its channels."""

    def __init__(self, acquisition: bw.Acquisition, indices: list[int], names: list[str], parameters: scan_base.ScanFrameParameters) -> None:
        self._acquisition = acquisition
        size = parameters.subscan_pixel_size or parameters.pixel_size
        self.shape = (size.height, size.width)
        self._data = {i: numpy.zeros(self.shape, numpy.float32) for i in indices}
        self._names = names
        self._parameters = copy.copy(parameters)
        self._told = acquisition.told()
        self._is_cancelled = False

    def cancel(self) -> None:
        self._is_cancelled = True
        # It may have ended by itself in between; that it is blanked is the service's business then.
        with contextlib.suppress(bw.Error):
            self._acquisition.abort("cancelled in Nion Swift")

    def read(self) -> bool:
        """Fetches what is new. True: nothing more will come. Raises what ended it, unless it was complete or cancelled."""
        time.sleep(POLL_S)
        self._told = self._acquisition.told()
        state = bw.State(self._told.state)
        is_over = state.is_final or state is bw.State.TRIPPED
        if is_over and not self._is_cancelled:
            self._acquisition.wait()
        if self._told.loop.estimate_revision or state is bw.State.FINISHED:
            for i in self._data:
                self._data[i] = self._acquisition.image(self._names[i]).astype(numpy.float32)
        return is_over

    def elements(self) -> list[dict[str, typing.Any]]:
        """A data element per channel."""
        about = self._parameters.as_dict() | {
            "acquisition": self._acquisition.name,
            "dose_e_per_a2": self._told.dose.mean_dose_e_per_a2,
            "n_sampled": self._told.progress.n_sampled,
            "rotation_deg": math.degrees(self._parameters.rotation_rad),
            "flyback_pixels": 0,
        }
        return [{"data": data, "properties": about | {"channel_id": i}} for i, data in self._data.items()]


class Module:
    """What `nionswift-instrumentation` makes a hardware source of."""

    stem_controller_id = "autostem_controller"
    panel_type = None
    panel_delegate_type = None
    data_channel_delegate = None

    def __init__(self, microscope: bw.Microscope) -> None:
        field = microscope.capabilities().default_field
        fov_nm = field.pitch_nm * max(field.grid.n_rows, field.grid.n_cols)

        def mode(name: str, side: int, fraction: float) -> scan_base.ScanSettingsMode:
            frame = scan_base.ScanFrameParameters(pixel_size=(side, side), pixel_time_us=2.0, fov_nm=fov_nm, fraction=fraction)
            return scan_base.ScanSettingsMode(name, name.lower(), frame)

        modes = (mode("Tenth", 256, 0.1), mode("Quarter", 512, 0.25), mode("Whole", 512, 1.0))
        self.settings = scan_base.ScanSettings(DEVICE_ID, modes, lambda d: scan_base.ScanFrameParameters(d), 0, 2)
        self.device = Scan(microscope, modes[0].frame_parameters)


_module: Module | None = None


def run() -> None:
    """Called by Swift when it starts. `BEAMWRIGHT_SERVER` and `BEAMWRIGHT_TOKEN_FILE` say where the service is."""
    global _module
    address = os.environ.get("BEAMWRIGHT_SERVER", "127.0.0.1:7410")
    token_file = os.environ.get("BEAMWRIGHT_TOKEN_FILE")
    try:
        token = pathlib.Path(token_file).read_text().strip() if token_file else ""
        _module = Module(bw.connect(address, token=token))
    except (bw.Error, OSError) as error:
        logging.error("Beamwright is not a scan device of this session: %s", error)
        return
    Registry.register_component(_module, {"scan_module"})


def stop() -> None:
    """Called by Swift when it ends."""
    global _module
    if _module:
        Registry.unregister_component(_module, {"scan_module"})
        _module.device.close()
        _module = None
