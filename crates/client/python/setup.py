"""Generates the messages of the API from the project's own definitions, as part of building the wheel."""

import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent
DEFINITIONS = HERE.parents[2] / "proto"


class BuildWithMessages(build_py):
    """`build_py`, and `beamwright.v1` from `proto/beamwright/v1`."""

    def run(self):
        super().run()
        self.generate(pathlib.Path(self.build_lib))

    @staticmethod
    def generate(target):
        from grpc_tools import protoc

        include = pathlib.Path(protoc.__file__).parent / "_proto"
        sources = [str(p.relative_to(DEFINITIONS)) for p in sorted(DEFINITIONS.rglob("*.proto"))]
        outputs = [f"--{kind}={target}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        code = protoc.main(["protoc", f"-I{DEFINITIONS}", f"-I{include}", *outputs, *sources])
        if code != 0:
            raise RuntimeError(f"the definitions in {DEFINITIONS} do not compile")
        names = [p.stem for p in sorted((target / "beamwright/v1").glob("*_pb2.py"))]
        lines = ['"""The messages and calls of the API `beamwright.v1`, generated from its definitions."""', ""]
        lines += [f"from beamwright.v1.{name} import *" for name in names]
        lines += [f"from beamwright.v1.{name}_grpc import *" for name in names if name != "lease_pb2"]
        (target / "beamwright/v1/__init__.py").write_text("\n".join(lines) + "\n")


setup(cmdclass={"build_py": BuildWithMessages})
