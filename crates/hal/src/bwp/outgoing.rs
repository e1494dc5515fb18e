//! Bytes on their way to the device: the go-back-N window, and urgent packets that overtake it.
//!
//! Sequenced packets lie encoded, one after the other, in one buffer until they are acknowledged; going back is moving the
//! write mark, and the socket is fed from the buffer itself. What is in the buffer is bounded by the window, so the urgent
//! packets never stand behind more than that. A blank does not even wait for the packet that is half written: that one is cut
//! off by a terminator (the device drops it for its CRC) and sent again later.

use std::collections::VecDeque;
use wire::{Arming, EncodeError, Header, MAX_PACKET, PacketType, encode, packet_len_max};

#[derive(Debug, Clone, Copy)]
struct Entry {
    sequence: u32,
    start: usize,
    end: usize,
}

pub(super) struct Outgoing {
    /// Encoded sequenced packets; `[head..end]` is not acknowledged, `[written..end]` not (or again not) written.
    bulk: Box<[u8]>,
    head: usize,
    written: usize,
    end: usize,
    entries: VecDeque<Entry>,
    /// Index in `entries` of the packet that `written` lies in or before.
    cursor: usize,
    next_sequence: u32,
    window_bytes: usize,
    urgent: Vec<u8>,
    urgent_written: usize,
    /// Packets written again.
    n_retransmits: u64,
    /// Packets before this sequence were written at least once.
    written_once: u32,
}

impl Outgoing {
    /// At most `window_bytes` are unacknowledged at any time (but always at least one packet).
    pub(super) fn new(window_bytes: usize) -> Self {
        Self {
            bulk: vec![0; 2 * window_bytes + 3 * MAX_PACKET].into_boxed_slice(),
            head: 0,
            written: 0,
            end: 0,
            entries: VecDeque::with_capacity(256),
            cursor: 0,
            next_sequence: 1,
            window_bytes,
            urgent: Vec::with_capacity(1024),
            urgent_written: 0,
            n_retransmits: 0,
            written_once: 1,
        }
    }

    /// Whether a sequenced packet with so long a payload fits the window now.
    pub(super) fn has_room(&self, n_payload: usize) -> bool {
        self.entries.is_empty()
            || self.end - self.head + packet_len_max(n_payload) <= self.window_bytes
    }

    /// Whether everything sequenced was acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether some sequenced packet was written out and is not acknowledged.
    pub(super) fn is_waiting(&self) -> bool {
        self.cursor > 0 || self.written > self.head
    }

    /// The sequence that the next sequenced packet will have.
    pub(super) fn next_sequence(&self) -> u32 {
        self.next_sequence
    }

    pub(super) fn n_retransmits(&self) -> u64 {
        self.n_retransmits
    }

    /// Appends a sequenced packet; returns its sequence. Callers ask [`Self::has_room`] first.
    pub(super) fn push(
        &mut self,
        packet_type: PacketType,
        arming: Arming,
        payload: &[u8],
    ) -> Result<u32, EncodeError> {
        if self.bulk.len() - self.end < packet_len_max(payload.len()) {
            self.compact();
        }
        let sequence = self.next_sequence;
        let header = Header {
            packet_type: packet_type as u8,
            flags: 0,
            sequence,
            arming,
        };
        let n = encode(&header, payload, &mut self.bulk[self.end..])?;
        let start = self.end;
        self.end += n;
        let end = self.end;
        self.entries.push_back(Entry {
            sequence,
            start,
            end,
        });
        self.next_sequence = sequence.wrapping_add(1);
        Ok(sequence)
    }

    /// Appends an unsequenced packet that goes out at the next packet boundary.
    pub(super) fn push_urgent(
        &mut self,
        packet_type: PacketType,
        arming: Arming,
        payload: &[u8],
    ) -> Result<(), EncodeError> {
        let header = Header {
            packet_type: packet_type as u8,
            flags: 0,
            sequence: 0,
            arming,
        };
        let start = self.urgent.len();
        self.urgent.resize(start + packet_len_max(payload.len()), 0);
        let result = encode(&header, payload, &mut self.urgent[start..]);
        self.urgent.truncate(start + result.unwrap_or(0));
        result.map(|_| ())
    }

    /// Cuts off what is half written, by a terminator, so that the next byte begins a packet, and forgets urgent packets. Two
    /// terminators in a row are silence.
    pub(super) fn preempt(&mut self) {
        self.urgent.clear();
        self.urgent_written = 0;
        self.rewind_packet();
        self.urgent.push(0);
    }

    /// Everything before `next_sequence` has arrived. Whether that is news; `None` if it was never sent.
    pub(super) fn acknowledge(&mut self, next_sequence: u32) -> Option<bool> {
        if is_before(self.next_sequence, next_sequence) {
            return None;
        }
        let n = self
            .entries
            .iter()
            .take_while(|e| is_before(e.sequence, next_sequence))
            .count();
        if n == 0 {
            return Some(false);
        }
        let is_cut = self.cursor < n && self.is_mid_packet();
        self.head = self.entries[n - 1].end;
        self.entries.drain(..n);
        if self.cursor < n {
            // Acknowledged while being sent again: leave it there, and end what is half written.
            self.cursor = 0;
            self.written = self.head;
            if is_cut {
                self.push_terminator();
            }
        } else {
            self.cursor -= n;
        }
        if self.entries.is_empty() {
            (self.head, self.written, self.end) = (0, 0, 0);
        }
        Some(true)
    }

    /// Sends everything that is not acknowledged again.
    pub(super) fn rewind(&mut self) {
        let is_cut = self.is_mid_packet();
        self.cursor = 0;
        self.written = self.head;
        if is_cut {
            self.push_terminator();
        }
    }

    /// Forgets everything sequenced and starts a new session: sequence 1.
    pub(super) fn restart(&mut self) {
        self.preempt();
        self.entries.clear();
        (self.head, self.written, self.end, self.cursor) = (0, 0, 0, 0);
        self.next_sequence = 1;
        self.written_once = 1;
    }

    /// Whether urgent packets wait to be written.
    pub(super) fn has_urgent(&self) -> bool {
        self.urgent_written < self.urgent.len()
    }

    /// What to write next; empty if there is nothing.
    pub(super) fn output(&self) -> &[u8] {
        if !self.has_urgent() {
            return &self.bulk[self.written..self.end];
        }
        if self.urgent_written == 0 && self.is_mid_packet() {
            return &self.bulk[self.written..self.entries[self.cursor].end];
        }
        &self.urgent[self.urgent_written..]
    }

    /// `n` bytes of [`Self::output`] were written.
    pub(super) fn wrote(&mut self, n: usize) {
        let is_urgent = self.has_urgent() && (self.urgent_written > 0 || !self.is_mid_packet());
        if is_urgent {
            self.urgent_written += n;
            if !self.has_urgent() {
                self.urgent.clear();
                self.urgent_written = 0;
            }
            return;
        }
        self.written += n;
        while let Some(entry) = self.entries.get(self.cursor) {
            if self.written < entry.end {
                break;
            }
            if is_before(entry.sequence, self.written_once) {
                self.n_retransmits += 1;
            } else {
                self.written_once = entry.sequence.wrapping_add(1);
            }
            self.cursor += 1;
        }
    }

    fn is_mid_packet(&self) -> bool {
        self.entries
            .get(self.cursor)
            .is_some_and(|e| e.start < self.written)
    }

    fn rewind_packet(&mut self) {
        if let Some(entry) = self.entries.get(self.cursor) {
            self.written = entry.start;
        }
    }

    /// Ends the half-written packet of the bulk ahead of the urgent packets that wait.
    fn push_terminator(&mut self) {
        if self.urgent_written == 0 {
            self.urgent.insert(0, 0);
        } else {
            self.urgent.push(0);
        }
    }

    fn compact(&mut self) {
        let head = self.head;
        self.bulk.copy_within(head..self.end, 0);
        for entry in &mut self.entries {
            entry.start -= head;
            entry.end -= head;
        }
        self.head = 0;
        self.written -= head;
        self.end -= head;
    }
}

/// Order of sequences, which wrap.
pub(super) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests;
