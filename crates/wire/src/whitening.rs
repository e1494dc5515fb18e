//! Whitening: bulk values are XORed with a constant, byte by byte, so that few of them are zero on the line.
//!
//! Few electrons give small counts: every high byte, and often the low one, is zero. Stuffing costs a step per zero, in both
//! directions, and most of the time of the link went there (figures in the README). XOR with a constant costs nothing in a
//! vectorised loop; data that happens to equal the constant is as slow as zeros were, and as correct.

/// What each byte of positions and samples is XORed with: alternating bits, as no code of a parked probe, empty or saturated
/// detector has them.
const KEY: u8 = 0x5A;
/// The key for eight bytes at once.
pub(crate) const KEYS: u64 = u64::from_le_bytes([KEY; 8]);

/// A value as bytes on the line.
#[must_use]
pub const fn whitened(value: u16) -> [u8; 2] {
    (value ^ KEYS as u16).to_le_bytes()
}

/// A value from bytes on the line.
pub(crate) const fn unwhitened(bytes: [u8; 2]) -> u16 {
    u16::from_le_bytes(bytes) ^ KEYS as u16
}
