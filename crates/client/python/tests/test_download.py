"""Data sets as zip files over HTTP, unpacked by Python and read by HyperSpy."""

import shutil
import urllib.error
import urllib.request
import zipfile

import hyperspy.api as hs
import numpy as np
import pytest
from beamwright.testing import Daemon


def fetch(daemon, path, to, token=""):
    request = urllib.request.Request(f"http://{daemon.address}/data/{path}")
    if token:
        request.add_header("authorization", f"Bearer {token}")
    with urllib.request.urlopen(request) as answer, open(to, "wb") as file:
        shutil.copyfileobj(answer, file)
        return answer.headers


def refused(daemon, path, tmp_path):
    with pytest.raises(urllib.error.HTTPError) as error:
        fetch(daemon, path, tmp_path / "nothing")
    return error.value.code, error.value.read().decode()


def test_a_downloaded_data_set_is_the_one_that_was_recorded(daemon, control, small, tmp_path):
    acquisition = control.acquire(small)
    told = acquisition.wait()
    name = acquisition.name.removeprefix("acquisitions/") + ".zspy"
    headers = fetch(daemon, f"{name}.zip", tmp_path / "set.zip")
    assert int(headers["content-length"]) == (tmp_path / "set.zip").stat().st_size
    assert f'filename="{name}.zip"' in headers["content-disposition"]
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    root = daemon.folder / name
    assert told.result.dataset_path == str(root)
    files = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file()}
    assert all((root / path).read_bytes() == (tmp_path / name / path).read_bytes() for path in files)
    image = acquisition.image()
    assert any(np.array_equal(signal.data, image) for signal in hs.load(tmp_path / name))


def test_what_is_still_recorded_or_does_not_exist_is_refused(daemon, control, long, tmp_path):
    acquisition = control.acquire(long)
    name = acquisition.name.removeprefix("acquisitions/")
    code, text = refused(daemon, f"{name}.zspy.zip", tmp_path)
    assert code == 409 and "its data set is complete when it has ended" in text
    acquisition.abort()
    for path in ("20200101-000000-000.zspy.zip", "..%2f..%2fetc.zspy.zip", f"{name}", ".zspy.zip"):
        assert refused(daemon, path, tmp_path)[0] == 404, path


def test_who_may_not_read_samples_may_not_download(tmp_path):
    with Daemon(tmp_path, more='[access]\nwithout_token = "none"\n') as closed:
        code, _ = refused(closed, "20200101-000000-000.zspy.zip", tmp_path)
    assert code == 401
