"""The synchronous client against a real daemon."""

import threading

import beamwright as bw
import numpy as np
import pytest
from beamwright import v1


def test_connects_by_port_by_url_and_by_socket(daemon):
    for address in (daemon.address, f"http://{daemon.address}", f"unix:{daemon.folder}/socket"):
        with bw.connect(address) as microscope:
            assert microscope.info.api_package == "beamwright.v1"
            assert microscope.info.simulated


def test_nobody_there_is_said_in_one_sentence():
    with pytest.raises(bw.Unreachable, match="no service answers at 127.0.0.1:1: is `beamwright serve` running there?"):
        bw.connect("127.0.0.1:1", timeout_s=0.5)


def test_an_address_without_a_port_is_refused():
    with pytest.raises(ValueError, match="HOST:PORT or unix:PATH"):
        bw.connect("microscope")


def test_an_older_service_is_refused_in_one_sentence():
    from beamwright.connection import check_version

    old = v1.GetServerInfoResponse(version="0.0.1", api_package="beamwright.v1", api_revision=0)
    with pytest.raises(bw.VersionMismatch, match="0.0.1 with revision 0 .* needs revision 1: update the service"):
        check_version(old, "x:1")
    with pytest.raises(bw.VersionMismatch, match="update the older"):
        check_version(v1.GetServerInfoResponse(api_package="beamwright.v9"), "x:1")


def test_a_prediction_moves_nothing_and_needs_no_control(microscope, small):
    told = microscope.predict(small)
    assert told.n_positions == 2048
    assert told.dwell_ns == 5000
    assert told.dose_e_per_a2 > 0


def test_a_refused_value_carries_field_value_and_range(microscope):
    with pytest.raises(bw.InvalidField) as refused:
        microscope.predict(bw.Plan(fraction=2))
    assert (refused.value.field, refused.value.value) == ("plan.fraction", "2")
    assert refused.value.allowed == "above 0, at most 1"
    with pytest.raises(bw.InvalidField) as refused:
        microscope.predict(bw.Plan(dwell=-3 * bw.us))
    assert refused.value.field == "plan.exposure.dwell_ns"


def test_frames_samples_and_image_agree(control, small):
    acquisition = control.acquire(small)
    last = list(acquisition.frames(["estimate", "uncertainty", "visits"]))[-1]
    assert acquisition.wait().state == bw.State.FINISHED
    assert last.is_final and last.estimate.shape == (64, 64)
    assert not last.estimate.flags.owndata and not last.estimate.flags.writeable
    samples = acquisition.samples()
    assert len(samples) == 2048 and samples.gaps == []
    assert np.array_equal(samples["sequence"], np.arange(2048))
    counted = np.zeros((64, 64))
    np.add.at(counted, (samples["row"].astype(int), samples["col"].astype(int)), 1)
    assert np.array_equal(counted, last.visits)
    assert np.array_equal(acquisition.image(), last.estimate)
    frame = samples.to_pandas()
    assert list(frame.columns)[-1] == "haadf" and (frame.dwell_ns == 5000).all()


def test_an_image_of_many_messages_is_whole(control):
    plan = bw.Plan(fraction=0.05, dwell=100 * bw.ns, pixels=1024, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)
    acquisition = control.acquire(plan)
    acquisition.wait()
    image = acquisition.image()
    assert image.shape == (1024, 1024) and np.isfinite(image).all()


def test_hyperspy_gets_axes_in_nanometres(control, small):
    acquisition = control.acquire(small)
    acquisition.wait()
    signal = acquisition.to_hyperspy()
    x, y = signal.axes_manager.signal_axes
    assert (x.name, y.name, x.units) == ("x", "y", "nm")
    assert x.scale == pytest.approx(acquisition.told().axes[1].scale)
    assert x.offset == pytest.approx(-63 / 2 * x.scale)
    assert np.array_equal(signal.data, acquisition.image())


def test_a_list_goes_where_it_says(control):
    row, col = np.array([3, 60, 10.5]), np.array([5, 2.25, 63])
    acquisition = control.acquire(bw.Plan(pattern=bw.Pattern.LIST, positions=bw.Positions(row, col), pixels=64, dwell=1 * bw.us, order=bw.Order.AS_GIVEN, estimator=bw.Estimator.NEAREST))
    acquisition.wait()
    samples = acquisition.samples()
    assert np.array_equal(samples["row"], row) and np.array_equal(samples["col"], col)


def test_a_long_list_is_uploaded(control):
    row, col = np.divmod(np.arange(70_000), 300)
    name = control.upload(bw.Positions(row, col))
    acquisition = control.acquire(bw.Plan(pattern=bw.Pattern.LIST, positions=name, pixels=300, dwell=100 * bw.ns, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms))
    acquisition.wait()
    assert acquisition.told().progress.n_sampled == 70_000


def test_what_one_acquisition_has_learned_is_offered_to_the_next(control):
    first = control.acquire(bw.Plan(pixels=64, fraction=0.25, dwell=20 * bw.us, estimator=bw.Estimator.GMM))
    first.wait()
    assert not first.told().result.HasField("model_use")
    uploaded = control.upload_model(f"{first.told().result.dataset_path}/model")
    for name in (first.name, uploaded):
        again = control.acquire(bw.Plan(pixels=64, fraction=0.25, dwell=20 * bw.us, model_from=name))
        again.wait()
        told = again.told()
        assert told.plan.estimation.model_from == name
        assert told.result.HasField("model_use")
        assert set(told.result.model_use.detectors) <= {"haadf"}
    with pytest.raises(bw.InvalidField) as refused:
        control.create(bw.Plan(pixels=64, model_from="acquisitions/nothing"))
    assert refused.value.field == "plan.estimation.model_from"
    with pytest.raises(bw.InvalidField):
        control.upload_model(__file__)


def test_pause_resume_and_abort(control, long):
    acquisition = control.acquire(long)
    states = (told.state for told in acquisition.watch(50))
    acquisition.pause()
    assert any(state == bw.State.PAUSED for state in states)
    acquisition.resume()
    assert any(state == bw.State.RUNNING for state in states)
    acquisition.abort("enough")
    with pytest.raises(bw.Aborted, match=acquisition.name):
        acquisition.wait()
    assert acquisition.state == bw.State.ABORTED


def test_blank_needs_no_control_and_stops_a_scan(daemon, control, long):
    acquisition = control.acquire(long)
    with bw.connect(daemon.address) as somebody:
        answer = somebody.blank("the tests")
        assert answer.HasField("trip")
    with pytest.raises(bw.Tripped) as tripped:
        acquisition.wait()
    assert tripped.value.cause_id == answer.trip.cause_id
    control.clear_trip()
    acquisition.resume()
    assert acquisition.state in (bw.State.ARMING, bw.State.RUNNING)
    acquisition.abort()


def test_a_view_goes_on_until_it_is_ended(control):
    view = control.view(bw.Plan(fraction=0.1, dwell=1 * bw.us, pixels=64, limits=bw.Limits(dose_rate=1e7 * bw.e_per_A2_s), estimator=bw.Estimator.NEAREST))
    frames = view.frames(rate=60)
    revisions = [next(frames).revision for _ in range(3)]
    assert revisions == sorted(set(revisions))
    view.abort()


def test_two_cannot_have_control(control, microscope):
    with pytest.raises(bw.LeaseHeld) as refused:
        microscope.control("another")
    assert refused.value.holder == "the tests"


def test_a_forced_takeover_is_the_loss_of_the_lease(daemon, microscope, long):
    control = microscope.control("the loser")
    control.clear_trip()
    acquisition = control.acquire(long)
    with bw.connect(daemon.address) as other, other.control("an admin", take_over="the test", force=True) as taken:
        with pytest.raises((bw.LeaseLost, bw.Tripped)):
            acquisition.wait()
        with pytest.raises(bw.LeaseLost):
            acquisition.resume()
        taken.adopt(acquisition).abort()
    with pytest.raises(bw.LeaseLost):
        control.release()


def test_commands_without_control_are_refused(control, microscope, long):
    acquisition = control.acquire(long)
    with pytest.raises(bw.LeaseRequired):
        microscope.acquisition(acquisition.name).pause()
    acquisition.abort()


def test_what_does_not_exist_is_not_found(microscope):
    with pytest.raises(bw.NotFound):
        microscope.acquisition("acquisitions/20000101-000000-000")


def test_the_list_has_the_newest_first(control, microscope, small):
    names = []
    for _ in range(2):
        acquisition = control.acquire(small)
        acquisition.wait()
        names.append(acquisition.name)
    assert [told.name for told in microscope.acquisitions()][:2] == names[::-1]
    assert microscope.acquisition().name == names[-1]


def test_samples_stream_while_the_scan_runs(control):
    acquisition = control.create(bw.Plan(fraction=1.0, dwell=20 * bw.us, pixels=64, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms))
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(acquisition.events(detectors=["haadf"], paths=False)))
    reader.start()
    acquisition.start()
    reader.join(60)
    acquisition.wait()
    assert sum(len(event) for event in seen) == 4096
    assert all(event.row_actual is not None and event.detectors == ["haadf"] for event in seen)


def test_a_bar_shows_the_progress(control, small, capsys):
    control.acquire(small).wait(progress=True)
    assert "2048/2048" in capsys.readouterr().err


def test_a_stream_goes_on_after_the_service_was_killed(own_daemon):
    plan = bw.Plan(fraction=1.0, dwell=1 * bw.us, pixels=512, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)
    with bw.control(own_daemon.address) as control:
        acquisition = control.acquire(plan)
        acquisition.wait()
        before = acquisition.samples().array
        events = acquisition.events()
        parts = [next(events)]
        control.release()
        own_daemon.kill()
        own_daemon.start()
        parts += events
        again = bw.Samples.of(parts).array
    assert np.array_equal(again, before)


def test_a_killed_service_is_unreachable_and_control_is_lost(own_daemon, long):
    with pytest.raises((bw.Unreachable, bw.LeaseLost)):
        with bw.control(own_daemon.address) as control:
            acquisition = control.acquire(long)
            own_daemon.kill()
            acquisition.wait()
