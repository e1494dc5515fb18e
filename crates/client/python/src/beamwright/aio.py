"""The asyncio client: the same microscope, control and acquisitions as the synchronous one, awaited.

    async with bw.aio.control() as control:
        acquisition = await control.acquire(bw.Plan(fraction=0.1))
        async for frame in acquisition.frames():
            ...
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import numpy as np

from beamwright import arrays, errors, v1
from beamwright.arrays import Array, Chunk, Frame, Gap, Samples
from beamwright.connection import BLANK_PATIENCE_S, BLANK_PAUSE_S, CALL_TIMEOUT_S, DEFAULT_TARGET, RESUME_PAUSE_S
from beamwright.connection import Target, Tls, check_version, holder_of
from beamwright.plan import Limits, Plan
from beamwright.states import State, ended_well, require, view_plan
from beamwright.units import Quantity, e_per_A2_s, in_base, ms, us


async def connect(address: str = DEFAULT_TARGET, *, tls: Tls | None = None, token: str = "", timeout_s: float = 5.0) -> Microscope:
    """Connects to `HOST:PORT` or `unix:PATH` and checks that client and service fit."""
    microscope = Microscope(Target(address, tls, token))
    try:
        await microscope._first_word(timeout_s)
    except BaseException:
        await microscope.close()
        raise
    return microscope


@contextlib.asynccontextmanager
async def control(address: str = DEFAULT_TARGET, holder: str | None = None, *, tls: Tls | None = None, token: str = "") -> AsyncIterator[Control]:
    """Connects, takes control, and at the end gives it back (which blanks the beam) and disconnects."""
    async with await connect(address, tls=tls, token=token) as microscope, await microscope.control(holder) as held:
        yield held


class Microscope:
    """A connection to a service, of one event loop."""

    info: v1.GetServerInfoResponse

    def __init__(self, target: Target) -> None:
        self.target = target
        if target.tls:
            self._channel = grpc.aio.secure_channel(target.plain, target.tls.credentials(), target.options)
        else:
            self._channel = grpc.aio.insecure_channel(target.plain, target.options)
        self.instrument = v1.InstrumentServiceStub(self._channel)
        self.leases = v1.ControlServiceStub(self._channel)
        self.calls = v1.AcquisitionServiceStub(self._channel)
        self.sample_calls = v1.SampleServiceStub(self._channel)
        self.preview_calls = v1.PreviewServiceStub(self._channel)

    async def _first_word(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout_s)
            self.info = await self.call(self.instrument.GetServerInfo, v1.GetServerInfoRequest(), timeout_s)
        except (TimeoutError, asyncio.TimeoutError, errors.Unreachable):
            address = self.target.address
            raise errors.Unreachable(f"no service answers at {address}: is `beamwright serve` running there?") from None
        except errors.Error as error:
            if not error.reason:
                raise errors.VersionMismatch(f"what answers at {self.target.address} is not Beamwright: {error}") from None
            raise
        check_version(self.info, self.target.address)

    async def close(self) -> None:
        """Disconnects. Control that is still held runs out, and the beam is blanked."""
        await self._channel.close()

    async def __aenter__(self) -> Microscope:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(self, method: Any, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """One call of the API; a refusal becomes a typed error."""
        try:
            return await method(request, timeout=timeout_s, metadata=self.target.metadata)
        except grpc.aio.AioRpcError as error:
            raise errors.of_rpc(error, self.target.address) from None

    async def stream(self, method: Any, request: Any) -> AsyncIterator[Any]:
        """The answers of a streaming call; a refusal becomes a typed error."""
        answers = method(request, metadata=self.target.metadata)
        try:
            async for answer in answers:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise errors.of_rpc(error, self.target.address) from None
        finally:
            answers.cancel()

    async def blank(self, reason: str = "") -> v1.BlankResponse:
        """Blanks the beam now, from any state, without control. Returns when the controller has acknowledged."""
        return await self.call(self.instrument.Blank, v1.BlankRequest(reason=reason))

    async def status(self) -> v1.InstrumentStatus:
        """What the instrument is doing."""
        return (await self.call(self.instrument.GetStatus, v1.GetStatusRequest())).status

    async def watch_status(self, max_rate_hz: float = 0.0) -> AsyncIterator[v1.InstrumentStatus]:
        """The same as it changes, newest wins; never ends by itself."""
        async for answer in self.stream(self.instrument.WatchStatus, v1.WatchStatusRequest(max_rate_hz=max_rate_hz)):
            yield answer.status

    async def capabilities(self) -> v1.Capabilities:
        """What controller, coils and detectors can do, and what they cannot promise."""
        return (await self.call(self.instrument.GetCapabilities, v1.GetCapabilitiesRequest())).capabilities

    async def predict(self, plan: Plan) -> v1.Prediction:
        """Checks a plan and says what it would cost; moves nothing and needs no control."""
        request = v1.CreateAcquisitionRequest(plan=plan.message(), validate_only=True)
        return (await self.call(self.calls.CreateAcquisition, request)).acquisition.prediction

    async def control(self, holder: str | None = None, ttl: Quantity = 2000 * ms) -> Control:
        """Takes control; for `async with`."""
        request = v1.AcquireLeaseRequest(ttl_ms=round(in_base("ttl", ttl, "time") / 1e6), holder=holder_of(holder))
        grant = await self._granted(request)
        held = Control(self, grant.lease, grant.ttl_ms * 1e-3)
        await held._renew()
        held._task = asyncio.create_task(held._keep())
        return held

    async def _granted(self, request: v1.AcquireLeaseRequest) -> v1.AcquireLeaseResponse:
        clock = asyncio.get_running_loop().time
        patience = clock() + BLANK_PATIENCE_S
        while True:
            try:
                return await self.call(self.leases.AcquireLease, request)
            except (errors.BlankUnconfirmed, errors.Overloaded):
                if clock() > patience:
                    raise
            await asyncio.sleep(BLANK_PAUSE_S)

    async def acquisition(self, name: str = "acquisitions/-") -> Acquisition:
        """An acquisition by name; `acquisitions/-` is the one that has the instrument, else the newest."""
        answer = await self.call(self.calls.GetAcquisition, v1.GetAcquisitionRequest(name=name))
        return Acquisition(self, answer.acquisition.name)


class Control:
    """The right to move the beam, kept alive by a task, given back at the end of `async with`."""

    def __init__(self, microscope: Microscope, token: v1.LeaseToken, ttl_s: float) -> None:
        self.microscope = microscope
        self.token = token
        self._ttl_s = ttl_s
        self._lost: errors.Error | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def lost(self) -> errors.Error | None:
        """Why control was lost; `None` while it is held."""
        return self._lost

    async def _renew(self) -> None:
        request = v1.RenewLeaseRequest(lease=self.token)
        await self.microscope.call(self.microscope.leases.RenewLease, request, self._ttl_s / 2)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        seen = clock()
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            try:
                await self._renew()
                seen = clock()
            except errors.Unreachable as error:
                if clock() - seen > self._ttl_s:
                    self._lost = errors.LeaseLost(f"control ran out: {error}")
                    return
            except errors.Error as error:
                self._lost = error
                return

    def check(self) -> None:
        """Raises [`LeaseLost`][beamwright.LeaseLost] when control is no longer held."""
        if self._lost is not None:
            raise self._lost

    async def call(self, method: Any, request: Any) -> Any:
        """One call of the API under this control."""
        self.check()
        request.lease.CopyFrom(self.token)
        return await self.microscope.call(method, request)

    async def release(self) -> None:
        """Gives control back: the beam is blanked, what is not detached is tripped. Says so when it was lost before."""
        if self._task is None:
            return
        self._task.cancel()
        self._task = None
        self.check()
        await self.microscope.call(self.microscope.leases.ReleaseLease, v1.ReleaseLeaseRequest(lease=self.token))

    async def __aenter__(self) -> Control:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            await self.release()
        except errors.Error:
            # What went wrong first is what the caller has to know.
            if kind is None:
                raise

    async def create(self, plan: Plan, request_id: str = "") -> Acquisition:
        """Checks a plan, predicts its cost, makes an acquisition; nothing moves."""
        request = v1.CreateAcquisitionRequest(plan=plan.message(), request_id=request_id)
        answer = await self.call(self.microscope.calls.CreateAcquisition, request)
        return Acquisition(self.microscope, answer.acquisition.name, self)

    async def acquire(self, plan: Plan, request_id: str = "") -> Acquisition:
        """Makes an acquisition and starts it."""
        acquisition = await self.create(plan, request_id)
        await acquisition.start()
        return acquisition

    async def view(self, plan: Plan | None = None, *, fraction: float = 0.1, dwell: Quantity = 1 * us, dose_rate: Quantity = 100 * e_per_A2_s) -> Acquisition:
        """Endless fast frames for finding and focusing; `abort()` ends them."""
        return await self.acquire(view_plan(plan or Plan(fraction=fraction, dwell=dwell, limits=Limits(dose_rate=dose_rate))))

    async def clear_trip(self) -> v1.InstrumentStatus:
        """Clears the latched trip, by the cause that the status tells now; where none is latched, nothing happens."""
        status = await self.microscope.status()
        if not status.HasField("trip"):
            return status
        request = v1.ClearTripRequest(cause_id=status.trip.cause_id)
        return (await self.call(self.microscope.instrument.ClearTrip, request)).status


class Acquisition:
    """One acquisition. Commands need the control that made it."""

    def __init__(self, microscope: Microscope, name: str, control: Control | None = None) -> None:
        self.microscope = microscope
        self.name = name
        self.control = control

    async def told(self) -> v1.Acquisition:
        """As it is now: state, progress, dose, prediction, result."""
        answer = await self.microscope.call(self.microscope.calls.GetAcquisition, v1.GetAcquisitionRequest(name=self.name))
        return answer.acquisition

    async def _command(self, method: Any, request: Any) -> v1.Acquisition:
        if self.control is not None:
            return (await self.control.call(method, request)).acquisition
        return (await self.microscope.call(method, request)).acquisition

    async def start(self) -> v1.Acquisition:
        """Arms the controller and starts; a repeated start answers as the first."""
        return await self._command(self.microscope.calls.StartAcquisition, v1.StartAcquisitionRequest(name=self.name))

    async def pause(self) -> v1.Acquisition:
        """Stops submission; what the controller holds is exposed, then the beam is blanked."""
        return await self._command(self.microscope.calls.PauseAcquisition, v1.PauseAcquisitionRequest(name=self.name))

    async def resume(self) -> v1.Acquisition:
        """Goes on after a pause, or after a trip that has been cleared."""
        return await self._command(self.microscope.calls.ResumeAcquisition, v1.ResumeAcquisitionRequest(name=self.name))

    async def abort(self, reason: str = "") -> v1.Acquisition:
        """Blanks at once and ends, and waits until the files are complete; what was recorded is kept."""
        request = v1.AbortAcquisitionRequest(name=self.name, reason=reason)
        told = await self._command(self.microscope.calls.AbortAcquisition, request)
        if State(told.state).is_final or not await self._is_known():
            return told
        async for told in self.watch():
            pass
        return told

    async def _is_known(self) -> bool:
        """Whether it still exists: one that was never started is discarded when it is aborted."""
        try:
            await self.told()
        except errors.NotFound:
            return False
        return True

    async def watch(self, max_rate_hz: float = 0.0) -> AsyncIterator[v1.Acquisition]:
        """The acquisition as it changes, newest wins; ends after a final state."""
        request = v1.WatchAcquisitionRequest(name=self.name, max_rate_hz=max_rate_hz)
        async for answer in self.microscope.stream(self.microscope.calls.WatchAcquisition, request):
            yield answer.acquisition

    async def wait(self) -> v1.Acquisition:
        """Waits for the end; raises as the synchronous one does."""
        async for told in self.watch():
            if told.state == v1.ACQUISITION_STATE_TRIPPED:
                if self.control is not None:
                    self.control.check()
                ended_well(told)
            if State(told.state).is_final:
                return ended_well(told)
        return ended_well(await self.told())

    async def frames(
        self, planes: Iterable[str] = ("estimate",), detectors: Iterable[str] = (), *, rate: float = 10.0, region: v1.PixelRect | None = None,
        scale: int = 0, max_side: int = 1024,
    ) -> AsyncIterator[Frame]:
        """Pictures while it runs, newest wins, at most `rate` a second; ends with the final estimate."""
        options = arrays.options_of(detectors, planes, rate, region, scale, max_side)
        request = v1.StreamPreviewsRequest(name=self.name, options=options)
        async for answer in self.microscope.stream(self.microscope.preview_calls.StreamPreviews, request):
            yield Frame.of(answer.frame)

    async def image(self, detector: str = "", plane: str = "estimate") -> Array:
        """The newest picture, every pixel of the grid, [row, column]."""
        grid = (await self.told()).field.grid
        while True:
            frames = []
            for rect in arrays.tiles(grid.n_rows, grid.n_cols):
                options = arrays.options_of([detector] if detector else [], [plane], 0.0, rect, 1, 4096)
                request = v1.GetPreviewRequest(name=self.name, options=options)
                frames.append(Frame.of((await self.microscope.call(self.microscope.preview_calls.GetPreview, request)).frame))
            # A newer estimate may come between two bands.
            if len({frame.revision for frame in frames}) == 1:
                return np.concatenate([require(frame.plane(plane), plane) for frame in frames])

    async def events(self, from_sequence: int = 0, detectors: Iterable[str] = (), *, paths: bool = True, stored_only: bool = False) -> AsyncIterator[Chunk | Gap]:
        """All samples and gaps in order of position, from the store until caught up, then live, until it has ended.

        A broken connection is opened again from the next sequence number: nothing comes twice, nothing is left out."""
        reading, names = arrays.Reading(from_sequence), list(detectors)
        while True:
            request = v1.StreamSamplesRequest(
                name=self.name, from_sequence=reading.following, detectors=names, omit_paths=not paths, stored_only=stored_only
            )
            try:
                async for answer in self.microscope.stream(self.microscope.sample_calls.StreamSamples, request):
                    event = reading.take(answer)
                    if event is None:
                        return
                    yield event
                raise errors.Unreachable(f"{self.microscope.target.address} ended the stream of samples")
            except errors.Unreachable:
                if reading.broken():
                    raise
                await asyncio.sleep(RESUME_PAUSE_S)

    async def samples(self, detectors: Iterable[str] = (), *, stored_only: bool = False) -> Samples:
        """All samples as one structured array; waits for the end unless `stored_only`."""
        return Samples.of([event async for event in self.events(0, detectors, stored_only=stored_only)])

    async def to_hyperspy(self, detector: str = "", plane: str = "estimate") -> Any:
        """The newest picture as a HyperSpy signal with axes in nm (package `hyperspy`)."""
        return arrays.to_hyperspy(await self.image(detector, plane), await self.told(), plane, detector)
