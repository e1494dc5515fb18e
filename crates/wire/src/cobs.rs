//! Consistent overhead byte stuffing: a packet without zero bytes, so that 0x00 can only be the end of one.
//!
//! The encoded form is the data moved on by one byte, in which every zero is replaced by the distance to the next one; only
//! after 254 bytes without a zero is a byte inserted. Both directions use that: the encoder copies up to 254 bytes at a time
//! and then visits the zeros by a 64-bit mask, the decoder works in place and moves bytes only where one was inserted.
//! Sample data is rich in zeros, where encoders that copy run by run are slow (figures in the README).

/// Longest run of non-zero bytes under one code byte.
const RUN_MAX: usize = 254;

/// The most bytes that `n` bytes of data can become, without the terminator.
#[must_use]
pub const fn encoded_len_max(n: usize) -> usize {
    n + n / RUN_MAX + 1
}

/// Stuffs data pushed in pieces into one packet.
pub(crate) struct Stuffer<'a> {
    out: &'a mut [u8],
    /// Index of the code byte that is not known yet.
    code_idx: usize,
    /// Index of the next byte to write.
    end: usize,
    /// A run of 254 is complete; its code byte is written when (and only if) more data comes.
    is_full: bool,
}

impl<'a> Stuffer<'a> {
    /// Starts a packet in `out`, which must hold [`encoded_len_max`] of all data to come, and a terminator.
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            code_idx: 0,
            end: 1,
            is_full: false,
        }
    }

    /// Appends `data`. Panics if the packet was made too small for it: callers check the length first.
    pub(crate) fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.is_full {
                self.code_idx = self.end;
                self.end += 1;
                self.is_full = false;
            }
            let n_run = self.end - self.code_idx - 1;
            let (now, rest) = data.split_at(data.len().min(RUN_MAX - n_run));
            self.out[self.end..self.end + now.len()].copy_from_slice(now);
            self.code_idx = write_codes(self.out, self.end, now.len(), self.code_idx);
            self.end += now.len();
            if self.end - self.code_idx == RUN_MAX + 1 {
                self.out[self.code_idx] = 0xFF;
                self.is_full = true;
            }
            data = rest;
        }
    }

    /// Writes the last code byte and the terminator; returns the length with the terminator.
    pub(crate) fn finish(self) -> usize {
        if !self.is_full {
            self.out[self.code_idx] = (self.end - self.code_idx) as u8;
        }
        self.out[self.end] = 0;
        self.end + 1
    }
}

/// Replaces each zero in `out[start..start + n]` by a code byte still to be known, and writes the one before it.
/// Returns the index of the last code byte.
#[inline]
fn write_codes(out: &mut [u8], start: usize, n: usize, mut code_idx: usize) -> usize {
    let mut base = start;
    let end = start + n;
    while base < end {
        let mut mask = if base + 64 <= end {
            zero_mask(
                out[base..base + 64]
                    .first_chunk::<64>()
                    .expect("the slice has 64 bytes"),
            )
        } else {
            let mut tail = [1u8; 64];
            tail[..end - base].copy_from_slice(&out[base..end]);
            zero_mask(&tail)
        };
        while mask != 0 {
            let zero_idx = base + mask.trailing_zeros() as usize;
            out[code_idx] = (zero_idx - code_idx) as u8;
            code_idx = zero_idx;
            mask &= mask - 1;
        }
        base += 64;
    }
    code_idx
}

/// Bit `i` is set where byte `i` is zero.
#[inline]
fn zero_mask(bytes: &[u8; 64]) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let mut mask = 0;
    for (i, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // 0x80 in exactly the bytes that are zero, then gathered into one byte.
        let zeros = !(((word & LOW) + LOW) | word | LOW);
        let bits = (zeros >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (8 * i);
    }
    mask
}

/// Undoes the stuffing in place. `packet` is what stood before the terminator. Returns the data, or `None` if the code bytes
/// do not lead exactly to the end. The content of `packet` is unspecified afterwards, apart from the data returned.
pub(crate) fn unstuff(packet: &mut [u8]) -> Option<&[u8]> {
    let n = packet.len();
    // Data after an inserted byte moves down over it, once per inserted byte: `packet[from..]` belongs at `packet[to..]`.
    let (mut from, mut to) = (1, 1);
    let mut code_idx = 0;
    let mut code = *packet.first()?;
    loop {
        let next = code_idx + usize::from(code);
        if code == 0 || next > n {
            return None;
        }
        if next == n {
            break;
        }
        let next_code = packet[next];
        if code == 0xFF {
            packet.copy_within(from..next, to);
            to += next - from;
            from = next + 1;
        } else {
            packet[next] = 0;
        }
        code_idx = next;
        code = next_code;
    }
    packet.copy_within(from..n, to);
    Some(&packet[1..to + n - from])
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    /// The reference encoder is an independent implementation.
    fn check(data: &[u8]) {
        let mut ours = vec![0xAA; encoded_len_max(data.len()) + 1];
        let n = {
            let mut stuffer = Stuffer::new(&mut ours);
            let (a, b) = data.split_at(data.len() / 3);
            stuffer.push(a);
            stuffer.push(b);
            stuffer.finish()
        };
        let mut reference = vec![0; cobs::max_encoding_length(data.len()) + 1];
        let n_reference = cobs::encode(data, &mut reference);
        assert_eq!(&ours[..n - 1], &reference[..n_reference]);
        assert_eq!(ours[n - 1], 0);
        assert_eq!(unstuff(&mut ours[..n - 1]), Some(data));
    }

    #[test]
    fn agrees_with_the_reference_at_every_length_of_run() {
        for n in 0..1030 {
            check(&vec![7; n]);
            check(&vec![0; n]);
            let mut data = vec![9; n];
            data.push(0);
            check(&data);
            data.extend(core::iter::repeat_n(3, 300));
            check(&data);
        }
    }

    #[test]
    fn refuses_code_bytes_that_lead_past_the_end() {
        assert_eq!(unstuff(&mut []), None);
        assert_eq!(unstuff(&mut [3, 1]), None);
        assert_eq!(unstuff(&mut [2, 1, 5]), None);
        assert_eq!(unstuff(&mut [1, 0]), None);
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(data in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..2000)) {
            check(&data);
        }

        #[test]
        fn survives_any_bytes(mut data in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = unstuff(&mut data);
        }
    }
}
