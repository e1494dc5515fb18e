"""Every call of the API once, with its messages alone: what a plug-in in any language does, in the order in which it does it.

Units, ranges, roles and errors of each stand in `proto/beamwright/v1`. Whoever writes Python has all of it with less to say from
`bw.control()`; only the messages (`beamwright.v1`) are used here, as they are the same everywhere.
"""

# %% Connect: any gRPC client, no TLS on the machine itself.
import os
import threading

import grpc
import numpy as np
from beamwright import v1

channel = grpc.insecure_channel(os.environ.get("BEAMWRIGHT_SERVER", "127.0.0.1:7410"))
instrument = v1.InstrumentServiceStub(channel)
control = v1.ControlServiceStub(channel)
acquisitions = v1.AcquisitionServiceStub(channel)
previews = v1.PreviewServiceStub(channel)
samples = v1.SampleServiceStub(channel)
steering = v1.SteeringServiceStub(channel)
monitor = v1.MonitorServiceStub(channel)

# %% What it is. None of this needs control.
info = instrument.GetServerInfo(v1.GetServerInfoRequest())
assert info.api_package == "beamwright.v1"
capabilities = instrument.GetCapabilities(v1.GetCapabilitiesRequest()).capabilities
detectors = instrument.ListDetectors(v1.ListDetectorsRequest()).detectors
column = instrument.GetColumn(v1.GetColumnRequest()).column
in_force = instrument.ListCalibrations(v1.ListCalibrationsRequest(active_only=True)).calibrations
calibration = instrument.GetCalibration(v1.GetCalibrationRequest(name=in_force[0].name)).calibration
status = instrument.GetStatus(v1.GetStatusRequest()).status
print(f"{info.server_name} {info.version}: {', '.join(d.name for d in detectors)}; {column.probe_current_pa} pA; {calibration.method}")

watching = instrument.WatchStatus(v1.WatchStatusRequest(max_rate_hz=10))
print(f"beam: {v1.BeamState.Name(next(watching).status.beam)}")
watching.cancel()

# %% What a plan would cost; a value out of range is refused by name, and nothing moves.
plan = v1.Plan(fraction=0.25, field=v1.ScanField(grid=v1.Grid(n_rows=128, n_cols=128)), exposure=v1.Exposure(dwell_ns=20_000))
cost = acquisitions.CreateAcquisition(v1.CreateAcquisitionRequest(plan=plan, validate_only=True)).acquisition.prediction
print(f"{cost.n_positions} positions, {cost.scan_time_ns * 1e-9:.2f} s, {cost.dose_e_per_a2:.0f} e/Å²")
try:
    acquisitions.CreateAcquisition(v1.CreateAcquisitionRequest(plan=v1.Plan(fraction=1.5), validate_only=True))
except grpc.RpcError as refused:
    print(f"{refused.code().name}: {refused.details()}")

# %% Control, and a thread that keeps it. Who stops to renew is gone, and the beam is blanked.
lease = control.AcquireLease(v1.AcquireLeaseRequest(ttl_ms=2000, holder="every call")).lease
control.RenewLease(v1.RenewLeaseRequest(lease=lease))
released = threading.Event()


def beats():
    yield v1.HeartbeatRequest(lease=lease)
    while not released.wait(0.4):
        yield v1.HeartbeatRequest(lease=lease)


def keep():
    for _ in control.Heartbeat(beats()):
        pass


threading.Thread(target=keep, daemon=True).start()
print(f"held by {control.GetLease(v1.GetLeaseRequest()).lease.holder}")

# %% The column is read, or stated by the operator; a trip that somebody has left is cleared by the id of its cause.
stated = v1.Column(probe_current_pa=column.probe_current_pa, probe_current_source=column.probe_current_source)
instrument.UpdateColumn(v1.UpdateColumnRequest(lease=lease, column=stated))
if status.HasField("trip"):
    instrument.ClearTrip(v1.ClearTripRequest(lease=lease, cause_id=status.trip.cause_id))

# %% An acquisition is made, started, paused and resumed. Positions that are too many for a plan are uploaded before.
grid = np.stack(np.meshgrid(np.arange(0, 128, 2), np.arange(0, 128, 2), indexing="ij")).reshape(2, -1).astype("<f4")
part = v1.UploadArrayRequest(lease=lease, positions=v1.PositionArray(row_px=grid[0].tobytes(), col_px=grid[1].tobytes()))
upload = acquisitions.UploadArray(iter([part])).name
listed = v1.Plan(pattern=v1.Pattern(kind=v1.PATTERN_KIND_LIST, positions_upload=upload), field=plan.field, exposure=v1.Exposure(dwell_ns=200_000))
name = acquisitions.CreateAcquisition(v1.CreateAcquisitionRequest(lease=lease, plan=listed)).acquisition.name
acquisitions.StartAcquisition(v1.StartAcquisitionRequest(lease=lease, name=name))
acquisitions.PauseAcquisition(v1.PauseAcquisitionRequest(lease=lease, name=name))
for answer in acquisitions.WatchAcquisition(v1.WatchAcquisitionRequest(name=name)):
    if answer.acquisition.state == v1.ACQUISITION_STATE_PAUSED:
        break
acquisitions.ResumeAcquisition(v1.ResumeAcquisitionRequest(lease=lease, name=name))

# %% Meanwhile: pictures, newest wins; one stream of everything for a panel; every sample, in order.
for answer in previews.StreamPreviews(v1.StreamPreviewsRequest(name=name, options=v1.PreviewOptions(planes=[v1.PLANE_ESTIMATE]))):
    plane = answer.frame.planes[0]
    picture = np.frombuffer(plane.data, "<f4").reshape(plane.n_rows, plane.n_cols)
print(f"picture of {picture.shape}, mean {picture.mean():.4f} {plane.unit}")
watching = monitor.Monitor(v1.MonitorRequest(acquisition=name))
print(f"first of the panel: {next(watching).WhichOneof('event')}")
watching.cancel()
n = 0
for answer in samples.StreamSamples(v1.StreamSamplesRequest(name=name)):
    if answer.WhichOneof("event") == "samples":
        n += answer.samples.n_positions
frame = previews.GetPreview(v1.GetPreviewRequest(name=name)).frame
told = acquisitions.GetAcquisition(v1.GetAcquisitionRequest(name=name)).acquisition
print(f"{n} samples of {told.progress.n_planned}, revision {frame.revision}; {told.result.text}")
try:
    rect = v1.PixelRect(row=10, col=10, n_rows=4, n_cols=4)
    samples.GetSignal(v1.GetSignalRequest(name=name, detector=detectors[0].name, rect=rect))
except grpc.RpcError as refused:
    print(f"of a scalar detector there are no spectra: {refused.code().name}")
assert name in [a.name for a in acquisitions.ListAcquisitions(v1.ListAcquisitionsRequest(page_size=10)).acquisitions]

# %% A client says where the beam goes next: it opens, and answers each offer before its deadline.
external = v1.Plan(pattern=v1.Pattern(kind=v1.PATTERN_KIND_EXTERNAL), fraction=0.02, field=plan.field, exposure=plan.exposure)
name = acquisitions.CreateAcquisition(v1.CreateAcquisitionRequest(lease=lease, plan=external)).acquisition.name
decisions = [v1.SteerRequest(open=v1.SteerOpen(acquisition=name, lease=lease))]
wanted = threading.Semaphore(1)


def says():
    while True:
        wanted.acquire()
        if not decisions:
            return
        yield decisions.pop()


rng = np.random.default_rng(1)
for answer in steering.Steer(says()):
    kind = answer.WhichOneof("message")
    if kind == "opened":
        acquisitions.StartAcquisition(v1.StartAcquisitionRequest(lease=lease, name=name))
    elif kind == "offer":
        offer = answer.offer
        row, col = rng.integers(0, 128, (2, offer.max_positions)).astype("<f4")
        positions = v1.PositionArray(row_px=row.tobytes(), col_px=col.tobytes())
        decision = v1.SteerDecision(
            acquisition=name, batch_id=offer.batch_id, revision=offer.revision, lease_epoch=offer.lease_epoch, positions=positions
        )
        decisions.append(v1.SteerRequest(decision=decision))
        wanted.release()
wanted.release()  # nothing more to say
for answer in acquisitions.WatchAcquisition(v1.WatchAcquisitionRequest(name=name)):
    told = answer.acquisition
print(f"steered: {told.result.text}, {told.progress.n_sampled} positions")

# %% A calibration says first what it will spend. To put one in force needs the role admin.
run = v1.DetectorCalibrationRun(detectors=[detectors[0].name], grid=v1.Grid(n_rows=64, n_cols=64), excess=1)
for answer in instrument.RunCalibration(v1.RunCalibrationRequest(lease=lease, detector=run)):
    if answer.WhichOneof("event") == "calibration":
        measured = answer.calibration
active = instrument.ActivateCalibration(v1.ActivateCalibrationRequest(lease=lease, name=measured.name)).calibration.active
print(f"gain {measured.detector.gain_adc_per_event:.1f} counts an event, in force: {active}")

# %% Blank: from any state, by anyone, without control. It ends what runs with a trip, which is cleared or aborted.
name = acquisitions.CreateAcquisition(v1.CreateAcquisitionRequest(lease=lease, plan=listed)).acquisition.name
acquisitions.StartAcquisition(v1.StartAcquisitionRequest(lease=lease, name=name))
blanked = instrument.Blank(v1.BlankRequest(reason="to show it"))
print(f"blanked {blanked.latency_us} µs after the request was decoded")
acquisitions.AbortAcquisition(v1.AbortAcquisitionRequest(lease=lease, name=name, reason="shown"))
for answer in acquisitions.WatchAcquisition(v1.WatchAcquisitionRequest(name=name)):
    pass
status = instrument.GetStatus(v1.GetStatusRequest()).status
if status.HasField("trip"):
    instrument.ClearTrip(v1.ClearTripRequest(lease=lease, cause_id=status.trip.cause_id))

# %% Control goes to who asks for it, unless its holder declines; here both are the same. Released, it is free, and the beam blanked.
taken = v1.TakeOverLeaseRequest(ttl_ms=2000, holder="every call, again", reason="to show it", force=True)
lease = control.TakeOverLease(taken).lease
released.set()
control.ReleaseLease(v1.ReleaseLeaseRequest(lease=lease))
print(f"free: {not control.GetLease(v1.GetLeaseRequest()).lease.held}")
