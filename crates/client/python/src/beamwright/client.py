"""The synchronous client: a microscope, the control of it, its acquisitions."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from beamwright import arrays, errors, v1
from beamwright.arrays import Array, Chunk, Frame, Gap, Samples
from beamwright.connection import BLANK_PATIENCE_S, BLANK_PAUSE_S, CALL_TIMEOUT_S, DEFAULT_TARGET, RESUME_PAUSE_S
from beamwright.connection import Target, Tls, check_version, holder_of
from beamwright.plan import Limits, Plan, Positions
from beamwright.states import State, ended_well, require, view_plan
from beamwright.units import Quantity, e_per_A2_s, in_base, ms, us


def connect(address: str = DEFAULT_TARGET, *, tls: Tls | None = None, token: str = "", timeout_s: float = 5.0) -> Microscope:
    """Connects to `HOST:PORT` or `unix:PATH` and checks that client and service fit.

    Raises [`Unreachable`][beamwright.Unreachable] or [`VersionMismatch`][beamwright.VersionMismatch], in one sentence each.
    """
    return Microscope(Target(address, tls, token), timeout_s)


@contextlib.contextmanager
def control(address: str = DEFAULT_TARGET, holder: str | None = None, *, tls: Tls | None = None, token: str = "") -> Iterator[Control]:
    """Connects, takes control, and at the end gives it back (which blanks the beam) and disconnects."""
    with connect(address, tls=tls, token=token) as microscope, microscope.control(holder) as held:
        yield held


class Microscope:
    """A connection to a service. Safe to share between threads."""

    def __init__(self, target: Target, timeout_s: float = 5.0) -> None:
        self.target = target
        if target.tls:
            self._channel = grpc.secure_channel(target.plain, target.tls.credentials(), target.options)
        else:
            self._channel = grpc.insecure_channel(target.plain, target.options)
        self.instrument = v1.InstrumentServiceStub(self._channel)
        self.leases = v1.ControlServiceStub(self._channel)
        self.calls = v1.AcquisitionServiceStub(self._channel)
        self.sample_calls = v1.SampleServiceStub(self._channel)
        self.preview_calls = v1.PreviewServiceStub(self._channel)
        self.steering = v1.SteeringServiceStub(self._channel)
        try:
            self.info: v1.GetServerInfoResponse = self._first_word(timeout_s)
            check_version(self.info, target.address)
        except BaseException:
            self.close()
            raise

    def _first_word(self, timeout_s: float) -> v1.GetServerInfoResponse:
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout_s)
            return self.call(self.instrument.GetServerInfo, v1.GetServerInfoRequest(), timeout_s)
        except (grpc.FutureTimeoutError, errors.Unreachable):
            address = self.target.address
            raise errors.Unreachable(f"no service answers at {address}: is `beamwright serve` running there?") from None
        except errors.Error as error:
            if not error.reason:
                raise errors.VersionMismatch(f"what answers at {self.target.address} is not Beamwright: {error}") from None
            raise

    def close(self) -> None:
        """Disconnects. Control that is still held runs out, and the beam is blanked."""
        self._channel.close()

    def __enter__(self) -> Microscope:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: Any, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """One call of the API; a refusal becomes a typed error."""
        try:
            return method(request, timeout=timeout_s, metadata=self.target.metadata)
        except grpc.RpcError as error:
            raise errors.of_rpc(error, self.target.address) from None

    def stream(self, method: Any, request: Any) -> Iterator[Any]:
        """The answers of a streaming call; a refusal becomes a typed error."""
        answers = method(request, metadata=self.target.metadata)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise errors.of_rpc(error, self.target.address) from None
        finally:
            answers.cancel()

    def blank(self, reason: str = "") -> v1.BlankResponse:
        """Blanks the beam now, from any state, without control. Returns when the controller has acknowledged."""
        return self.call(self.instrument.Blank, v1.BlankRequest(reason=reason))

    def status(self) -> v1.InstrumentStatus:
        """What the instrument is doing."""
        return self.call(self.instrument.GetStatus, v1.GetStatusRequest()).status

    def watch_status(self, max_rate_hz: float = 0.0) -> Iterator[v1.InstrumentStatus]:
        """The same as it changes, newest wins; never ends by itself."""
        for answer in self.stream(self.instrument.WatchStatus, v1.WatchStatusRequest(max_rate_hz=max_rate_hz)):
            yield answer.status

    def capabilities(self) -> v1.Capabilities:
        """What controller, coils and detectors can do, and what they cannot promise."""
        return self.call(self.instrument.GetCapabilities, v1.GetCapabilitiesRequest()).capabilities

    def column(self) -> v1.Column:
        """State of the column, read or stated."""
        return self.call(self.instrument.GetColumn, v1.GetColumnRequest()).column

    def predict(self, plan: Plan) -> v1.Prediction:
        """Checks a plan and says what it would cost; moves nothing and needs no control."""
        request = v1.CreateAcquisitionRequest(plan=plan.message(), validate_only=True)
        return self.call(self.calls.CreateAcquisition, request).acquisition.prediction

    def control(self, holder: str | None = None, ttl: Quantity = 2000 * ms, *, take_over: str = "", force: bool = False) -> Control:
        """Takes control; for `with`. `take_over` is the reason to ask a present holder, who has 10 s to decline; `force`
        does not ask (role admin)."""
        return Control(self, holder_of(holder), ttl, take_over, force)

    def acquisition(self, name: str = "acquisitions/-") -> Acquisition:
        """An acquisition by name; `acquisitions/-` is the one that has the instrument, else the newest."""
        told = self.call(self.calls.GetAcquisition, v1.GetAcquisitionRequest(name=name)).acquisition
        return Acquisition(self, told.name)

    def acquisitions(self) -> Iterator[v1.Acquisition]:
        """All acquisitions, newest first."""
        token = ""
        while True:
            request = v1.ListAcquisitionsRequest(page_token=token)
            answer = self.call(self.calls.ListAcquisitions, request)
            yield from answer.acquisitions
            token = answer.next_page_token
            if not token:
                return


class Control:
    """The right to move the beam, kept alive by a thread, given back at the end of `with`."""

    def __init__(self, microscope: Microscope, holder: str, ttl: Quantity, take_over: str, force: bool) -> None:
        self.microscope = microscope
        self.holder = holder
        ttl_ms = round(in_base("ttl", ttl, "time") / 1e6)
        if take_over:
            ask = v1.TakeOverLeaseRequest(ttl_ms=ttl_ms, holder=holder, reason=take_over, force=force)
            grant = microscope.call(microscope.leases.TakeOverLease, ask)
        else:
            grant = self._granted(v1.AcquireLeaseRequest(ttl_ms=ttl_ms, holder=holder))
        self.token: v1.LeaseToken = grant.lease
        self._ttl_s = grant.ttl_ms * 1e-3
        self._lost: errors.Error | None = None
        self._released = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._keep, name="beamwright-heartbeat", daemon=True)
        self._thread.start()

    def _granted(self, request: v1.AcquireLeaseRequest) -> v1.AcquireLeaseResponse:
        patience = time.monotonic() + BLANK_PATIENCE_S
        while True:
            try:
                return self.microscope.call(self.microscope.leases.AcquireLease, request)
            except (errors.BlankUnconfirmed, errors.Overloaded):
                if time.monotonic() > patience:
                    raise
            time.sleep(BLANK_PAUSE_S)

    @property
    def lost(self) -> errors.Error | None:
        """Why control was lost; `None` while it is held."""
        return self._lost

    @property
    def epoch(self) -> int:
        """Fencing token: grows with every grant."""
        return self.token.lease_epoch

    def _renew(self) -> None:
        request = v1.RenewLeaseRequest(lease=self.token)
        self.microscope.call(self.microscope.leases.RenewLease, request, self._ttl_s / 2)

    def _keep(self) -> None:
        seen = time.monotonic()
        while not self._released.wait(self._ttl_s / 4):
            try:
                self._renew()
                seen = time.monotonic()
            except errors.Unreachable as error:
                if time.monotonic() - seen > self._ttl_s:
                    self._lost = errors.LeaseLost(f"control ran out: {error}")
                    return
            except errors.Error as error:
                self._lost = error
                return
            except ValueError:  # the channel has been closed
                return

    def check(self) -> None:
        """Raises [`LeaseLost`][beamwright.LeaseLost] when control is no longer held."""
        if self._lost is not None:
            raise self._lost

    def call(self, method: Any, request: Any) -> Any:
        """One call of the API under this control."""
        self.check()
        request.lease.CopyFrom(self.token)
        return self.microscope.call(method, request)

    def release(self) -> None:
        """Gives control back: the beam is blanked, what is not detached is tripped. Says so when it was lost before."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        self.check()
        self.microscope.call(self.microscope.leases.ReleaseLease, v1.ReleaseLeaseRequest(lease=self.token))

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.release()
        except errors.Error:
            # What went wrong first is what the caller has to know.
            if kind is None:
                raise

    def create(self, plan: Plan, request_id: str = "") -> Acquisition:
        """Checks a plan, predicts its cost, makes an acquisition; nothing moves."""
        request = v1.CreateAcquisitionRequest(plan=plan.message(), request_id=request_id)
        made = self.call(self.microscope.calls.CreateAcquisition, request).acquisition
        return Acquisition(self.microscope, made.name, self)

    def acquire(self, plan: Plan, request_id: str = "") -> Acquisition:
        """Makes an acquisition and starts it."""
        acquisition = self.create(plan, request_id)
        acquisition.start()
        return acquisition

    def view(self, plan: Plan | None = None, *, fraction: float = 0.1, dwell: Quantity = 1 * us, dose_rate: Quantity = 100 * e_per_A2_s) -> Acquisition:
        """Endless fast frames for finding and focusing; `abort()` ends them."""
        return self.acquire(view_plan(plan or Plan(fraction=fraction, dwell=dwell, limits=Limits(dose_rate=dose_rate))))

    def adopt(self, acquisition: Acquisition) -> Acquisition:
        """An acquisition of somebody else, to be resumed or aborted under this control."""
        return Acquisition(self.microscope, acquisition.name, self)

    def clear_trip(self) -> v1.InstrumentStatus:
        """Clears the latched trip, by the cause that the status tells now; where none is latched, nothing happens."""
        status = self.microscope.status()
        if not status.HasField("trip"):
            return status
        request = v1.ClearTripRequest(cause_id=status.trip.cause_id)
        return self.call(self.microscope.instrument.ClearTrip, request).status

    def state_column(self, **values: Any) -> v1.Column:
        """States values of the column that cannot be read: `state_column(probe_current_pa=50, probe_current_source="cup")`."""
        request = v1.UpdateColumnRequest(column=v1.Column(**values))
        request.update_mask.paths.extend(values)
        return self.call(self.microscope.instrument.UpdateColumn, request).column

    def upload(self, array: Positions | Array) -> str:
        """Uploads positions, or weights [row, column], that are too large for a plan; the name goes into the plan."""
        self.check()

        def parts() -> Iterator[v1.UploadArrayRequest]:
            step = 1 << 16
            if isinstance(array, Positions):
                columns = [np.ravel(np.asarray(a)) if a is not None else None for a in (array.row, array.col, array.dwell_ns)]
                n = len(columns[0])  # type: ignore[arg-type]
                for i in range(0, max(n, 1), step):
                    cut = [None if c is None else c[i : i + step] for c in columns]
                    yield v1.UploadArrayRequest(lease=self.token, positions=Positions(*cut).message())  # type: ignore[arg-type]
            else:
                data = np.ascontiguousarray(array, "<f4").tobytes()
                for i in range(0, len(data), 4 * step):
                    yield v1.UploadArrayRequest(lease=self.token, weights_f32=data[i : i + 4 * step])

        return self.microscope.call(self.microscope.calls.UploadArray, parts()).name

    def upload_model(self, path: str | os.PathLike[str]) -> str:
        """Uploads a learned model, the file `model` of a data set, for `Plan.model_from`; the name goes into the plan."""
        self.check()
        data = Path(path).read_bytes()
        step = 1 << 18
        parts = (v1.UploadArrayRequest(lease=self.token, model=data[i : i + step]) for i in range(0, max(len(data), 1), step))
        return self.microscope.call(self.microscope.calls.UploadArray, parts).name


class Acquisition:
    """One acquisition. Commands need the control that made it, or that adopted it."""

    def __init__(self, microscope: Microscope, name: str, control: Control | None = None) -> None:
        self.microscope = microscope
        self.name = name
        self.control = control

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def told(self) -> v1.Acquisition:
        """As it is now: state, progress, dose, prediction, result."""
        return self.microscope.call(self.microscope.calls.GetAcquisition, v1.GetAcquisitionRequest(name=self.name)).acquisition

    @property
    def state(self) -> State:
        """State now."""
        return State(self.told().state)

    def _command(self, method: Any, request: Any) -> v1.Acquisition:
        if self.control is not None:
            return self.control.call(method, request).acquisition
        return self.microscope.call(method, request).acquisition

    def start(self) -> v1.Acquisition:
        """Arms the controller and starts; a repeated start answers as the first."""
        return self._command(self.microscope.calls.StartAcquisition, v1.StartAcquisitionRequest(name=self.name))

    def pause(self) -> v1.Acquisition:
        """Stops submission; what the controller holds is exposed, then the beam is blanked."""
        return self._command(self.microscope.calls.PauseAcquisition, v1.PauseAcquisitionRequest(name=self.name))

    def resume(self) -> v1.Acquisition:
        """Goes on after a pause, or after a trip that has been cleared."""
        return self._command(self.microscope.calls.ResumeAcquisition, v1.ResumeAcquisitionRequest(name=self.name))

    def abort(self, reason: str = "") -> v1.Acquisition:
        """Blanks at once and ends, and waits until the files are complete; what was recorded is kept."""
        told = self._command(self.microscope.calls.AbortAcquisition, v1.AbortAcquisitionRequest(name=self.name, reason=reason))
        if State(told.state).is_final or not self._is_known():
            return told
        for told in self.watch():
            pass
        return told

    def _is_known(self) -> bool:
        """Whether it still exists: one that was never started is discarded when it is aborted."""
        try:
            self.told()
        except errors.NotFound:
            return False
        return True

    def watch(self, max_rate_hz: float = 0.0) -> Iterator[v1.Acquisition]:
        """The acquisition as it changes, newest wins; ends after a final state."""
        request = v1.WatchAcquisitionRequest(name=self.name, max_rate_hz=max_rate_hz)
        for answer in self.microscope.stream(self.microscope.calls.WatchAcquisition, request):
            yield answer.acquisition

    def wait(self, progress: bool = False) -> v1.Acquisition:
        """Waits for the end. Raises [`Tripped`][beamwright.Tripped] when it is stopped by a trip (and
        [`LeaseLost`][beamwright.LeaseLost] when that was the loss of control), [`Aborted`][beamwright.Aborted] or
        [`Failed`][beamwright.Failed] when it ends before it is complete. `progress` shows a bar (extra `progress`)."""
        bar: Any = None
        if progress:
            bar = arrays.package("tqdm.auto", "progress").tqdm(unit=" positions", desc=self.name.removeprefix("acquisitions/"), smoothing=0.1)
        try:
            for told in self.watch():
                if bar is not None:
                    bar.total = told.progress.n_planned or None
                    bar.update(told.progress.n_sampled - bar.n)
                if told.state == v1.ACQUISITION_STATE_TRIPPED:
                    if self.control is not None:
                        self.control.check()
                    ended_well(told)
                if State(told.state).is_final:
                    return ended_well(told)
        finally:
            if bar is not None:
                bar.close()
        return ended_well(self.told())

    def frames(
        self, planes: Iterable[str] = ("estimate",), detectors: Iterable[str] = (), *, rate: float = 10.0, region: v1.PixelRect | None = None,
        scale: int = 0, max_side: int = 1024,
    ) -> Iterator[Frame]:
        """Pictures while it runs, newest wins, at most `rate` a second; ends with the final estimate. Planes: estimate,
        uncertainty, visits, gain, dose."""
        options = arrays.options_of(detectors, planes, rate, region, scale, max_side)
        request = v1.StreamPreviewsRequest(name=self.name, options=options)
        for answer in self.microscope.stream(self.microscope.preview_calls.StreamPreviews, request):
            yield Frame.of(answer.frame)

    def image(self, detector: str = "", plane: str = "estimate") -> Array:
        """The newest picture, every pixel of the grid, [row, column]."""
        grid = self.told().field.grid
        while True:
            frames = []
            for rect in arrays.tiles(grid.n_rows, grid.n_cols):
                options = arrays.options_of([detector] if detector else [], [plane], 0.0, rect, 1, 4096)
                request = v1.GetPreviewRequest(name=self.name, options=options)
                frames.append(Frame.of(self.microscope.call(self.microscope.preview_calls.GetPreview, request).frame))
            # A newer estimate may come between two bands.
            if len({frame.revision for frame in frames}) == 1:
                return np.concatenate([require(frame.plane(plane), plane) for frame in frames])

    def events(self, from_sequence: int = 0, detectors: Iterable[str] = (), *, paths: bool = True, stored_only: bool = False) -> Iterator[Chunk | Gap]:
        """All samples and gaps in order of position, from the store until caught up, then live, until it has ended.

        A broken connection is opened again from the next sequence number: nothing comes twice, nothing is left out."""
        reading, names = arrays.Reading(from_sequence), list(detectors)
        while True:
            request = v1.StreamSamplesRequest(
                name=self.name, from_sequence=reading.following, detectors=names, omit_paths=not paths, stored_only=stored_only
            )
            try:
                for answer in self.microscope.stream(self.microscope.sample_calls.StreamSamples, request):
                    event = reading.take(answer)
                    if event is None:
                        return
                    yield event
                raise errors.Unreachable(f"{self.microscope.target.address} ended the stream of samples")
            except errors.Unreachable:
                if reading.broken():
                    raise
                time.sleep(RESUME_PAUSE_S)

    def samples(self, detectors: Iterable[str] = (), *, stored_only: bool = False) -> Samples:
        """All samples as one structured array; waits for the end unless `stored_only`."""
        return Samples.of(self.events(0, detectors, stored_only=stored_only))

    def signal(self, detector: str, row: int, col: int, n_rows: int = 1, n_cols: int = 1) -> v1.GetSignalResponse:
        """Sum of the read-outs over a rectangle: the spectrum or pattern of a place."""
        rect = v1.PixelRect(row=row, col=col, n_rows=n_rows, n_cols=n_cols)
        request = v1.GetSignalRequest(name=self.name, detector=detector, rect=rect)
        return self.microscope.call(self.microscope.sample_calls.GetSignal, request)

    def to_hyperspy(self, detector: str = "", plane: str = "estimate") -> Any:
        """The newest picture as a HyperSpy signal with axes in nm (extra `hyperspy`)."""
        return arrays.to_hyperspy(self.image(detector, plane), self.told(), plane, detector)



