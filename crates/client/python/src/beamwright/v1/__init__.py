"""The messages and calls of the API `beamwright.v1`; the build puts what it generates beside this file."""
