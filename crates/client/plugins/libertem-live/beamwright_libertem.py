"""Beamwright as a connection of LiberTEM-live: UDFs run over the samples while the scan goes on.

    ctx = LiveContext.make_with("inline")
    aq = ctx.make_acquisition(conn=Samples(acquisition), nav_shape=())
    for part in ctx.run_udf_iter(dataset=aq, udf=Picture(acquisition)):
        ...

A frame of LiberTEM is one position of the beam: [1, channel], with the channels row, col, electrons, and one for each
scalar detector. Frames are in order of exposure, not of the picture, as the beam visits what it wants and may visit a
pixel twice; `Picture` puts them where they belong. A position without a sample (see `Gap`) has electrons = 0 and NaN.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import beamwright as bw
import numpy as np
from beamwright import v1
from libertem.io.dataset.base import DataTile
from libertem.io.dataset.memory import MemPartition
from libertem.udf import UDF
from libertem_live.detectors.memory.acquisition import MemoryAcquisition, MemoryConnection

FIXED = ("row", "col", "electrons")


class Samples(MemoryConnection):
    """The samples of an acquisition that has been created; the scan is started when LiberTEM is ready for data."""

    def __init__(self, acquisition: bw.Acquisition, n_partitions: int = 16) -> None:
        told = acquisition.told()
        n = told.prediction.n_positions
        if n == 0:
            raise ValueError(f"{acquisition.name}: an endless view is not allowed (allowed: plans with a number of positions)")
        self.acquisition = acquisition
        self.channels = FIXED + tuple(detector.name for detector in told.plan.detectors)
        frames = np.zeros((n, 1, len(self.channels)), np.float32)
        frames[:, :, len(FIXED) :] = np.nan
        super().__init__(frames, {"num_partitions": n_partitions, "sig_dims": 2})
        self.n_arrived = 0
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._news = threading.Condition()

    def get_acquisition_cls(self) -> type[SampleAcquisition]:
        return SampleAcquisition

    def start(self) -> None:
        """Starts the scan, and the thread that receives its samples."""
        self._thread = threading.Thread(target=self._receive, name="beamwright-samples", daemon=True)
        self._thread.start()
        if self.acquisition.state is bw.State.CREATED:
            self.acquisition.start()

    def finish(self) -> None:
        """Waits until the service has completed the acquisition and is ready for the next one."""
        if self._thread:
            self._thread.join()
            for _ in self.acquisition.watch():
                pass

    def _receive(self) -> None:
        try:
            for event in self.acquisition.events(paths=False):
                if isinstance(event, bw.Gap):
                    self._note(event.first_sequence + event.n_positions)
                    continue
                frames = self._data[event.first_sequence : event.first_sequence + len(event), 0]
                for i, name in enumerate(self.channels):
                    frames[:, i] = getattr(event, name) if i < len(FIXED) else event.signal(name)
                self._note(event.first_sequence + len(event))
            # A stop rule or an abort may have ended it early: what never came stays without a sample.
            self._note(len(self._data))
        except BaseException as failure:
            self._failure = failure
            self._note(len(self._data))

    def _note(self, n_arrived: int) -> None:
        with self._news:
            self.n_arrived = n_arrived
            self._news.notify_all()

    def wait_until(self, n: int) -> None:
        """Returns when the first `n` positions have ended; raises what broke the stream."""
        with self._news:
            self._news.wait_for(lambda: self.n_arrived >= n)
        if self._failure:
            raise self._failure


class SampleAcquisition(MemoryAcquisition):
    """What UDFs run over: partitions of consecutive positions, each read when its last position has ended."""

    def __init__(self, conn: Samples, nav_shape: tuple[int, ...] = (), **more: Any) -> None:
        super().__init__(conn, nav_shape or conn._data.shape[:1], **more)

    def start_acquisition(self) -> None:
        super().start_acquisition()
        self._conn.start()

    def end_acquisition(self) -> None:
        self._conn.finish()

    def get_partitions(self) -> Iterator[MemPartition]:
        for partition in super().get_partitions():
            partition.__class__, partition.samples = _LivePartition, self._conn
            yield partition


class _LivePartition(MemPartition):
    samples: Samples

    def get_tiles(self, *args: Any, **kwargs: Any) -> Iterator[DataTile]:
        self.samples.wait_until(self._start_frame + self._num_frames)
        yield from super().get_tiles(*args, **kwargs)


class Picture(UDF):
    """Events and electrons at each pixel of the grid; their quotient is the picture, NaN where the beam has not been."""

    def __init__(self, acquisition: bw.Acquisition | None = None, channel: int = len(FIXED), shape: tuple[int, int] | None = None) -> None:
        grid = acquisition.told().field.grid if acquisition else v1.Grid()
        super().__init__(channel=channel, shape=shape or (grid.n_rows, grid.n_cols))

    def get_result_buffers(self) -> dict[str, Any]:
        pixels = {"kind": "single", "extra_shape": self.params.shape, "dtype": np.float64}
        return {"events": self.buffer(use="private", **pixels), "electrons": self.buffer(**pixels), "picture": self.buffer(use="result_only", **pixels)}

    def process_partition(self, partition: np.ndarray) -> None:
        rows, cols, electrons = (partition[:, 0, i] for i in range(len(FIXED)))
        sampled = electrons > 0
        place = tuple(np.rint(axis[sampled]).astype(int) for axis in (rows, cols))
        np.add.at(self.results.electrons, place, electrons[sampled])
        np.add.at(self.results.events, place, partition[sampled, 0, self.params.channel])

    def merge(self, dest: Any, src: Any) -> None:
        dest.events[:] += src.events
        dest.electrons[:] += src.electrons

    def get_results(self) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"electrons": self.results.electrons, "picture": self.results.events / self.results.electrons}
