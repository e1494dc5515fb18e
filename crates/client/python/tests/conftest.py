"""A real daemon on the simulated microscope for every test; `BEAMWRIGHT` names the binary."""

import os
import pathlib
import re
import subprocess
import time

import beamwright as bw
import pytest

BINARY = os.environ.get("BEAMWRIGHT", "beamwright")
CONFIG = """
[service]
listen = "127.0.0.1:{port}"
unix_socket = "{folder}/socket"
[store]
directory = "{folder}"
[controller]
uri = "{uri}"
[column]
high_tension_kv = 200
probe_current_pa = 50
probe_current_source = "test"
[engine]
watchdog_ms = 1000
"""


class Daemon:
    """`beamwright serve` in a process of its own, that can be killed and started again on the same port."""

    def __init__(self, folder: pathlib.Path, uri: str = "sim:", more: str = "") -> None:
        self.folder, self.uri, self.more, self.port = folder, uri, more, 0
        self.start()

    def start(self) -> None:
        config = self.folder / "beamwright.toml"
        config.write_text(CONFIG.format(port=self.port, folder=self.folder, uri=self.uri) + self.more)
        command = [BINARY, "serve", "--config", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if found := re.search(r"https?://(127\.0\.0\.1):(\d+)", line):
                self.port = int(found.group(2))
                self.address = f"127.0.0.1:{self.port}"
                return
        raise RuntimeError(f"the service named no address: {self.process.stderr.read()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    running = Daemon(tmp_path_factory.mktemp("daemon"))
    yield running
    assert running.stop() == 0, "the service ends in order"


@pytest.fixture
def own_daemon(tmp_path):
    """A daemon that a test may kill."""
    running = Daemon(tmp_path)
    yield running
    running.kill()


@pytest.fixture
def microscope(daemon):
    with bw.connect(daemon.address) as connected:
        yield connected


def patient(microscope):
    """Control, as soon as a busy machine has confirmed the blank after the last holder."""
    for _ in range(100):
        try:
            return microscope.control("the tests")
        except (bw.BlankUnconfirmed, bw.Overloaded):
            time.sleep(0.2)
    return microscope.control("the tests")


@pytest.fixture
def control(microscope):
    with patient(microscope) as held:
        held.clear_trip()
        yield held


@pytest.fixture
def small():
    """2,048 positions of 5 µs."""
    return bw.Plan(fraction=0.5, dwell=5 * bw.us, pixels=64, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)


@pytest.fixture
def long():
    """Some minutes of beam."""
    return bw.Plan(fraction=1.0, dwell=1 * bw.ms, estimator=bw.Estimator.NEAREST, refinement=0 * bw.ms)
