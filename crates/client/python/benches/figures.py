"""The client's figures, each beside a plain grpcio server of the same run, as a loaded machine slows both.

    BEAMWRIGHT=target/release/beamwright python crates/client/python/benches/figures.py [samples] [decisions] [previews] [blanks]

Without a name all of them. Samples are read in turns, from the service and from the plain server; medians are told.
"""

import contextlib
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import threading
import time
from concurrent import futures

import beamwright as bw
import grpc
import numpy as np
from beamwright import v1
from beamwright.testing import Daemon

SIDE = 2048
N_MESSAGE = 32_768
ROUNDS = 12
PASSES = 4
START_S = 30.0


def percentiles(values_us, high=90):
    cut = statistics.quantiles(values_us, n=100, method="inclusive")
    return f"p50 {cut[49] * 1e-3:.2f} ms, p{high} {cut[high - 1] * 1e-3:.2f} ms"


class Plain(v1.SampleServiceServicer, v1.SteeringServiceServicer):
    """Samples made beforehand, in messages of `n` positions; and offers that answer each other."""

    def __init__(self, n, total):
        column = np.zeros(n, "<f4").tobytes()
        signal = v1.SignalArray(detector="haadf", value_type=v1.VALUE_TYPE_F32, values=column, unit="events")
        self.chunks = []
        for first in range(0, total, n):
            chunk = v1.SampleChunk(first_sequence=first, n_positions=n, row_px=column, col_px=column, signals=[signal])
            for field in ("dwell_ns", "settle_ns", "electrons", "electrons_outside"):
                setattr(chunk, field, column[:4])
            self.chunks.append(v1.StreamSamplesResponse(samples=chunk))
        self.chunks.append(v1.StreamSamplesResponse(end=v1.SampleEnd(next_sequence=total, acquisition_ended=True)))

    def StreamSamples(self, request, context):
        yield from self.chunks

    def Steer(self, requests, context):
        for _ in requests:
            yield v1.SteerResponse(offer=v1.SteerOffer(batch_id=1, max_positions=256))


def serve(n, total, told):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    plain = Plain(n, total)
    v1.add_SampleServiceServicer_to_server(plain, server)
    v1.add_SteeringServiceServicer_to_server(plain, server)
    told.put(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


@contextlib.contextmanager
def plain_server(n=N_MESSAGE, total=1):
    """A plain grpcio server in a process of its own: its channel, and the process."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=serve, args=(n, total, told), daemon=True)
    process.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{told.get(timeout=START_S)}", [("grpc.max_receive_message_length", 64 << 20)])
    grpc.channel_ready_future(channel).result(START_S)
    yield channel, process.pid
    channel.close()
    process.terminate()
    process.join()


def received(stream):
    """Positions per second of some passes; every array is laid over its bytes and its last value read."""
    began, n = time.perf_counter(), 0
    for _ in range(PASSES):
        for event in stream():
            n += len(event)
            event.row[-1], event.col[-1], event.signal()[-1]
    return n / (time.perf_counter() - began)


def samples(control, daemon):
    total = SIDE * SIDE
    plan = bw.Plan(pattern=bw.Pattern.RASTER, fraction=1.0, dwell=100 * bw.ns, pixels=SIDE, field_of_view=20 * bw.nm, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)
    acquisition = control.acquire(plan)
    acquisition.wait()
    chunk = next(acquisition.events(paths=False, stored_only=True))
    with bw.connect(f"unix:{daemon.folder}/socket") as local, plain_server(len(chunk), total) as (channel, plain_pid):
        stub = v1.SampleServiceStub(channel)

        def plain():
            for answer in stub.StreamSamples(v1.StreamSamplesRequest()):
                if answer.WhichOneof("event") == "samples":
                    yield bw.Chunk(answer.samples)

        ways = {
            "ours, TCP": (lambda: acquisition.events(paths=False, stored_only=True), daemon.process.pid),
            "ours, unix socket": (lambda: local.acquisition(acquisition.name).events(paths=False, stored_only=True), daemon.process.pid),
            "plain grpcio server, TCP": (plain, plain_pid),
        }
        readings = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (stream, pid) in ways.items():
                here, there = own_cpu_s(), cpu_s(pid).sum()
                rate = received(stream)
                readings[name].append((rate * 1e-6, *(own_cpu_s() - here), cpu_s(pid).sum() - there))
    print(f"samples received, in messages of {len(chunk)}, {ROUNDS} readings in turns of {PASSES * total * 1e-6:.1f} million each")
    for name, told in readings.items():
        rates, program, kernel, there = zip(*told)
        here = [sum(both) for both in zip(program, kernel)]
        per_sample = 1e9 / (PASSES * total)
        print(
            f"    {name}: median {statistics.median(rates):.1f} million/s ({min(rates):.1f} to {max(rates):.1f}); processor time per sample"
            f" {statistics.median(here) * per_sample:.1f} ns in the client ({statistics.median(kernel) * per_sample:.1f} of it the kernel's), {statistics.median(there) * per_sample:.1f} ns in the server"
        )


def decisions(control, _daemon):
    @bw.policy(planes=[])
    def anywhere(offer):
        return offer.random()

    report = anywhere.run(control, bw.Plan(fraction=0.25, dwell=5 * bw.us, batch=256, wait_when_late=True, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms))
    print(f"round trip of a decision: {percentiles(report.round_trip_us)}, {report.offers} offers")
    with plain_server() as (channel, _):
        times, positions = [], bw.Positions(np.zeros(256), np.zeros(256)).message()

        def pings():
            for _ in range(2000):
                times.append(time.perf_counter())
                yield v1.SteerRequest(decision=v1.SteerDecision(batch_id=1, positions=positions))
                answered.acquire()

        answered = threading.Semaphore(0)
        trips = []
        for _ in v1.SteeringServiceStub(channel).Steer(pings()):
            trips.append((time.perf_counter() - times[-1]) * 1e6)
            answered.release()
        print(f"    plain ping-pong: {percentiles(trips)}")


def own_cpu_s():
    """CPU time of this process so far: its own code, and the kernel's for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([used.ru_utime, used.ru_stime])


def cpu_s(pid):
    """CPU time of a process so far: what estimates, and all else, which carries the scan and serves."""
    estimating = rest = 0
    for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        name, fields = stat.read_text().rsplit(")", 1)
        ticks = sum(int(field) for field in fields.split()[11:13])
        if "(recon" in name:
            estimating += ticks
        else:
            rest += ticks
    return np.array([estimating, rest]) / os.sysconf("SC_CLK_TCK")


def previews(control, daemon, seconds=8.0):
    pid = daemon.process.pid
    plan = bw.Plan(fraction=1.0, dwell=1 * bw.ms, pixels=512, estimator=bw.Estimator.NEAREST)
    acquisition = control.acquire(plan)
    next(acquisition.frames())

    def share(until):
        before, began = cpu_s(pid), time.perf_counter()
        n, size = until(began + seconds)
        elapsed = time.perf_counter() - began
        return (cpu_s(pid) - before) / elapsed, n / elapsed, size / elapsed

    def watch(end):
        n = size = 0
        for frame in acquisition.frames(rate=60):
            n, size = n + 1, size + frame.estimate.nbytes
            if time.perf_counter() > end:
                return n, size

    def rest(end):
        time.sleep(end - time.perf_counter())
        return 0, 0

    alone, _, _ = share(rest)
    watched, rate, bandwidth = share(watch)
    told = acquisition.told()
    if told.state != bw.State.RUNNING:
        raise SystemExit(f"previews: the scan was {bw.State(told.state).name.lower()} meanwhile, so they tell nothing: {told.trip.text}")
    acquisition.abort()
    print(
        f"previews of 512²: {rate:.1f}/s, {bandwidth * 1e-6:.0f} MB/s; "
        f"to carry the scan and serve it takes {watched[1]:.0%} of a core ({alone[1]:.0%} when nobody looks), "
        f"to estimate {watched[0]:.0%} ({alone[0]:.0%}): the estimator takes the time that is left"
    )


def blanks(control, _daemon, n=100):
    """From the request decoded to the controller's word that the beam is off, as the service tells it; and what the client waited."""

    def told(when, answers):
        for name, values in (("in the service", [us for us, _ in answers]), ("at the client", [us for _, us in answers])):
            print(f"blank {when}, {name}: {percentiles(values, 99)}, longest {max(values) * 1e-3:.2f} ms, of {len(values)}")

    def blank():
        began = time.perf_counter()
        answer = control.microscope.blank("figures")
        return answer.latency_us, (time.perf_counter() - began) * 1e6

    acquisition = control.acquire(bw.Plan(fraction=1.0, dwell=1 * bw.ms, pixels=512, estimator=bw.Estimator.NEAREST))
    scanning = []
    for _ in range(n):
        while acquisition.state != bw.State.RUNNING:
            time.sleep(0.005)
        scanning.append(blank())
        control.clear_trip()
        acquisition.resume()
    acquisition.abort()
    for _ in acquisition.watch():
        pass
    control.clear_trip()
    told("while a scan runs", scanning)
    told("of a beam that is off already", [blank() for _ in range(n)])


FIGURES = {"samples": samples, "decisions": decisions, "previews": previews, "blanks": blanks}

if __name__ == "__main__":
    names = sys.argv[1:] or list(FIGURES)
    if unknown := set(names) - FIGURES.keys():
        raise SystemExit(f"figures: {', '.join(sorted(unknown))} is not allowed (allowed: {', '.join(FIGURES)})")
    with tempfile.TemporaryDirectory() as folder, Daemon(pathlib.Path(folder)) as daemon, bw.control(daemon.address) as control:
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for name in names:
            FIGURES[name](control, daemon)
