"""Beamwright as an ophyd-async detector and flyer: one event is one acquisition, one picture in one data set.

    with init_devices():
        stem = Stem(bw.Plan(fraction=0.1, dwell=20 * bw.us))
    RE(bp.count([stem], num=3))

Staging takes control of the microscope and unstaging gives it back, which blanks the beam, also where a plan failed or
was stopped. Pictures stay in the data sets of the service; the documents name them. No picture is exposed twice: a plan
that is paused pauses the scan, and one that goes on does not begin it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import AsyncIterator, Iterator

import beamwright as bw
from beamwright import v1
from bluesky.protocols import Collectable, Flyable, HasHints, Hints, Pausable, Preparable, Reading, Stageable, StreamAsset, Triggerable, WritesStreamAssets
from bluesky.utils import NoReplayAllowed
from event_model import ComposeStreamResource, DataKey
from ophyd_async.core import AsyncConfigurable, AsyncReadable, AsyncStatus, Device, DeviceConnector, WatchableAsyncStatus, WatcherUpdate, soft_signal_rw

LEASE = 5 * bw.s
"""Time to live of control: it is renewed in the RunEngine's loop, where whoever listens to documents takes time, too."""


class Stem(Device, Stageable, AsyncConfigurable, AsyncReadable, Triggerable, Pausable, Preparable, Flyable, Collectable, WritesStreamAssets, HasHints):
    """The microscope. `fraction` and `dwell_us` of its scan plan can be moved, the rest of the plan is fixed.

    Events of a step scan also have `<name>-dose`, e/Å². A flyer is prepared with its number of pictures."""

    def __init__(self, plan: bw.Plan | None = None, address: str = bw.DEFAULT_TARGET, *, tls: bw.Tls | None = None, token: str = "", name: str = "") -> None:
        self._plan = plan or bw.Plan()
        self._link = {"address": address, "tls": tls, "token": token}
        self.fraction = soft_signal_rw(float, 0.1 if self._plan.fraction is None else self._plan.fraction)
        self.dwell_us = soft_signal_rw(float, (self._plan.dwell or 1 * bw.us).to(bw.us), units="us")
        self._held = contextlib.AsyncExitStack()
        self._control: bw.aio.Control | None = None
        self._acquisition: bw.aio.Acquisition | None = None
        self._task: asyncio.Task[None] | None = None
        self._checked = v1.Acquisition()
        self._done: list[v1.Acquisition] = []
        self._n_told = self._n_asked = 0
        super().__init__(name=name, connector=_Connector())

    async def plan(self) -> bw.Plan:
        """The scan plan of the next picture."""
        fraction, dwell_us = await asyncio.gather(self.fraction.get_value(), self.dwell_us.get_value())
        return dataclasses.replace(self._plan, fraction=fraction, dwell=dwell_us * bw.us)

    async def check(self) -> v1.Acquisition:
        """What the service would make of the plan; moves nothing. Raises `InvalidField` with field, value and range."""
        request = v1.CreateAcquisitionRequest(plan=(await self.plan()).message(), validate_only=True)
        async with await bw.aio.connect(**self._link) as microscope:
            return (await microscope.call(microscope.calls.CreateAcquisition, request)).acquisition

    @AsyncStatus.wrap
    async def stage(self) -> None:
        """Takes control, and forgets the pictures of the run before."""
        await self._give_back()
        self._checked = await self.check()
        self._done, self._n_told = [], 0
        microscope = await self._held.enter_async_context(await bw.aio.connect(**self._link))
        self._control = await self._held.enter_async_context(await microscope.control(f"bluesky: {self.name}", LEASE))

    @AsyncStatus.wrap
    async def unstage(self) -> None:
        """Gives control back: what has not ended is aborted, the beam is blanked."""
        await self._give_back()

    async def _give_back(self) -> None:
        task, self._task, self._control = self._task, None, None
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        acquisition, self._acquisition = self._acquisition, None
        if acquisition:
            # Where it has ended by itself there is nothing to abort; where control is lost the beam is blanked already.
            with contextlib.suppress(bw.Error):
                await acquisition.abort("the plan ended before the picture")
        await self._held.aclose()

    @WatchableAsyncStatus.wrap
    async def trigger(self) -> AsyncIterator[WatcherUpdate[int]]:
        """One picture."""
        self._begin(1)
        async for update in self._watched():
            yield update

    @AsyncStatus.wrap
    async def prepare(self, value: int) -> None:
        """For a flyer: the number of pictures, at least 1."""
        if not (isinstance(value, int) and value > 0):
            raise ValueError(f"pictures: {value!r} is not allowed (allowed: 1 or more; each costs dose)")
        self._n_asked, self._checked = value, await self.check()

    @AsyncStatus.wrap
    async def kickoff(self) -> None:
        """Begins the pictures that were prepared; each preparation serves once."""
        if not self._n_asked:
            raise RuntimeError(f"{self.name} is not prepared: it needs to be told how many pictures to take")
        n, self._n_asked = self._n_asked, 0
        self._begin(n)

    @WatchableAsyncStatus.wrap
    async def complete(self) -> AsyncIterator[WatcherUpdate[int]]:
        """Ends with the last picture."""
        async for update in self._watched():
            yield update

    def _begin(self, n: int) -> None:
        if self._control is None:
            raise RuntimeError(f"{self.name} is not staged, so it has no control of the microscope")
        self._task = asyncio.create_task(self._take(self._control, n))

    async def _take(self, control: bw.aio.Control, n: int) -> None:
        for _ in range(n):
            self._acquisition = await control.acquire(await self.plan())
            self._done.append(await self._acquisition.wait())
            self._acquisition = None

    async def _watched(self) -> AsyncIterator[WatcherUpdate[int]]:
        task = self._task
        while task and not task.done():
            await asyncio.wait([task], timeout=0.2)
            told = await self._acquisition.told() if self._acquisition else None
            if told:
                yield WatcherUpdate(told.progress.n_sampled, 0, told.progress.n_planned, name=self.name, unit="positions")
        await self._finished()

    async def _finished(self) -> None:
        # Shielded, as who waits may be interrupted by a pause while the picture goes on.
        if self._task:
            await asyncio.shield(self._task)

    async def pause(self) -> None:
        """Pauses the scan, blanked; the plan goes on after it and not before it, as no picture is exposed twice."""
        if self._acquisition:
            await self._acquisition.pause()
        raise NoReplayAllowed

    async def resume(self) -> None:
        """Goes on with the scan."""
        if self._acquisition:
            await self._acquisition.resume()

    async def read_configuration(self) -> dict[str, Reading]:
        """`fraction` and `dwell_us`."""
        return {**await self.fraction.read(), **await self.dwell_us.read()}

    async def describe_configuration(self) -> dict[str, DataKey]:
        """`fraction` and `dwell_us`."""
        return {**await self.fraction.describe(), **await self.dwell_us.describe()}

    @property
    def hints(self) -> Hints:
        """The dose is what a table of events shows."""
        return {"fields": [f"{self.name}-dose"]}

    async def read(self) -> dict[str, Reading]:
        """Dose of the newest picture, after its end; the picture itself comes as a document."""
        await self._finished()
        return {f"{self.name}-dose": {"value": self._done[-1].dose.mean_dose_e_per_a2, "timestamp": time.time()}}

    async def describe(self) -> dict[str, DataKey]:
        """Dose and pictures."""
        dose = DataKey(source=f"beamwright://{self._link['address']}/dose", dtype="number", shape=[], units="e/Å²", precision=3)
        return {f"{self.name}-dose": dose, **await self.describe_collect()}

    async def describe_collect(self) -> dict[str, DataKey]:
        """Pictures: shape [1, row, column], events per incident electron."""
        about = {"dtype": "array", "dtype_numpy": "<f4", "shape": [1, *(axis.size for axis in self._checked.axes)], "external": "STREAM:"}
        address = self._link["address"]
        return {key: DataKey(source=f"beamwright://{address}/{array}", **about) for key, array in self._arrays().items()}

    def _arrays(self) -> dict[str, str]:
        """Name of the estimate in the data set, by data key: one, or one per detector."""
        names = [detector.name for detector in self._checked.plan.detectors]
        return {self.name: "estimate"} if len(names) == 1 else {f"{self.name}-{name}": f"estimate-{name}" for name in names}

    async def get_index(self) -> int:
        """Pictures complete since staging."""
        return len(self._done)

    async def collect_asset_docs(self, index: int | None = None) -> AsyncIterator[StreamAsset]:
        """Names the data sets that are complete and have not been named."""
        for i in range(self._n_told, len(self._done) if index is None else index):
            self._n_told = i + 1
            for asset in self._documents(self._done[i], i):
                yield asset

    def _documents(self, acquisition: v1.Acquisition, i: int) -> Iterator[StreamAsset]:
        uri = pathlib.PurePosixPath(acquisition.result.dataset_path).as_uri()
        for key, array in self._arrays().items():
            parameters = {"dataset": f"Experiments/{array}/data", "acquisition": acquisition.name}
            bundle = ComposeStreamResource()(mimetype="application/x-zarr", uri=uri, data_key=key, parameters=parameters)
            yield "stream_resource", bundle.stream_resource_doc
            yield "stream_datum", bundle.compose_stream_datum({"start": i, "stop": i + 1})


class _Connector(DeviceConnector):
    """Connecting asks the service, so that a wrong address or plan is told before anything begins."""

    async def connect_real(self, device: Stem, timeout: float, force_reconnect: bool) -> None:
        await super().connect_real(device, timeout, force_reconnect)
        await asyncio.wait_for(device.check(), timeout)
