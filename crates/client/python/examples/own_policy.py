"""Your own policy: ten lines say where the beam goes next."""

# %% An offer has the newest estimate, a number of positions, and a deadline. A late answer costs time, never dose.
import beamwright as bw


@bw.policy(planes=["uncertainty"])
def least_certain(offer):
    if offer.uncertainty is None:  # the beginning: nothing has been seen
        return offer.random()
    return offer.choose(offer.uncertainty**2)  # the more, the likelier


# %% Run it. Without `wait_when_late` the fallback of the plan fills what an answer was too late for.
with bw.control() as control:
    plan = bw.Plan(fraction=0.1, dwell=20 * bw.us, wait_when_late=True, estimator=bw.Estimator.KRIGING)
    report = least_certain.run(control, plan)

# %% How it did.
print(report)
assert report.outcomes["ACCEPTED"] > 0
