"""A real service on the simulated microscope, for the tests of whatever uses this client.

    with beamwright.testing.Daemon(folder) as daemon:
        with bw.control(daemon.address) as control:
            ...

Its pytest fixtures `daemon` and `microscope` are imported by whose `conftest.py` wants them.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

from beamwright.client import Microscope, connect

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
    """`beamwright serve` in a process of its own, that can be killed and started again on the same port.

    `BEAMWRIGHT` names the binary; `more` is added to the configuration, and data sets go to `folder`."""

    def __init__(self, folder: pathlib.Path, uri: str = "sim:", more: str = "") -> None:
        self.folder, self.uri, self.more, self.port = folder, uri, more, 0
        self.start()

    def start(self) -> None:
        """Starts it, and returns when it listens at `address`."""
        config = self.folder / "beamwright.toml"
        config.write_text(CONFIG.format(port=self.port, folder=self.folder, uri=self.uri) + self.more)
        command = [BINARY, "serve", "--config", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout and self.process.stderr
        for line in self.process.stdout:
            if found := re.search(r"https?://(127\.0\.0\.1):(\d+)", line):
                self.port = int(found.group(2))
                self.address = f"127.0.0.1:{self.port}"
                return
        raise RuntimeError(f"the service named no address: {self.process.stderr.read()}")

    def kill(self) -> None:
        """As a power cut does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As an administrator does; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def run(program: str, address: str, timeout_s: float = 300.0) -> str:
    """Runs a program on its own, with `address` for a service that it does not name; what it printed."""
    environment = {**os.environ, "BEAMWRIGHT_SERVER": address}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def blocks(readme: pathlib.Path) -> list[str]:
    """The blocks of Python in a text; there has to be one."""
    found = re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{readme} has no block of Python"
    return found


try:
    import pytest
except ImportError:  # whoever does not test does not need it
    pass
else:

    @pytest.fixture(scope="session")
    def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
        """One service for all tests; it must end in order."""
        running = Daemon(tmp_path_factory.mktemp("daemon"))
        yield running
        assert running.stop() == 0, "the service ends in order"

    @pytest.fixture
    def microscope(daemon: Daemon) -> Iterator[Microscope]:
        """A connection of the test's own."""
        with connect(daemon.address) as connected:
            yield connected
