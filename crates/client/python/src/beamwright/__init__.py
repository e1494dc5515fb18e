"""Client of Beamwright, the scan-control daemon for electron microscopes.

    import beamwright as bw

    with bw.control() as control:                                   # 127.0.0.1:7410
        acquisition = control.acquire(bw.Plan(fraction=0.1, dwell=20 * bw.us))
        acquisition.wait()
        picture = acquisition.image()                               # numpy, [row, column]

`beamwright.aio` is the same for asyncio; `beamwright.v1` holds the messages of the API.
"""

from beamwright import aio, v1
from beamwright.arrays import Chunk, Frame, Gap, Samples
from beamwright.client import Acquisition, Control, Microscope, connect, control
from beamwright.connection import DEFAULT_TARGET, Tls
from beamwright.errors import (
    Aborted,
    BlankUnconfirmed,
    ColumnUnknown,
    Denied,
    Error,
    Failed,
    InstrumentBusy,
    InvalidField,
    LeaseHeld,
    LeaseLost,
    LeaseRequired,
    LimitExceeded,
    LinkDown,
    NotFound,
    Overloaded,
    Storage,
    TakeoverDeclined,
    Tripped,
    Unreachable,
    Unsupported,
    VersionMismatch,
    WrongState,
)
from beamwright.plan import (
    Estimator,
    Limits,
    Order,
    Pattern,
    Pixels,
    Plan,
    Positions,
    Rectangle,
    until_dose,
    until_positions,
    until_precision,
    until_resolution,
    until_time,
)
from beamwright.steering import Offer, Policy, Report, policy
from beamwright.states import State
from beamwright.units import (
    Quantity,
    angstrom,
    deg,
    e_per_A2,
    e_per_A2_s,
    electrons,
    kV,
    ms,
    nA,
    nm,
    ns,
    pA,
    pm,
    rad,
    s,
    um,
    us,
)

__version__ = "0.1.0"

__all__ = [name for name in dir() if not name.startswith("_")]
