//! The controller protocol: codes and ticks, framing, messages. No allocation, shared with firmware.
