//! The beamwright binary: service, demo, offline verbs and thin client.
