"""States of an acquisition, and what its end means."""

from __future__ import annotations

import dataclasses
import enum
from typing import TypeVar

from beamwright import errors, v1
from beamwright.plan import Plan

T = TypeVar("T")


class State(enum.IntEnum):
    """Where an acquisition is."""

    CREATED = v1.ACQUISITION_STATE_CREATED
    ARMING = v1.ACQUISITION_STATE_ARMING
    RUNNING = v1.ACQUISITION_STATE_RUNNING
    PAUSING = v1.ACQUISITION_STATE_PAUSING
    PAUSED = v1.ACQUISITION_STATE_PAUSED
    TRIPPED = v1.ACQUISITION_STATE_TRIPPED
    FINISHING = v1.ACQUISITION_STATE_FINISHING
    FINISHED = v1.ACQUISITION_STATE_FINISHED
    ABORTED = v1.ACQUISITION_STATE_ABORTED
    FAILED = v1.ACQUISITION_STATE_FAILED
    INTERRUPTED = v1.ACQUISITION_STATE_INTERRUPTED

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self >= State.FINISHED


def ended_well(told: v1.Acquisition) -> v1.Acquisition:
    """The acquisition where it is complete; the error that says why not, else. Cancelled is not finished."""
    state, result = State(told.state), told.result
    about = f"{told.name}: {result.text or state.name.lower()}"
    if state is State.TRIPPED:
        raise errors.Tripped(f"{told.name}: {told.trip.text}", "TRIPPED", {"cause_id": str(told.trip.cause_id)})
    if result.reason == v1.END_REASON_LEASE_LOST:
        raise errors.LeaseLost(about)
    if state in (State.ABORTED, State.INTERRUPTED):
        raise errors.Aborted(about)
    if state is State.FAILED:
        raise errors.Failed(about)
    return told


def view_plan(plan: Plan) -> Plan:
    """The plan of endless frames."""
    return dataclasses.replace(plan, kind=v1.PLAN_KIND_VIEW)


def require(value: T | None, name: str) -> T:
    """`value`, which the service has promised."""
    if value is None:
        raise errors.NotFound(f"the service sent no {name}")
    return value
