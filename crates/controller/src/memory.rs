//! The memory of a controller: static arrays in firmware, allocated once in simulators.

use crate::ring::Block;

/// Least number of blocks in a return ring.
pub const BLOCKS_MIN: usize = 8;

/// Where a controller keeps its command queue, its return ring and the packet that it writes. All sizes are constant.
pub trait Memory {
    /// Everything at once.
    fn parts(&mut self) -> Parts<'_>;
}

/// The parts of a [`Memory`].
pub struct Parts<'a> {
    /// The command queue, in bytes: at least [`wire::queue_cost`]`(`[`wire::MAX_PAYLOAD`]`)` to take any packet, less than 2³².
    pub queue: &'a mut [u8],
    /// The return ring, in detector values: capacity in samples × number of detectors, at least one sample.
    pub samples: &'a mut [u16],
    /// What the return ring is cut into, at least [`BLOCKS_MIN`]: a scan with many holds can fill them before the samples.
    pub blocks: &'a mut [Block],
    /// Where payloads are put together: at least [`wire::MAX_PAYLOAD`] bytes.
    pub payload: &'a mut [u8],
}

/// Memory of fixed size, for a `static` or the stack: `Q` bytes of queue, `S` detector values, `B` blocks, `P` bytes of payload.
#[derive(Clone, Debug)]
pub struct Arrays<const Q: usize, const S: usize, const B: usize, const P: usize> {
    queue: [u8; Q],
    samples: [u16; S],
    blocks: [Block; B],
    payload: [u8; P],
}

impl<const Q: usize, const S: usize, const B: usize, const P: usize> Arrays<Q, S, B, P> {
    /// Empty memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: [0; Q],
            samples: [0; S],
            blocks: [Block::EMPTY; B],
            payload: [0; P],
        }
    }
}

impl<const Q: usize, const S: usize, const B: usize, const P: usize> Default
    for Arrays<Q, S, B, P>
{
    fn default() -> Self {
        Self::new()
    }
}

impl<const Q: usize, const S: usize, const B: usize, const P: usize> Memory for Arrays<Q, S, B, P> {
    fn parts(&mut self) -> Parts<'_> {
        Parts {
            queue: &mut self.queue,
            samples: &mut self.samples,
            blocks: &mut self.blocks,
            payload: &mut self.payload,
        }
    }
}

/// Memory allocated once, for simulators.
#[cfg(feature = "alloc")]
#[derive(Clone, Debug)]
pub struct HeapMemory {
    queue: alloc::boxed::Box<[u8]>,
    samples: alloc::boxed::Box<[u16]>,
    blocks: alloc::boxed::Box<[Block]>,
    payload: alloc::boxed::Box<[u8]>,
}

#[cfg(feature = "alloc")]
impl HeapMemory {
    /// Memory for `queue_bytes` of commands and `n_samples` samples of `n_detectors` values.
    #[must_use]
    pub fn new(queue_bytes: usize, n_samples: usize, n_detectors: usize) -> Self {
        let n_blocks = (n_samples / 16).max(64);
        Self {
            queue: alloc::vec![0; queue_bytes].into(),
            samples: alloc::vec![0; n_samples * n_detectors].into(),
            blocks: alloc::vec![Block::EMPTY; n_blocks].into(),
            payload: alloc::vec![0; wire::MAX_PAYLOAD].into(),
        }
    }
}

#[cfg(feature = "alloc")]
impl Memory for HeapMemory {
    fn parts(&mut self) -> Parts<'_> {
        Parts {
            queue: &mut self.queue,
            samples: &mut self.samples,
            blocks: &mut self.blocks,
            payload: &mut self.payload,
        }
    }
}
