"""Opens in HyperSpy what the example `write_dataset` wrote, and checks axes, arrays and metadata.

    python check_dataset.py OUT.zspy [n_frames]      needs hyperspy and zarr < 3
"""

import sys

import hyperspy.api as hs
import numpy as np
import zarr

path = sys.argv[1]
n_frames = int(sys.argv[2]) if len(sys.argv) > 2 else 1

signals = {s.metadata.General.title.split()[-1]: s for s in hs.load(path)}
names = {"dose", "visits"} | {f"{m}-{d}" for m in ("estimate", "uncertainty") for d in ("haadf", "abf")}
assert set(signals) == names, signals

row, col = np.mgrid[:600, :700].astype(np.float32)
plane = row + col / np.float32(1000)
for name, factor in (("estimate-haadf", 1.0), ("uncertainty-haadf", 0.1)):
    data = np.asarray(signals[name].data).reshape(n_frames, 600, 700)
    for t in range(n_frames):
        assert np.allclose(data[t], factor * (1000 * t + plane), rtol=1e-6), (name, t)

x, y = signals["estimate-haadf"].axes_manager.signal_axes
for axis, name, size in ((x, "x", 700), (y, "y", 600)):
    assert (axis.name, axis.units, axis.size) == (name, "nm", size), axis
    assert np.isclose(axis.scale, 0.02) and np.isclose(axis.offset, -(size - 1) / 2 * 0.02), axis
navigation = signals["estimate-haadf"].axes_manager.navigation_axes
assert [(a.name, a.units, a.size) for a in navigation] == ([("t", "s", n_frames)] if n_frames > 1 else [])

visits = np.asarray(signals["visits"].data)
assert visits.sum() == 600 * n_frames and (np.diag(visits[:, :600]) == n_frames).all()
area_a2 = 0.04
assert np.isclose(np.asarray(signals["dose"].data).sum(), 600 * n_frames * 62.4 / area_a2, rtol=1e-4)

metadata = signals["estimate-haadf"].metadata
tem = metadata.Acquisition_instrument.TEM
assert (tem.beam_energy, tem.beam_current, tem.convergence_angle) == (200.0, 0.01, 21.4)
assert tem.Detector.haadf.collection_angle_inner == 60.0
assert metadata.General.authors == "A. Operator" and metadata.Sample.description == "gold on carbon"
assert signals["visits"].original_metadata.beamwright.plan.n_frames == n_frames

samples = zarr.open_consolidated(path)["samples"]
columns = {name: samples[name][:] for name in samples}
assert {len(values) for values in columns.values()} == {600 * n_frames}
assert (columns["row"][:600] == np.arange(600)).all() and (columns["haadf"] == columns["col"]).all()
print("ok")
