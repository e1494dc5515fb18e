"""UDFs of LiberTEM over a running acquisition of a real service."""

import pathlib

import beamwright as bw
import numpy as np
import pytest
from beamwright.testing import blocks, run
from beamwright_libertem import Picture, Samples
from libertem.udf.stddev import StdDevUDF
from libertem_live.api import Hooks, LiveContext


@pytest.fixture(scope="module")
def context():
    with LiveContext.make_with("inline") as made:
        yield made


@pytest.fixture
def control(microscope):
    with microscope.control("LiberTEM", 10 * bw.s) as held:
        yield held


def created(control, **more):
    return control.create(bw.Plan(**{"fraction": 0.5, "dwell": 5 * bw.us, "pixels": 64, "estimator": bw.Estimator.NEAREST, "refinement": 0 * bw.ms} | more))


def counted(samples, shape, name="haadf"):
    """Events per electron at each pixel, from the samples of the API."""
    events, electrons = np.zeros(shape), np.zeros(shape)
    place = (samples["row"].astype(int), samples["col"].astype(int))
    np.add.at(events, place, samples[name])
    np.add.at(electrons, place, samples["electrons"])
    with np.errstate(invalid="ignore"):
        return events / electrons


def test_pictures_come_while_the_scan_runs_and_what_ended_early_ends_the_run(context, control):
    acquisition = created(control, dwell=20 * bw.ms)  # some 40 s, were it not aborted
    aq = context.make_acquisition(conn=Samples(acquisition, n_partitions=128), nav_shape=())
    seen = []
    for part in context.run_udf_iter(dataset=aq, udf=Picture(acquisition)):
        picture = np.array(part.buffers[0]["picture"].data)
        seen.append(np.isfinite(picture).sum())
        if len(seen) == 3:
            assert acquisition.state is bw.State.RUNNING
            acquisition.abort("seen enough")
    assert 0 < seen[0] < seen[2] and seen == sorted(seen)
    assert seen[-1] == acquisition.told().progress.n_sampled < 2048
    assert np.array_equal(picture, counted(acquisition.samples(), (64, 64)), equal_nan=True)


def test_udfs_of_libertem_run_over_all_detectors(context, control):
    acquisition = created(control, detectors=["haadf", "abf"])
    conn = Samples(acquisition)
    aq = context.make_acquisition(conn=conn, nav_shape=())
    deviation, abf = context.run_udf(dataset=aq, udf=[StdDevUDF(), Picture(acquisition, conn.channels.index("abf"))])
    samples = acquisition.samples()
    for name in ("haadf", "abf"):
        i = conn.channels.index(name)
        assert deviation["mean"].data[0, i] == pytest.approx(samples[name].mean(), rel=1e-5)
        assert deviation["var"].data[0, i] == pytest.approx(samples[name].var(), rel=1e-4)
    assert np.array_equal(abf["picture"].data, counted(samples, (64, 64), "abf"), equal_nan=True)


def test_hooks_are_told_before_the_first_position(context, control):
    acquisition, states = created(control), []

    class Watching(Hooks):
        def on_ready_for_data(self, env):
            states.append((acquisition.state, env.aq.shape.nav.to_tuple()))

    aq = context.make_acquisition(conn=Samples(acquisition), nav_shape=(), hooks=Watching())
    context.run_udf(dataset=aq, udf=Picture(acquisition))
    assert states == [(bw.State.CREATED, (2048,))]


def test_an_endless_view_is_refused(control):
    acquisition = control.view(bw.Plan(pixels=64, limits=bw.Limits(dose_rate=1e6 * bw.e_per_A2_s)))
    with pytest.raises(ValueError, match="endless view is not allowed"):
        Samples(acquisition)
    acquisition.abort()


def test_the_readme_runs(daemon):
    for program in blocks(pathlib.Path(__file__).parent / "README.md"):
        assert run(program, daemon.address).strip()
