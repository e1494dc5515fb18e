"""What is asked for: a scan plan, with units.

    bw.Plan(fraction=0.1, dwell=20 * bw.us, stop=[bw.until_resolution(0.09 * bw.nm), bw.until_dose(500 * bw.e_per_A2)])

What is left out takes the default of the service. Ranges are the service's business: it refuses by field, value and
allowed range, which arrive as [`InvalidField`][beamwright.InvalidField].
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from beamwright import v1
from beamwright.units import Quantity, in_base


class Pattern(enum.Enum):
    """Where the beam goes: a static pattern, or a policy."""

    RASTER = "raster"
    SERPENTINE = "serpentine"
    INTERLEAVED = "interleaved"
    RANDOM = "random"
    JITTERED = "jittered"
    POISSON_DISC = "poisson_disc"
    LINE_HOP = "line_hop"
    SPIRAL = "spiral"
    LIST = "list"
    ADAPTIVE = "adaptive"
    UNCERTAINTY = "uncertainty"
    EDGES = "edges"
    REVISIT = "revisit"
    WEIGHTED = "weighted"
    EXTERNAL = "external"


class Order(enum.Enum):
    """In which order a static pattern is visited."""

    DEFAULT = "default"
    AS_GIVEN = "as_given"
    BANDS = "bands"
    INTERLEAVED_BANDS = "interleaved_bands"
    SHORT_TOUR = "short_tour"
    STROKES = "strokes"


class Estimator(enum.Enum):
    """How the estimate is made."""

    AUTO = "auto"
    NEAREST = "nearest"
    NATURAL = "natural"
    KERNEL = "kernel"
    KRIGING = "kriging"
    GMM = "gmm"
    GP = "gp"
    BPFA = "bpfa"


@dataclass(frozen=True)
class Positions:
    """Places of the beam, in pixels of the scanned grid; fractions of a pixel are allowed. Arrays of equal length."""

    row: ArrayLike
    """Row, px, −0.5 to n_rows − 0.5."""
    col: ArrayLike
    """Column, px, −0.5 to n_cols − 0.5."""
    dwell_ns: ArrayLike | None = None
    """Dwell of each, ns; 0 stands for the plan's. `None`: the plan's everywhere."""

    def message(self) -> v1.PositionArray:
        """As the API carries it."""
        row, col = (np.ascontiguousarray(a, "<f4").ravel() for a in (self.row, self.col))
        dwell = b"" if self.dwell_ns is None else np.ascontiguousarray(self.dwell_ns, "<u4").tobytes()
        return v1.PositionArray(row_px=row.tobytes(), col_px=col.tobytes(), dwell_ns=dwell)


@dataclass(frozen=True)
class Pixels:
    """A rectangle of pixels; with `of`, of an earlier acquisition, whose field then replaces the plan's."""

    row: int
    col: int
    n_rows: int
    n_cols: int
    of: str = ""
    """Name of the earlier acquisition, `acquisitions/{id}`."""

    def message(self) -> v1.PixelRect:
        """As the API carries it."""
        return v1.PixelRect(row=self.row, col=self.col, n_rows=self.n_rows, n_cols=self.n_cols)


@dataclass(frozen=True)
class Rectangle:
    """A rectangle in field coordinates: x to the right, y down, origin at the optical axis."""

    x0: Quantity
    y0: Quantity
    x1: Quantity
    y1: Quantity


@dataclass(frozen=True)
class Limits:
    """Dose limits; all that are given hold, and are tested before a position is started."""

    total: Quantity | None = None
    """Electrons over the whole acquisition."""
    mean_dose: Quantity | None = None
    """Mean dose over the field, everything unblanked included."""
    area: tuple[Quantity, Quantity] | None = None
    """Largest mean dose in any disc, and the radius of the disc."""
    position: Quantity | None = None
    """Electrons at one pixel, all visits added."""
    dose_rate: Quantity | None = None
    """Mean dose rate over the field; views need this or another limit."""

    def message(self) -> v1.DoseLimits:
        """As the API carries it."""
        limits = v1.DoseLimits()
        if self.total is not None:
            limits.total_electrons = in_base("limits.total", self.total, "electrons")
        if self.mean_dose is not None:
            limits.mean_dose_e_per_a2 = in_base("limits.mean_dose", self.mean_dose, "dose")
        if self.area is not None:
            limits.area.dose_e_per_a2 = in_base("limits.area", self.area[0], "dose")
            limits.area.radius_nm = in_base("limits.area", self.area[1], "length")
        if self.position is not None:
            limits.position_electrons = in_base("limits.position", self.position, "electrons")
        if self.dose_rate is not None:
            limits.dose_rate_e_per_a2_s = in_base("limits.dose_rate", self.dose_rate, "dose rate")
        return limits


def until_positions(n: int) -> v1.StopRule:
    """Ends after so many exposures."""
    return v1.StopRule(positions=n)


def until_time(time: Quantity) -> v1.StopRule:
    """Ends after so much scan time on the controller's clock."""
    return v1.StopRule(time_ns=round(in_base("stop.time", time, "time")))


def until_dose(dose: Quantity) -> v1.StopRule:
    """Ends at this mean dose over the field, everything unblanked included."""
    return v1.StopRule(dose_e_per_a2=in_base("stop.dose", dose, "dose"))


def until_resolution(spacing: Quantity) -> v1.StopRule:
    """Ends when the estimate resolves this spacing."""
    return v1.StopRule(resolution_nm=in_base("stop.resolution", spacing, "length"))


def until_precision(relative: float, region: Pixels | None = None, detector: str = "") -> v1.StopRule:
    """Ends when uncertainty ÷ mean amplitude is below `relative`, in `region` (`None`: everywhere)."""
    rule = v1.PrecisionRule(relative=relative, detector=detector)
    if region is not None:
        rule.region.CopyFrom(region.message())
    return v1.StopRule(precision=rule)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A complete scan plan. What is `None` takes the default of the service."""

    pattern: Pattern = Pattern.JITTERED
    fraction: float | None = None
    """Exposures ÷ pixels of one frame, above 0 to 1."""
    dwell: Quantity | None = None
    """Exposure of a position, as a time. Give one of `dwell`, `electrons_per_position`, `dose`."""
    electrons_per_position: Quantity | None = None
    """Exposure of a position, as expected incident electrons."""
    dose: Quantity | None = None
    """Mean dose over the whole field, everything unblanked included; sets the dwell."""
    pixels: int | tuple[int, int] | None = None
    """Grid: a side, or (rows, columns)."""
    field_of_view: Quantity | None = None
    """Width of the field."""
    centre: tuple[Quantity, Quantity] | None = None
    """Centre of the field, x and y."""
    rotation: Quantity | None = None
    """Scan rotation; positive turns +x towards +y."""
    region: Pixels | Rectangle | None = None
    """The part of the field that is scanned."""
    detectors: Sequence[str] = ()
    frames: int | None = None
    average_frames: bool = False
    order: Order | None = None
    positions: Positions | str | None = None
    """For `Pattern.LIST`: the places, or the name of an upload."""
    weights: ArrayLike | str | None = None
    """For `Pattern.WEIGHTED`: [row, column] ≥ 0, or the name of an upload."""
    fallback: Pattern | None = None
    """For `Pattern.EXTERNAL`: fills what no answer reached in time; a static pattern."""
    limits: Limits = field(default_factory=Limits)
    stop: Sequence[v1.StopRule] = ()
    estimator: Estimator | None = None
    model_from: str = ""
    """What an earlier acquisition has learned, tried as a start: its name, or that of an upload. A held-out test decides;
    `told().result.model_use.detectors` names the detectors that used it."""
    refinement: Quantity | None = None
    """CPU time spent on the estimate after the last sample."""
    lead: Quantity | None = None
    """Work held by the controller: long is never idle, short is adaptive."""
    batch: int | None = None
    """Positions per decision, 64 to 4096."""
    wait_when_late: bool = False
    """Whether a late decision makes the beam wait, blanked; else the fallback goes on."""
    steering_identity: str = ""
    """Who besides the holder of the lease may steer."""
    detached: Quantity | None = None
    """Goes on without its client for at most so long, within `limits` that must bound the whole dose (total or mean)."""
    resume_after_trip: int | None = None
    """How often a minute it goes on by itself after the watchdog tripped, 1 to 3, where the service allows it."""
    seed: int | None = None
    title: str = ""
    operator: str = ""
    specimen: str = ""
    notes: str = ""
    kind: v1.PlanKind = v1.PLAN_KIND_ACQUIRE

    def message(self) -> v1.Plan:
        """As the API carries it. Refuses bare numbers where a unit is needed."""
        plan = v1.Plan(
            kind=self.kind,
            fraction=self.fraction,
            n_frames=self.frames,
            average_frames=self.average_frames,
            detectors=[v1.DetectorSelection(name=name) for name in self.detectors],
            stop_rules=self.stop,
            seed=self.seed,
            texts=v1.Texts(title=self.title, operator=self.operator, specimen=self.specimen, notes=self.notes),
        )
        self._put_field(plan)
        self._put_pattern(plan)
        self._put_exposure(plan)
        if self.limits != Limits():
            plan.limits.CopyFrom(self.limits.message())
        if self.order is not None:
            plan.order.kind = getattr(v1, f"ORDER_KIND_{self.order.name}")
        if self.estimator is not None:
            plan.estimation.estimator = getattr(v1, f"ESTIMATOR_KIND_{self.estimator.name}")
        if self.model_from:
            plan.estimation.model_from = self.model_from
        if self.refinement is not None:
            plan.estimation.final_refinement_ms = round(in_base("refinement", self.refinement, "time") / 1e6)
        if self.lead is not None:
            plan.decisions.lead_us = round(in_base("lead", self.lead, "time") / 1e3)
        if self.batch is not None:
            plan.decisions.batch_positions = self.batch
        if self.wait_when_late:
            plan.decisions.when_late = v1.WHEN_LATE_WAIT
        if self.steering_identity:
            plan.decisions.steering_identity = self.steering_identity
        if self.detached is not None:
            plan.detached.duration_s = round(in_base("detached", self.detached, "time") / 1e9)
        if self.resume_after_trip is not None:
            plan.resume_after_trip.per_minute = self.resume_after_trip
        return plan

    def _put_field(self, plan: v1.Plan) -> None:
        if self.pixels is not None:
            rows, cols = (self.pixels, self.pixels) if isinstance(self.pixels, int) else self.pixels
            plan.field.grid.CopyFrom(v1.Grid(n_rows=rows, n_cols=cols))
        if self.field_of_view is not None:
            plan.field.fov_nm = in_base("field_of_view", self.field_of_view, "length")
        if self.centre is not None:
            plan.field.centre_x_nm, plan.field.centre_y_nm = (in_base("centre", c, "length") for c in self.centre)
        if self.rotation is not None:
            plan.field.rotation_rad = in_base("rotation", self.rotation, "angle")
        if isinstance(self.region, Pixels) and self.region.of:
            plan.region.parent.acquisition = self.region.of
            plan.region.parent.pixels.CopyFrom(self.region.message())
            if plan.field.HasField("grid"):
                plan.region.parent.grid.CopyFrom(plan.field.grid)
                plan.ClearField("field")
        elif isinstance(self.region, Pixels):
            plan.region.pixels.CopyFrom(self.region.message())
        elif self.region is not None:
            edges = {name: in_base(f"region.{name}", getattr(self.region, name), "length") for name in ("x0", "y0", "x1", "y1")}
            plan.region.field.CopyFrom(v1.FieldRect(**{f"{name}_nm": value for name, value in edges.items()}))

    def _put_pattern(self, plan: v1.Plan) -> None:
        plan.pattern.kind = getattr(v1, f"PATTERN_KIND_{self.pattern.name}")
        if isinstance(self.positions, str):
            plan.pattern.positions_upload = self.positions
        elif self.positions is not None:
            plan.pattern.positions.CopyFrom(self.positions.message())
        if isinstance(self.weights, str):
            plan.pattern.weights_upload = self.weights
        elif self.weights is not None:
            plan.pattern.weights_f32 = np.ascontiguousarray(self.weights, "<f4").tobytes()
        if self.fallback is not None:
            plan.pattern.fallback = getattr(v1, f"PATTERN_KIND_{self.fallback.name}")

    def _put_exposure(self, plan: v1.Plan) -> None:
        given = [name for name in ("dwell", "electrons_per_position", "dose") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; the exposure of a position is stated by one of them")
        if self.dwell is not None:
            dwell_ns = in_base("dwell", self.dwell, "time")
            # The API's dwell is a whole number ≥ 0; what is below is told to the service as 0, which it refuses by name.
            plan.exposure.dwell_ns = max(0, round(dwell_ns))
        if self.electrons_per_position is not None:
            plan.exposure.electrons_per_position = in_base("electrons_per_position", self.electrons_per_position, "electrons")
        if self.dose is not None:
            plan.exposure.dose_e_per_a2 = in_base("dose", self.dose, "dose")
