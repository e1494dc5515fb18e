//! What goes to the host: owed answers first, then outcomes in order, then the status.

use wire::{
    Ack, Arming, BarrierReached, Blanked, Gap, Header, Nak, Report, SampleHead, Tripped,
    packet_len_max,
};

use crate::controller::Controller;
use crate::memory::{Memory, Parts};
use crate::outbox::Outbox;
use crate::ring::{Block, Content, transpose};

impl<M: Memory> Controller<M> {
    /// Sends a control message if there is room. Returns whether it was sent.
    pub(crate) fn reply(&mut self, report: &Report<'_>, outbox: &mut impl Outbox) -> bool {
        let arming = self.arming_in_force();
        self.send(report, arming, 0, outbox)
    }

    /// Sends the answer to a replay, under the arming whose outcomes are held.
    pub(crate) fn reply_replay(&mut self, report: &Report<'_>, outbox: &mut impl Outbox) -> bool {
        let arming = Arming {
            session: self.link.session,
            counter: self.link.last_arming,
        };
        self.send(report, arming, Header::REPLAY, outbox)
    }

    fn send(
        &mut self,
        report: &Report<'_>,
        arming: Arming,
        flags: u8,
        outbox: &mut impl Outbox,
    ) -> bool {
        let payload = self.memory.parts().payload;
        let Ok(n) = report.write(payload) else {
            return false;
        };
        if outbox.room() < packet_len_max(n) {
            return false;
        }
        let header = Header {
            packet_type: report.packet_type() as u8,
            flags,
            sequence: self.link.n_sent,
            arming,
        };
        outbox.send(&header, &payload[..n]);
        self.link.n_sent = self.link.n_sent.wrapping_add(1);
        true
    }

    /// Sends what is owed, as far as there is room.
    pub(crate) fn send_owed(&mut self, outbox: &mut impl Outbox) {
        if let Some(tick) = self.link.owes_blanked
            && self.reply(&Report::Blanked(Blanked { tick }), outbox)
        {
            self.link.owes_blanked = None;
        }
        if self.link.session == 0 {
            return;
        }
        if self.link.owes_tripped {
            let next_queued = self.ring.next_outcome();
            self.link.owes_tripped = self.trip.is_some_and(|trip| {
                !self.reply(&Report::Tripped(Tripped { trip, next_queued }), outbox)
            });
        }
        let next_sequence = self.link.next_sequence;
        if self.link.owes_nak {
            self.link.owes_nak = !self.reply(&Report::Nak(Nak { next_sequence }), outbox);
        }
        if self.link.owes_ack {
            self.link.owes_ack = !self.reply(&Report::Ack(Ack { next_sequence }), outbox);
        }
        while let Some((block, was_sent)) = self.ring.next_unsent(self.memory.parts().blocks) {
            if !self.send_block(&block, was_sent, outbox) {
                break;
            }
            self.ring.sent();
        }
        self.send_status(outbox);
    }

    fn send_status(&mut self, outbox: &mut impl Outbox) {
        let period = self
            .configuration
            .as_ref()
            .map(|configuration| u64::from(configuration.status_ticks));
        let is_due = period.is_some() && self.tick >= self.link.status_due;
        if !is_due && !self.link.owes_status {
            return;
        }
        let status = self.status();
        if self.reply(&Report::Status(status), outbox) {
            self.link.owes_status = false;
            self.link.status_due = self.tick + period.unwrap_or(0);
        }
    }

    fn send_block(&mut self, block: &Block, was_sent: bool, outbox: &mut impl Outbox) -> bool {
        let arming = Arming {
            session: self.link.session,
            counter: self.link.last_arming,
        };
        let flags = if was_sent { Header::REPLAY } else { 0 };
        let is_sent = match block.content {
            Content::Samples => self.send_samples(block, arming, flags, outbox),
            Content::Gap(cause) => {
                let gap = Gap {
                    first_position: block.first_position,
                    n_positions: block.n_positions,
                    cause,
                    tick: block.tick,
                    unblanked_settle_ticks: block.unblanked_settle_ticks,
                    unblanked_dwell_ticks: block.unblanked_dwell_ticks,
                };
                self.send(&Report::Gap(gap), arming, flags, outbox)
            }
            Content::Barrier(id) => self.send(
                &Report::BarrierReached(BarrierReached {
                    id,
                    tick: block.tick,
                }),
                arming,
                flags,
                outbox,
            ),
        };
        self.counters.replays += u32::from(is_sent && was_sent);
        is_sent
    }

    fn send_samples(
        &mut self,
        block: &Block,
        arming: Arming,
        flags: u8,
        outbox: &mut impl Outbox,
    ) -> bool {
        let n_detectors = self.capabilities.detectors.len();
        let head = SampleHead {
            first_position: block.first_position,
            first_tick: block.tick,
            unblanked_settle_ticks: block.unblanked_settle_ticks,
            unblanked_dwell_ticks: block.unblanked_dwell_ticks,
            queue_bytes_consumed: self.queue.consumed(),
            n_samples: block.n_positions as u16,
            n_detectors: n_detectors as u8,
        };
        if outbox.room() < packet_len_max(head.payload_len()) {
            return false;
        }
        let Parts {
            samples, payload, ..
        } = self.memory.parts();
        let Ok(rows) = head.write(payload) else {
            return false;
        };
        let n = usize::from(head.n_samples);
        let slot = self.ring.slot(block.first_position);
        let n_before_wrap = n.min(self.ring.n_before_wrap(block.first_position) as usize);
        transpose(
            &samples[slot * n_detectors..(slot + n_before_wrap) * n_detectors],
            n_detectors,
            rows,
            0,
        );
        transpose(
            &samples[..(n - n_before_wrap) * n_detectors],
            n_detectors,
            rows,
            n_before_wrap,
        );
        let header = Header {
            packet_type: wire::PacketType::Samples as u8,
            flags,
            sequence: self.link.n_sent,
            arming,
        };
        outbox.send(&header, &payload[..head.payload_len()]);
        self.link.n_sent = self.link.n_sent.wrapping_add(1);
        true
    }
}
