"""External policies: a function that says where the beam goes next.

    @bw.policy(planes=["uncertainty"])
    def least_certain(offer):
        if offer.uncertainty is None:                   # the beginning: nothing has been seen
            return offer.random()
        return offer.choose(offer.uncertainty ** 2)     # the more, the likelier

    with bw.control() as control:
        print(least_certain.run(control, bw.Plan(fraction=0.1)))

An offer has a deadline. A late answer costs time, never dose: the plan's fallback fills the slot, or the beam waits
blanked. The report says how many answers were in time, and how much time was left.
"""

from __future__ import annotations

import dataclasses
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import ArrayLike

from beamwright import arrays, errors, v1
from beamwright.arrays import Array, Frame
from beamwright.client import Acquisition, Control
from beamwright.plan import Pattern, Plan, Positions

Decision = Positions | ArrayLike | None


@dataclass(frozen=True)
class Offer:
    """What the service wants: at most `n` positions before the deadline."""

    message: v1.SteerOffer
    shape: tuple[int, int]
    """Rows and columns of the scanned grid."""
    frame: Frame | None
    """The newest estimate, of `message.revision`. `None`: there is none yet."""
    rng: np.random.Generator
    received: float

    @property
    def n(self) -> int:
        """Most positions accepted."""
        return self.message.max_positions

    @property
    def remaining_s(self) -> float:
        """Time left for the answer, s."""
        return self.message.deadline_us * 1e-6 - (time.monotonic() - self.received)

    def plane(self, name: str, detector: str = "") -> Array | None:
        """A plane of the newest estimate, [row, column]."""
        return self.frame.plane(name, detector) if self.frame else None

    @property
    def estimate(self) -> Array | None:
        """Mean of the first detector. `None`: not yet."""
        return self.plane("estimate")

    @property
    def uncertainty(self) -> Array | None:
        """Uncertainty of the first detector. `None`: not yet, or not asked for."""
        return self.plane("uncertainty")

    def places(self, pixels: ArrayLike) -> Positions:
        """Positions at the middle of flat indices into a plane of this offer."""
        scale = self.frame.scale if self.frame else 1
        n_cols = -(-self.shape[1] // scale)
        row, col = np.divmod(np.asarray(pixels, "i8").ravel(), n_cols)
        middle = (scale - 1) / 2
        return Positions(np.minimum(row * scale + middle, self.shape[0] - 1), np.minimum(col * scale + middle, self.shape[1] - 1))

    def choose(self, weight: ArrayLike) -> Positions:
        """Distinct pixels of a plane of this offer, at most `n`, drawn with a probability in proportion to `weight`
        [row, column]. An infinite weight goes before any other; negative ones and NaN are never drawn."""
        flat = np.asarray(weight, "f8").ravel()
        infinite = np.isposinf(flat)
        flat = infinite.astype("f8") if infinite.any() else np.where(flat > 0, flat, 0.0)
        drawable = int(np.count_nonzero(flat))
        if drawable == 0:
            return self.random()
        return self.places(self.rng.choice(flat.size, min(self.n, drawable), replace=False, p=flat / flat.sum()))

    def random(self) -> Positions:
        """So many random distinct pixels as are wanted."""
        size = self.shape[0] * self.shape[1]
        row, col = np.divmod(self.rng.choice(size, min(self.n, size), replace=False), self.shape[1])
        return Positions(row, col)


@dataclass
class Report:
    """How a policy did."""

    acquisition: Acquisition
    offers: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Answers by what became of them: `ACCEPTED`, `LATE`, `INVALID`…"""
    decision_us: list[float] = field(default_factory=list)
    """Time the policy itself took, µs."""
    round_trip_us: list[float] = field(default_factory=list)
    """From the service sending the offer to its having the answer, µs, by its clock."""
    slack_us: list[float] = field(default_factory=list)
    """Time that was left, µs; negative: late."""
    end: str = ""
    """Why the offers ended."""

    def __str__(self) -> str:
        def quantiles(values: list[float]) -> str:
            if not values:
                return "–"
            return "p50 {:.2f} ms, p99 {:.2f} ms".format(*(np.percentile(values, (50, 99)) * 1e-3))

        became = ", ".join(f"{n} {name.lower()}" for name, n in self.outcomes.most_common())
        least = f"{min(self.slack_us) * 1e-3:.2f} ms" if self.slack_us else "–"
        return (
            f"{self.offers} offers: {became or 'none answered'}; policy {quantiles(self.decision_us)};"
            f" round trip {quantiles(self.round_trip_us)}; least time left {least}; {self.end}"
        )


class Policy:
    """A function from an offer to positions, and how it is run."""

    def __init__(self, decide: Callable[[Offer], Decision], planes: Iterable[str], detectors: Iterable[str], max_side: int, seed: int) -> None:
        self.decide = decide
        self.planes = tuple(planes)
        self.detectors = tuple(detectors)
        self.max_side = max_side
        self.seed = seed
        self.__doc__ = decide.__doc__
        self.__name__ = getattr(decide, "__name__", "policy")

    def __call__(self, offer: Offer) -> Decision:
        return self.decide(offer)

    def run(self, control: Control, plan: Plan | None = None) -> Report:
        """Makes an acquisition that this policy steers, runs it to its end, reports. An exception of the policy aborts it."""
        plan = dataclasses.replace(plan or Plan(), pattern=Pattern.EXTERNAL)
        return self.steer(control.create(plan))

    def steer(self, acquisition: Acquisition) -> Report:
        """Steers an acquisition with the pattern `EXTERNAL` that has not ended, and starts it."""
        report = Report(acquisition)
        try:
            self._answer_all(acquisition, report)
        except BaseException:
            try:
                acquisition.abort(f"the policy {self.__name__} failed")
            except errors.Error:
                pass  # it has ended already, or the lease is gone and the beam blanked
            raise
        acquisition.wait()
        return report

    def _answer_all(self, acquisition: Acquisition, report: Report) -> None:
        microscope, rng = acquisition.microscope, np.random.default_rng(self.seed)
        # One offer is open at a time, so one answer waits at most.
        outbox: queue.Queue[v1.SteerRequest | None] = queue.Queue(maxsize=2)
        options = arrays.options_of(self.detectors, self.planes, 60.0, None, 0, self.max_side) if self.planes else None
        token = acquisition.control.token if acquisition.control else None
        opening = v1.SteerOpen(acquisition=acquisition.name, lease=token, want_estimate=options)
        outbox.put(v1.SteerRequest(open=opening))
        answers = microscope.steering.Steer(_until_none(outbox), metadata=microscope.target.metadata)
        shape = (0, 0)
        try:
            for answer in answers:
                kind = answer.WhichOneof("message")
                if kind == "opened":
                    shape = (answer.opened.n_rows, answer.opened.n_cols)
                    acquisition.start()
                elif kind == "offer":
                    offer = answer.offer
                    frame = Frame.of(offer.estimate) if offer.HasField("estimate") else None
                    report.offers += 1
                    outbox.put(self._answer(Offer(offer, shape, frame, rng, time.monotonic()), acquisition, report))
                elif kind == "verdict":
                    _note(answer.verdict, report)
                elif kind == "end":
                    report.end = answer.end.reason
                    return
        except grpc.RpcError as error:
            raise errors.of_rpc(error, microscope.target.address) from None
        finally:
            outbox.put(None)
            answers.cancel()

    def _answer(self, offer: Offer, acquisition: Acquisition, report: Report) -> v1.SteerRequest:
        began = time.perf_counter()
        decision = self.decide(offer)
        report.decision_us.append((time.perf_counter() - began) * 1e6)
        if decision is not None and not isinstance(decision, Positions):
            table = np.asarray(decision, "f4")
            if table.ndim != 2 or table.shape[1] != 2:
                raise ValueError(f"{self.__name__} answered an array of shape {table.shape} (allowed: [n, 2], row and column in px)")
            decision = Positions(table[:, 0], table[:, 1])
        return v1.SteerRequest(
            decision=v1.SteerDecision(
                acquisition=acquisition.name,
                batch_id=offer.message.batch_id,
                revision=offer.message.revision,
                lease_epoch=offer.message.lease_epoch,
                positions=decision.message() if decision is not None else None,
                finish=decision is None,
            )
        )


def _until_none(box: queue.Queue[Any]) -> Iterator[Any]:
    while (item := box.get()) is not None:
        yield item


def _note(verdict: v1.SteerVerdict, report: Report) -> None:
    outcome = v1.SteerOutcome.Name(verdict.outcome).removeprefix("STEER_OUTCOME_")
    report.outcomes[outcome] += 1
    report.round_trip_us.append(verdict.round_trip_us)
    report.slack_us.append(verdict.slack_us)
    if outcome == "INVALID":
        told = {"field": verdict.field, "value": verdict.value, "allowed": verdict.allowed}
        raise errors.InvalidField(f"{verdict.field}: {verdict.value} is not allowed (allowed: {verdict.allowed})", "INVALID_FIELD", told)


def policy(
    decide: Callable[[Offer], Decision] | None = None, *, planes: Iterable[str] = ("estimate",), detectors: Iterable[str] = (),
    max_side: int = 256, seed: int = 0,
) -> Any:
    """Makes a function from an [`Offer`][beamwright.Offer] to positions a [`Policy`][beamwright.Policy].

    The function returns [`Positions`][beamwright.Positions] or an array [n, 2] of row and column in px, at most `offer.n`;
    `None` ends the acquisition. `planes` are those of the estimate that it wants to see, at most `max_side` px wide."""

    def wrap(function: Callable[[Offer], Decision]) -> Policy:
        return Policy(function, planes, detectors, max_side, seed)

    return wrap(decide) if decide is not None else wrap
