//! The closed loop: a pure state machine and the threads that carry its events.
