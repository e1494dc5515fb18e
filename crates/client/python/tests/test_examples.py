"""The examples run as they stand."""

import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = sorted((pathlib.Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, daemon, control):
    control.release()  # the example takes control itself
    ran = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "BEAMWRIGHT_ADDRESS": daemon.address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
