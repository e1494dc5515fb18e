//! The state machine.

use wire::{Capabilities, DecoderCounters, Packet, Status, Tick, TripCause};

use crate::hardware::Hardware;
use crate::memory::Memory;
use crate::outbox::Outbox;

/// A scan controller. Time only passes in [`Controller::advance`].
pub struct Controller<M> {
    memory: M,
    capabilities: Capabilities,
    status: Status,
}

impl<M: Memory> Controller<M> {
    /// A controller that has just been switched on: no session, beam blanked. `capabilities.queue_bytes` and `return_samples`
    /// are set from the memory.
    pub fn new(memory: M, capabilities: Capabilities) -> Self {
        Self {
            memory,
            capabilities,
            status: Status::default(),
        }
    }

    /// Obeys a packet that was received at tick `now` (which may be ahead of [`Controller::tick`] while a position is exposed).
    pub fn on_packet(
        &mut self,
        packet: &Packet<'_>,
        now: Tick,
        hardware: &mut impl Hardware,
        outbox: &mut impl Outbox,
    ) {
        let _ = (packet, now, hardware, outbox, self.memory.parts());
    }

    /// Executes everything due up to and including `until`, each thing at its own tick, and sends what there is room for.
    pub fn advance(&mut self, until: Tick, hardware: &mut impl Hardware, outbox: &mut impl Outbox) {
        let _ = (hardware, outbox);
        self.status.tick = until;
    }

    /// The next tick at which something happens without a packet: end of settling or dwell, watchdog, status, block.
    pub fn next_event(&self) -> Option<Tick> {
        None
    }

    /// The tick at which the watchdog trips unless a heartbeat comes; `None` if not armed.
    pub fn watchdog_deadline(&self) -> Option<Tick> {
        None
    }

    /// Blanks and trips because of something that the hardware noticed (interlock, fault).
    pub fn fault(
        &mut self,
        cause: TripCause,
        hardware: &mut impl Hardware,
        outbox: &mut impl Outbox,
    ) {
        let _ = (cause, hardware, outbox);
    }

    /// The tick up to which everything is executed.
    pub fn tick(&self) -> Tick {
        self.status.tick
    }

    /// The state, as a status packet would say it.
    pub fn status(&self) -> Status {
        self.status
    }

    /// What the controller says about itself.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Tells what the decoder of the link has counted, for the status.
    pub fn set_link_counters(&mut self, counters: DecoderCounters) {
        self.status.counters.crc_errors = counters.crc_errors;
    }
}
