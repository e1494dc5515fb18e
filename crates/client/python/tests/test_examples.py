"""The examples, and the programs of the READMEs, run as they stand."""

import importlib
import pathlib

import pytest
from beamwright import v1
from beamwright.arrays import package
from beamwright.testing import blocks, run

CLIENT = pathlib.Path(__file__).parents[1]
EVERY_CALL = CLIENT / "examples" / "every_call.py"
EXAMPLES = sorted(set((CLIENT / "examples").glob("*.py")) - {EVERY_CALL})
READMES = [CLIENT / "README.md", CLIENT.parents[2] / "README.md"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, daemon, control):
    control.release()  # the example takes control itself
    assert run(path.read_text(), daemon.address).strip()


def test_every_call_of_the_api_is_shown_and_runs(own_daemon):
    """On a service of its own, as it puts a calibration in force."""
    program = EVERY_CALL.read_text()
    services = [getattr(v1, name) for name in dir(v1) if name.endswith("Servicer")]
    calls = [name for service in services for name in vars(service) if not name.startswith("_")]
    assert len(calls) > 30
    assert [name for name in calls if f".{name}(" not in program] == []
    assert "free: True" in run(program, own_daemon.address)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_the_readme_runs(path, daemon, control):
    control.release()
    for program in blocks(path):
        assert run(program, daemon.address).strip()


def test_what_is_missing_is_named_with_what_to_install():
    with pytest.raises(ImportError, match=r"this needs nowhere: pip install 'beamwright\[progress\]'"):
        package("nowhere.at_all", "progress")
    assert package("json", "progress") is importlib.import_module("json")
