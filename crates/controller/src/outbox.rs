//! Where a controller's packets go.

use wire::Header;

/// The way to the host. A link encodes packets into its send buffer; a simulator in one process hands them over as they are.
///
/// A full outbox loses nothing: samples wait in the return ring (and the beam, blanked, when that is full), acknowledgements
/// and trips are sent when there is room, and commands that would need an answer are dropped for the host to send again.
pub trait Outbox {
    /// Bytes that can be taken now, in the measure of [`wire::packet_len_max`].
    fn room(&self) -> usize;

    /// Takes a packet. Only called with `packet_len_max(payload.len()) ≤ room()`.
    fn send(&mut self, header: &Header, payload: &[u8]);
}
