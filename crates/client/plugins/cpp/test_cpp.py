"""The compiled example, against a real service; `ACQUIRE` names it."""

import os
import subprocess

import numpy as np
import pytest

ACQUIRE = os.environ.get("ACQUIRE", "")
pytestmark = pytest.mark.skipif(not ACQUIRE, reason="ACQUIRE does not name the compiled example")


def acquire(*words):
    return subprocess.run([ACQUIRE, *map(str, words)], capture_output=True, text=True, timeout=300)


def test_it_receives_what_the_service_has_recorded(daemon, microscope, tmp_path):
    ran = acquire(daemon.address, tmp_path / "picture.pgm")
    assert ran.returncode == 0, ran.stderr
    first, last = ran.stdout.splitlines()
    acquisition = microscope.acquisition(first.split(":")[0])
    samples = acquisition.samples()
    assert last.startswith("1024 positions, 0 without a sample")
    assert float(last.split()[-2]) == pytest.approx(samples["haadf"].sum(), rel=1e-4)
    magic, size, most, pixels = (tmp_path / "picture.pgm").read_bytes().split(b"\n", 3)
    assert (magic, size, most) == (b"P5", b"64 64", b"255")
    picture = np.frombuffer(pixels, "u1").reshape(64, 64)
    sums = np.zeros((64, 64))
    np.add.at(sums, (samples["row"].astype(int), samples["col"].astype(int)), samples["haadf"])
    assert np.abs(picture - np.clip(sums / sums.max(), 0, 1) * 255).max() <= 1  # events below the dark level are black


def test_it_gives_control_back(daemon, microscope):
    ran = acquire(daemon.address, os.devnull)
    assert ran.returncode == 0, ran.stderr
    assert not microscope.status().lease.held


def test_a_refusal_is_told_in_the_words_of_the_service(daemon, microscope, tmp_path):
    with microscope.control("somebody else"):
        ran = acquire(daemon.address, tmp_path / "picture.pgm")
    assert ran.returncode == 1
    assert ran.stderr.startswith("AcquireLease: ") and "somebody else" in ran.stderr


def test_an_address_without_a_service_is_an_error():
    ran = acquire("127.0.0.1:1")
    assert ran.returncode == 1 and ran.stderr.startswith("AcquireLease: ")
