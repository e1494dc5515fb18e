"""Pictures and samples as numpy arrays, laid over the bytes of the messages without another copy."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamwright import errors, v1
from beamwright.connection import RESUME_TRIES

Array = NDArray[Any]

PLANES = {
    "estimate": v1.PLANE_ESTIMATE,
    "uncertainty": v1.PLANE_UNCERTAINTY,
    "visits": v1.PLANE_VISITS,
    "gain": v1.PLANE_GAIN,
    "dose": v1.PLANE_DOSE,
}
_NAMES = {number: name for name, number in PLANES.items()}
_TYPES = {v1.VALUE_TYPE_F32: "<f4", v1.VALUE_TYPE_U8: "u1", v1.VALUE_TYPE_U16: "<u2", v1.VALUE_TYPE_U32: "<u4"}


def options_of(
    detectors: Iterable[str], planes: Iterable[str], rate: float, region: v1.PixelRect | None, scale: int, max_side: int
) -> v1.PreviewOptions:
    """Preview options as the API carries them; refuses planes that do not exist."""
    planes = tuple(planes)
    for name in planes:
        if name not in PLANES:
            raise ValueError(f"planes: {name!r} is not allowed (allowed: {', '.join(PLANES)})")
    return v1.PreviewOptions(
        detectors=detectors,
        planes=[PLANES[name] for name in planes],
        max_rate_hz=rate,
        region=region,
        scale=scale,
        max_side_px=max_side,
        encoding=v1.PIXEL_ENCODING_F32,
    )


@dataclass(frozen=True)
class Frame:
    """One picture of a running acquisition: all planes of one revision, [row, column], read-only."""

    message: v1.PreviewFrame
    planes: dict[tuple[str, str], Array]
    """By plane and detector; the detector is empty for visits, gain and dose."""

    @classmethod
    def of(cls, message: v1.PreviewFrame) -> Frame:
        """Lays arrays over the bytes of `message`."""
        planes = {}
        for plane in message.planes:
            kind = "u1" if plane.encoding == v1.PIXEL_ENCODING_U8 else "<f4"
            pixels = np.frombuffer(plane.data, kind).reshape(plane.n_rows, plane.n_cols)
            planes[_NAMES.get(plane.plane, str(plane.plane)), plane.detector] = pixels
        return cls(message, planes)

    def plane(self, name: str, detector: str = "") -> Array | None:
        """One plane; without a detector the first of that name. `None`: not in this frame."""
        for (found, of), pixels in self.planes.items():
            if found == name and detector in ("", of):
                return pixels
        return None

    @property
    def estimate(self) -> Array | None:
        """Mean, events per incident electron, of the first detector."""
        return self.plane("estimate")

    @property
    def uncertainty(self) -> Array | None:
        """Half-width of the calibrated 90 % interval ÷ 1.645, same unit, of the first detector."""
        return self.plane("uncertainty")

    @property
    def visits(self) -> Array | None:
        """Visits per pixel."""
        return self.plane("visits")

    @property
    def revision(self) -> int:
        """Revision of the estimate."""
        return self.message.revision

    @property
    def n_positions(self) -> int:
        """Positions absorbed."""
        return self.message.n_positions

    @property
    def age_s(self) -> float:
        """Age of the estimate when it was sent, s."""
        return self.message.age_us * 1e-6

    @property
    def scale(self) -> int:
        """Pixels of the grid per pixel of the picture."""
        return self.message.scale

    @property
    def pitch_nm(self) -> float:
        """Distance between pixels of the picture, nm; 0: unknown."""
        return self.message.pitch_nm

    @property
    def is_final(self) -> bool:
        """Whether this is the final estimate."""
        return self.message.final


@dataclass(frozen=True)
class Gap:
    """Consecutive positions without samples."""

    first_sequence: int
    n_positions: int
    cause: str
    """Such as `TRIPPED`, `BLANKED`, `LOST_ON_LINK`."""
    electrons: float
    """Expected incident electrons all the same."""


@dataclass(frozen=True)
class Chunk:
    """Samples of consecutive positions of one frame. Arrays are read-only views on the message."""

    message: v1.SampleChunk

    @property
    def first_sequence(self) -> int:
        """Index of its first position in the acquisition."""
        return self.message.first_sequence

    def __len__(self) -> int:
        return self.message.n_positions

    @property
    def row(self) -> Array:
        """Commanded row, px."""
        return np.frombuffer(self.message.row_px, "<f4")

    @property
    def col(self) -> Array:
        """Commanded column, px."""
        return np.frombuffer(self.message.col_px, "<f4")

    @property
    def row_actual(self) -> Array:
        """Mean row during the dwell by the coil model, px."""
        return np.frombuffer(self.message.row_actual_px, "<f4") if self.message.row_actual_px else self.row

    @property
    def col_actual(self) -> Array:
        """Mean column during the dwell by the coil model, px."""
        return np.frombuffer(self.message.col_actual_px, "<f4") if self.message.col_actual_px else self.col

    @property
    def dwell_ns(self) -> Array:
        """Dwell, ns."""
        return self._spread(self.message.dwell_ns, "<u4")

    @property
    def electrons(self) -> Array:
        """Expected incident electrons during the dwell; 1 where the current is unknown."""
        return self._spread(self.message.electrons, "<f4")

    @property
    def electrons_outside(self) -> Array:
        """Expected incident electrons outside the dwell."""
        return self._spread(self.message.electrons_outside, "<f4")

    @property
    def flags(self) -> Array:
        """Bits: 1 saturated, 2 unsettled, 4 dark, 8 the beam came on for this dwell."""
        return self._spread(self.message.flags, "u1")

    def _spread(self, data: bytes, kind: str) -> Array:
        values = np.frombuffer(data, kind)
        return np.broadcast_to(values if values.size else np.zeros(1, kind), len(self)) if values.size != len(self) else values

    @property
    def detectors(self) -> list[str]:
        """Detectors in it."""
        return [signal.detector for signal in self.message.signals]

    def signal(self, detector: str = "") -> Array:
        """Values [n, shape…] of a detector (empty: the first): detected events, or ADC counts where its unit says so.

        Where the detector was not read at every position these are the read-outs there were; see `positions_of`."""
        found = self._signal(detector)
        return np.frombuffer(found.values, _TYPES[found.value_type]).reshape(-1, *found.shape)

    def positions_of(self, detector: str = "") -> Array:
        """Index within the chunk of each read-out of a detector."""
        found = self._signal(detector)
        return np.frombuffer(found.position_idx, "<u4") if found.position_idx else np.arange(len(self), dtype="<u4")

    def _signal(self, detector: str) -> v1.SignalArray:
        for signal in self.message.signals:
            if detector in ("", signal.detector):
                return signal
        raise KeyError(f"{detector!r} is not in this chunk: {self.detectors}")


def event_of(answer: v1.StreamSamplesResponse) -> Chunk | Gap | v1.SampleEnd:
    """What a message of the stream holds."""
    kind = answer.WhichOneof("event")
    if kind == "samples":
        return Chunk(answer.samples)
    if kind == "gap":
        gap = answer.gap
        cause = v1.GapCause.Name(gap.cause).removeprefix("GAP_CAUSE_")
        return Gap(gap.first_sequence, gap.n_positions, cause, gap.electrons)
    return answer.end


@dataclass
class Reading:
    """How far a stream of samples has been read, so that after a break it goes on where it was."""

    following: int
    """Sequence number of the next position."""

    tries: int = 0
    """Breaks since the last answer."""

    def take(self, answer: v1.StreamSamplesResponse) -> Chunk | Gap | None:
        """The next event; `None` at the end. Raises where positions came twice or were left out."""
        event = event_of(answer)
        if isinstance(event, v1.SampleEnd):
            return None
        if event.first_sequence != self.following:
            raise errors.Error(f"the stream went from position {self.following} to {event.first_sequence}")
        self.following += event.message.n_positions if isinstance(event, Chunk) else event.n_positions
        self.tries = 0
        return event

    def broken(self) -> bool:
        """Notes a break. True: it has been tried often enough."""
        self.tries += 1
        return self.tries > RESUME_TRIES


@dataclass(frozen=True)
class Samples:
    """All samples of an acquisition in order of position, and what is missing."""

    array: Array
    """Structured: sequence, frame, row, col, row_actual, col_actual, dwell_ns, electrons, electrons_outside, flags, and
    one field per scalar detector (NaN where it was not read)."""
    gaps: list[Gap]

    @classmethod
    def of(cls, events: Iterable[Chunk | Gap]) -> Samples:
        """Gathers a stream."""
        parts, gaps = [], []
        for event in events:
            if isinstance(event, Gap):
                gaps.append(event)
            else:
                parts.append(_structured(event))
        if not parts:
            return cls(np.empty(0, _dtype([])), gaps)
        return cls(np.concatenate(parts), gaps)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, field: str) -> Array:
        return self.array[field]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array)

    def to_pandas(self) -> Any:
        """As a `pandas.DataFrame`, a column per field."""
        pandas = package("pandas", "pandas")
        names = self.array.dtype.names or ()
        return pandas.DataFrame({name: self.array[name] for name in names})


def _dtype(detectors: list[str]) -> np.dtype[Any]:
    fields = [("sequence", "<u8"), ("frame", "<u4"), ("row", "<f4"), ("col", "<f4"), ("row_actual", "<f4")]
    fields += [("col_actual", "<f4"), ("dwell_ns", "<u4"), ("electrons", "<f4"), ("electrons_outside", "<f4")]
    return np.dtype(fields + [("flags", "u1")] + [(name, "<f4") for name in detectors])


def _structured(chunk: Chunk) -> Array:
    scalars = [signal.detector for signal in chunk.message.signals if not signal.shape]
    array = np.empty(len(chunk), _dtype(scalars))
    array["sequence"] = np.arange(chunk.first_sequence, chunk.first_sequence + len(chunk), dtype="<u8")
    array["frame"] = chunk.message.frame
    for name in ("row", "col", "row_actual", "col_actual", "dwell_ns", "electrons", "electrons_outside", "flags"):
        array[name] = getattr(chunk, name)
    for name in scalars:
        array[name] = np.nan
        array[name][chunk.positions_of(name)] = chunk.signal(name)
    return array


def package(module: str, extra: str) -> Any:
    """A package that this client does without until it is asked for."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {error.name or module}: pip install 'beamwright[{extra}]'", name=error.name) from error


def tiles(n_rows: int, n_cols: int) -> list[v1.PixelRect]:
    """Bands of rows of at most 3 MiB each, so that the service sends every pixel of the grid."""
    most = max(1, (3 << 20) // (4 * n_cols))
    return [v1.PixelRect(row=r, col=0, n_rows=min(most, n_rows - r), n_cols=n_cols) for r in range(0, n_rows, most)]


def to_hyperspy(image: Array, acquisition: v1.Acquisition, plane: str, detector: str) -> Any:
    """A `hyperspy` signal of a full image, with axes in nm centred as the field."""
    signal = package("hyperspy.api", "hyperspy").signals.Signal2D(np.array(image))
    axes = [axis for axis in acquisition.axes if axis.kind in (v1.AXIS_KIND_Y, v1.AXIS_KIND_X)]
    for axis, told in zip(signal.axes_manager.signal_axes[::-1], axes):
        axis.name, axis.units, axis.scale, axis.offset = told.name, told.unit, told.scale, told.offset
    signal.metadata.General.title = acquisition.plan.texts.title or acquisition.name
    signal.metadata.set_item("Signal.quantity", f"{plane} {detector}".strip())
    signal.original_metadata.add_dictionary({"beamwright": {"acquisition": acquisition.name, "plane": plane, "detector": detector}})
    return signal
