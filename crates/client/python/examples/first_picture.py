"""A first picture: say what it may cost, look while it comes, keep it."""

# %% Connect, and ask what a plan would cost. Nothing moves, and no control is needed.
import beamwright as bw

microscope = bw.connect()  # 127.0.0.1:7410, or what BEAMWRIGHT_SERVER says
plan = bw.Plan(fraction=0.1, dwell=20 * bw.us, title="a tenth of the pixels")
cost = microscope.predict(plan)
print(f"{cost.n_positions} positions, {cost.scan_time_ns * 1e-9:.2f} s, {cost.dose_e_per_a2:.0f} e/Å² on average")

# %% A value out of range is refused by name.
try:
    microscope.predict(bw.Plan(fraction=1.5))
except bw.InvalidField as refused:
    print(f"{refused.field} = {refused.value} was refused; allowed: {refused.allowed}")

# %% Take control, start, and look while the scan runs.
with microscope.control() as control:
    acquisition = control.acquire(plan)
    for frame in acquisition.frames(["estimate", "uncertainty"], rate=5):
        print(f"revision {frame.revision}: {frame.n_positions} positions, {frame.age_s:.2f} s old, mean {frame.estimate.mean():.4f}")
    acquisition.wait()

# %% The picture with axes in nm, and every sample that it is made of.
signal = acquisition.to_hyperspy()
print(signal)
table = acquisition.samples().to_pandas()
print(table[["row", "col", "electrons", "haadf"]].describe())
