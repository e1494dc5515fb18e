"""Who may call: mutual TLS and tokens, against a real daemon."""

import json
import subprocess

import beamwright as bw
import pytest
from beamwright.testing import BINARY, Daemon


def run(*words):
    """What the command line answers, as JSON."""
    ran = subprocess.run([BINARY, *map(str, words), "--json"], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.strip().splitlines()[-1])


def test_a_certificate_says_who_calls(tmp_path):
    made = run("certs", "init", tmp_path / "lab", "--host", "127.0.0.1")
    tls = "\n".join(f'{key} = "{made[of]}"' for key, of in (("cert", "cert"), ("key", "key"), ("client_ca", "ca")))
    issued = run("certs", "issue", tmp_path / "lab", "ana.lab")
    identity = 'name = "ana.lab"\nrole = "operator"'
    daemon = Daemon(tmp_path, more=f"\n[service.tls]\n{tls}\n[[access.identities]]\n{identity}\n")
    try:
        who = bw.Tls(issued["ca"], issued["cert"], issued["key"])
        with bw.connect(daemon.address, tls=who) as microscope:
            assert microscope.info.caller_role == "operator"
            with microscope.control("ana"):
                pass
        with pytest.raises(bw.Unreachable):
            bw.connect(daemon.address, timeout_s=1)
    finally:
        daemon.kill()


def test_a_token_says_who_calls(tmp_path):
    daemon = Daemon(tmp_path, more='\n[access]\nwithout_token = "none"\n')
    try:
        with pytest.raises(bw.Denied):
            bw.connect(daemon.address)
        token = run("token", "add", "ana", "--role", "operator", "--config", tmp_path / "beamwright.toml")["token"]
        with bw.control(daemon.address, token=token) as control:
            assert control.microscope.info.caller_role == "operator"
    finally:
        daemon.kill()
