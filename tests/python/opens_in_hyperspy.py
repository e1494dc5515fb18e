"""HyperSpy opens what Beamwright wrote, with axes in nm, and its arrays equal those the API streamed.

usage: opens_in_hyperspy.py BEAMWRIGHT DEMO_JSON
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import grpc
import hyperspy.api as hs
import numpy as np
import zarr
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]


def stubs(folder):
    """Python stubs made from the project's own definitions."""
    definitions = [str(p.relative_to(ROOT / "proto")) for p in sorted((ROOT / "proto").rglob("*.proto"))]
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    code = protoc.main(
        ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        + definitions
    )
    assert code == 0
    sys.path.insert(0, str(folder))


def check_axes(signal, n, pitch_nm):
    """The last two axes are x and y in nm, centred on the field."""
    for axis in signal.axes_manager.signal_axes:
        assert axis.units == "nm", axis
        assert axis.size == n, axis
        assert abs(axis.scale - pitch_nm) < 1e-9, axis
        assert abs(axis.offset + (n - 1) / 2 * pitch_nm) < 1e-6, axis
    assert [axis.name for axis in signal.axes_manager.signal_axes] == ["x", "y"]


def signals_of(path):
    """Signals of a data set by title or name."""
    loaded = hs.load(str(path), lazy=False)
    loaded = loaded if isinstance(loaded, list) else [loaded]
    names = [str(p.name) for p in sorted((pathlib.Path(path) / "Experiments").iterdir()) if p.is_dir()]
    assert len(loaded) == len(names), (loaded, names)
    return dict(zip(names, loaded))


def check_demo(report):
    signals = signals_of(report["dataset"])
    for name in ("estimate", "uncertainty", "visits", "dose"):
        found = [s for n, s in signals.items() if n == name or n.startswith(name + "-")]
        assert found, f"{name} is missing from {sorted(signals)}"
        for signal in found:
            check_axes(signal, 512, report["pixel_nm"])
            assert np.isfinite(signal.data).all(), name
    visits = signals["visits"].data
    assert visits.sum() == report["exposures"], (visits.sum(), report["exposures"])
    estimate = next(s for n, s in signals.items() if n.startswith("estimate"))
    assert estimate.metadata.Acquisition_instrument.TEM.beam_energy > 0
    print(f"the demo's result opens: {sorted(signals)}")


def stream(server, name):
    """Columns of every sample of an acquisition, as the API streams them."""
    from beamwright.v1 import sample_pb2, sample_pb2_grpc

    columns = {}
    with grpc.insecure_channel(server) as channel:
        request = sample_pb2.StreamSamplesRequest(name=name, stored_only=True)
        for answer in sample_pb2_grpc.SampleServiceStub(channel).StreamSamples(request):
            if answer.WhichOneof("event") != "samples":
                continue
            chunk = answer.samples
            columns.setdefault("row", []).append(np.frombuffer(chunk.row_px, "<f4"))
            columns.setdefault("col", []).append(np.frombuffer(chunk.col_px, "<f4"))
            for signal in chunk.signals:
                columns.setdefault(signal.detector, []).append(np.frombuffer(signal.values, "<f4"))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def final_preview(server, name):
    """Planes of the final estimate as the API shows them."""
    from beamwright.v1 import preview_frame_pb2, preview_pb2, preview_pb2_grpc

    options = preview_frame_pb2.PreviewOptions(encoding=preview_frame_pb2.PIXEL_ENCODING_F32)
    with grpc.insecure_channel(server) as channel:
        request = preview_pb2.StreamPreviewsRequest(name=name, options=options)
        for answer in preview_pb2_grpc.PreviewServiceStub(channel).StreamPreviews(request):
            if answer.frame.final:
                return answer.frame
    raise AssertionError("the stream of previews ended without a final frame")


def check_against_api(beamwright, folder):
    config = folder / "beamwright.toml"
    config.write_text(f'[service]\nlisten = "127.0.0.1:0"\n\n[store]\ndirectory = "{folder}"\n')
    server = subprocess.Popen([beamwright, "serve", "--config", str(config)], stdout=subprocess.PIPE, text=True)
    try:
        address = None
        for line in server.stdout:
            if found := re.search(r"http://(127\.0\.0\.1:\d+)", line):
                address = found.group(1)
                break
        assert address, "the server named no address"
        acquire = subprocess.run(
            [beamwright, "acquire", "--server", f"http://{address}", "--fraction", "0.1", "--json"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert acquire.returncode == 0, acquire.stderr
        report = json.loads(acquire.stdout.strip().splitlines()[-1])
        streamed = stream(address, report["name"])
        preview = final_preview(address, report["name"])
    finally:
        server.terminate()
        assert server.wait(timeout=60) == 0
    stored = zarr.open(report["dataset"], mode="r")["samples"]
    for name, values in streamed.items():
        assert np.array_equal(np.asarray(stored[name][:]), values), name
        assert len(values) == report["exposures"]
    signals = signals_of(report["dataset"])
    shown = [plane for plane in preview.planes if plane.plane == 1]
    assert shown, "the final preview has no estimate"
    for plane in shown:
        pixels = np.frombuffer(plane.data, "<f4").reshape(plane.n_rows, plane.n_cols)
        names = [n for n in signals if n in ("estimate", f"estimate-{plane.detector}")]
        assert np.array_equal(signals[names[0]].data, pixels), plane.detector
    print(f"{len(streamed['row'])} samples and {len(shown)} planes are the same over the API and in HyperSpy")


def main():
    beamwright, demo = sys.argv[1:]
    check_demo(json.loads(pathlib.Path(demo).read_text()))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "stubs").mkdir()
        stubs(folder / "stubs")
        (folder / "data").mkdir()
        check_against_api(beamwright, folder / "data")


if __name__ == "__main__":
    main()
