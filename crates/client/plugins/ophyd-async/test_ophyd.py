"""Plans of bluesky on a real service, judged by the documents that they emit."""

import contextlib
import pathlib
import threading
from collections import defaultdict
from urllib.parse import urlparse

import beamwright as bw
import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
import zarr
from beamwright.testing import blocks, run
from beamwright_ophyd import Stem
from bluesky import RunEngine
from bluesky.utils import FailedStatus, RunEngineInterrupted
from event_model import DocumentNames, schema_validators
from ophyd_async.core import NotConnectedError, init_devices

SMALL = bw.Plan(fraction=0.5, dwell=5 * bw.us, pixels=32, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)


@pytest.fixture(scope="module")
def engine():
    return RunEngine({}, call_returns_result=True)


@pytest.fixture
def documents(engine):
    """All documents of a test by name, each valid by the event model."""
    seen = defaultdict(list)

    def keep(name, document):
        schema_validators[DocumentNames[name]].validate(document)
        seen[name].append(document)

    token = engine.subscribe(keep)
    yield seen
    engine.unsubscribe(token)


def stem_of(daemon, plan=SMALL):
    with init_devices():
        stem = Stem(plan, daemon.address)
    return stem


def pictures(documents):
    """What the documents point at, read from the data sets."""
    for resource in documents["stream_resource"]:
        group = zarr.open(urlparse(resource["uri"]).path, "r")
        yield resource, group[resource["parameters"]["dataset"]][:]


def test_a_count_is_a_run_of_pictures(engine, documents, daemon, microscope):
    stem = stem_of(daemon)
    engine(bp.count([stem], num=3))
    assert documents["stop"][0]["exit_status"] == "success"
    (descriptor,) = documents["descriptor"]
    assert descriptor["data_keys"]["stem"]["shape"] == [1, 32, 32]
    assert descriptor["configuration"]["stem"]["data"] == {"stem-fraction": 0.5, "stem-dwell_us": 5.0}
    doses = [event["data"]["stem-dose"] for event in documents["event"]]
    assert len(doses) == 3 and all(dose > 0 for dose in doses)
    assert [datum["indices"] for datum in documents["stream_datum"]] == [{"start": i, "stop": i + 1} for i in range(3)]
    assert len({resource["uri"] for resource in documents["stream_resource"]}) == 3
    for resource, picture in pictures(documents):
        acquisition = microscope.acquisition(resource["parameters"]["acquisition"])
        assert np.array_equal(picture, acquisition.image())
        assert acquisition.told().dose.mean_dose_e_per_a2 in doses


def test_a_scan_moves_the_fraction(engine, documents, daemon, microscope):
    stem = stem_of(daemon)
    engine(bp.list_scan([stem], stem.fraction, [0.25, 0.5]))
    names = [resource["parameters"]["acquisition"] for resource in documents["stream_resource"]]
    assert [microscope.acquisition(name).told().progress.n_sampled for name in names] == [256, 512]


def test_a_flyer_takes_what_it_was_prepared_for(engine, documents, daemon):
    stem = stem_of(daemon)

    @bpp.stage_decorator([stem])
    @bpp.run_decorator()
    def fly():
        yield from bps.prepare(stem, 4, wait=True)
        yield from bps.declare_stream(stem, name="pictures", collect=True)
        yield from bps.kickoff(stem, wait=True)
        yield from bps.collect_while_completing([stem], [stem], flush_period=0.1, stream_name="pictures")

    engine(fly())
    assert sum(datum["indices"]["stop"] - datum["indices"]["start"] for datum in documents["stream_datum"]) == 4
    assert sorted(datum["indices"]["start"] for datum in documents["stream_datum"]) == [0, 1, 2, 3]
    assert all(np.isfinite(picture).all() for _, picture in pictures(documents))


def test_a_flyer_that_was_not_prepared_takes_nothing(engine, documents, daemon):
    stem = stem_of(daemon)
    with pytest.raises(FailedStatus) as failed:
        engine(bpp.run_wrapper(bps.kickoff(stem, wait=True)))
    assert "needs to be told how many pictures" in str(failed.value.__cause__ or failed.value)


def test_several_detectors_are_several_keys(engine, documents, daemon):
    stem = stem_of(daemon, bw.Plan(fraction=0.5, pixels=(16, 32), detectors=["haadf", "abf"], estimator=bw.Estimator.NEAREST))
    engine(bp.count([stem]))
    found = {resource["data_key"]: picture for resource, picture in pictures(documents)}
    assert {key: picture.shape for key, picture in found.items()} == {"stem-haadf": (16, 32), "stem-abf": (16, 32)}
    assert not np.array_equal(*found.values())


def test_a_wrong_plan_is_refused_before_anything_begins(daemon):
    with pytest.raises(NotConnectedError, match=r"plan.fraction.*above 0, at most 1"):
        stem_of(daemon, bw.Plan(fraction=1.5))


def test_a_blank_fails_the_plan_and_control_is_given_back(engine, documents, daemon, microscope):
    stem = stem_of(daemon, bw.Plan(fraction=1.0, dwell=1 * bw.ms, estimator=bw.Estimator.NEAREST))
    with when_exposing(microscope, lambda: microscope.blank("a test")), pytest.raises(FailedStatus):
        engine(bp.count([stem]))
    assert documents["stop"][0]["exit_status"] == "fail"
    assert "event" not in documents
    assert microscope.acquisition().state is bw.State.ABORTED
    with microscope.control("the next one") as control:
        control.clear_trip()


@contextlib.contextmanager
def when_exposing(microscope, act):
    """Acts once, from another thread, when something that runs has its first sample."""

    def watch():
        for status in microscope.watch_status():
            if status.acquisition and microscope.acquisition(status.acquisition).told().progress.n_sampled:
                return act()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def test_a_paused_plan_pauses_the_scan_and_exposes_nothing_twice(engine, documents, daemon, microscope):
    plan = bw.Plan(fraction=0.5, dwell=200 * bw.us, pixels=64, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)
    stem = stem_of(daemon, plan)
    before = len(list(microscope.acquisitions()))

    with when_exposing(microscope, engine.request_pause), pytest.raises(RunEngineInterrupted):
        engine(bp.count([stem]))
    assert microscope.acquisition().state in (bw.State.PAUSED, bw.State.PAUSING)
    engine.resume()
    assert len(list(microscope.acquisitions())) == before + 1
    assert len(documents["event"]) == 1 and len(documents["stream_datum"]) == 1
    assert microscope.acquisition().told().progress.n_sampled == 2048


def test_the_readme_runs(daemon):
    for program in blocks(pathlib.Path(__file__).parent / "README.md"):
        assert run(program, daemon.address).strip()
