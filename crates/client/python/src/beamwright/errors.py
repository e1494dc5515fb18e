"""What can go wrong, one class per thing a caller can do differently.

Every refusal of the service arrives as a subclass of [`Error`]. A refused call has changed nothing and has not
unblanked the beam; [`BlankUnconfirmed`] is the only one with which the beam may be on.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2, status_pb2


class Error(Exception):
    """A refused call, or a service that cannot be reached."""

    def __init__(self, message: str, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        """Name of the `ErrorReason` of the API without its prefix, such as `INVALID_FIELD`; empty where there is none."""
        self.metadata = dict(metadata or {})
        """What else the reason states."""


class Unreachable(Error):
    """No service answers there, or the connection broke; start it, or look at the address."""


class VersionMismatch(Error):
    """Client and service do not fit; the message says which one to update."""


class _RefusedValue(Error):
    @property
    def field(self) -> str:
        """Path of the field in the request, such as `plan.fraction`."""
        return self.metadata.get("field", "")

    @property
    def value(self) -> str:
        """The value that was refused."""
        return self.metadata.get("value", "")

    @property
    def allowed(self) -> str:
        """What would have been accepted, with its unit."""
        return self.metadata.get("allowed", "")


class InvalidField(_RefusedValue):
    """A value is outside its range; correct `field`."""


class LimitExceeded(_RefusedValue):
    """Predicted dose, time, memory or storage is beyond a limit; ask for less."""


class ColumnUnknown(_RefusedValue):
    """The plan needs a value that nobody has stated: pixel size or probe current; state it."""


class NotFound(Error):
    """No such acquisition, calibration, upload or detector."""


class LeaseRequired(Error):
    """The call needs the control lease; use `with microscope.control(...)`."""


class LeaseLost(Error):
    """The lease has expired or was taken over: the beam is blanked; take control again, then resume or abort."""


class LeaseHeld(Error):
    """Someone else has control; wait, or ask for it with `take_over`."""

    @property
    def holder(self) -> str:
        """Who."""
        return self.metadata.get("holder", "")

    @property
    def remaining_ms(self) -> int:
        """Until it ends without a heartbeat, ms."""
        return int(self.metadata.get("remaining_ms", 0))


class TakeoverDeclined(Error):
    """The holder declined to give control."""


class WrongState(Error):
    """The acquisition's state does not allow the call."""

    @property
    def state(self) -> str:
        """The state it is in."""
        return self.metadata.get("state", "")


class InstrumentBusy(Error):
    """Another acquisition has the instrument; wait for it or abort it."""


class Tripped(Error):
    """The controller has blanked and latched; remove the cause, `clear_trip()`, then resume or abort."""

    @property
    def cause_id(self) -> int:
        """Number of the cause."""
        return int(self.metadata.get("cause_id", 0))


class BlankUnconfirmed(Error):
    """The controller has not acknowledged the blank: the beam may be on. Look at the microscope."""


class LinkDown(Error):
    """The link to the scan controller is down; the controller blanks by its own watchdog."""


class Overloaded(Error):
    """A bound of the service is reached; try again later."""


class Storage(Error):
    """The disk is full or refuses writes."""


class Unsupported(Error):
    """This version of the service, this controller or this detector cannot do it."""


class Denied(Error):
    """The caller is not known, or its role does not allow the call."""


class Aborted(Error):
    """The acquisition ended before it was complete; what was recorded is kept."""


class Failed(Error):
    """A fault of service or storage ended the acquisition; what was recorded is kept as far as the message states."""


_BY_REASON: dict[str, type[Error]] = {
    "INVALID_FIELD": InvalidField,
    "LIMIT_EXCEEDED": LimitExceeded,
    "COLUMN_UNKNOWN": ColumnUnknown,
    "NOT_FOUND": NotFound,
    "LEASE_REQUIRED": LeaseRequired,
    "LEASE_STALE": LeaseLost,
    "LEASE_HELD": LeaseHeld,
    "TAKEOVER_DECLINED": TakeoverDeclined,
    "WRONG_STATE": WrongState,
    "INSTRUMENT_BUSY": InstrumentBusy,
    "TRIPPED": Tripped,
    "TRIP_CAUSE_STALE": Tripped,
    "BLANK_UNCONFIRMED": BlankUnconfirmed,
    "LINK_DOWN": LinkDown,
    "OVERLOADED": Overloaded,
    "STORAGE": Storage,
    "UNSUPPORTED": Unsupported,
    "UNAUTHENTICATED": Denied,
    "ROLE_REQUIRED": Denied,
    "SHUTTING_DOWN": Unreachable,
}


def of_rpc(error: grpc.RpcError, server: str) -> Error:
    """The typed error in a failed call."""
    code, text = error.code(), error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == "beamwright":
                return _BY_REASON.get(info.reason, Error)(text, info.reason, info.metadata)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Unreachable(f"{server} does not answer: {text}")
    return Error(f"{server} refused: {code.name}: {text}")
