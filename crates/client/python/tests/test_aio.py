"""The asyncio client against a real daemon."""

import asyncio

import beamwright as bw
import numpy as np
import pytest


def test_acquires_and_reads(daemon, small):
    async def run():
        async with bw.aio.control(daemon.address, "asyncio") as control:
            await control.clear_trip()
            acquisition = await control.acquire(small)
            frames = [frame async for frame in acquisition.frames()]
            told = await acquisition.wait()
            return frames[-1], told, await acquisition.samples(), await acquisition.image()

    last, told, samples, image = asyncio.run(run())
    assert told.state == bw.State.FINISHED
    assert len(samples) == 2048
    assert np.array_equal(last.estimate, image)


def test_errors_are_typed(daemon, control):
    async def run():
        async with await bw.aio.connect(daemon.address) as microscope:
            with pytest.raises(bw.InvalidField) as refused:
                await microscope.predict(bw.Plan(fraction=-1))
            assert refused.value.field == "plan.fraction"
            with pytest.raises(bw.LeaseHeld):
                await microscope.control("another")
            return await microscope.blank("asyncio")

    assert asyncio.run(run()).latency_us > 0


def test_nobody_there(unused=None):
    with pytest.raises(bw.Unreachable, match="is `beamwright serve` running"):
        asyncio.run(bw.aio.connect("127.0.0.1:1", timeout_s=0.5))
