//! Little-endian arrays into bytes and back. The loops compile to plain copies on little-endian machines.

/// Appends `values`.
macro_rules! put {
    ($name:ident, $value:ty, $n:literal) => {
        pub(crate) fn $name(buffer: &mut Vec<u8>, values: &[$value]) {
            let start = buffer.len();
            buffer.resize(start + $n * values.len(), 0);
            let (places, _) = buffer[start..].as_chunks_mut::<$n>();
            for (place, value) in places.iter_mut().zip(values) {
                *place = value.to_le_bytes();
            }
        }
    };
}

put!(put_f32, f32, 4);
put!(put_u32, u32, 4);
put!(put_u16, u16, 2);

/// Takes values off the front of a payload; every method answers `None` where the payload is too short.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn f64(&mut self) -> Option<f64> {
        self.array().map(f64::from_le_bytes)
    }

    pub(crate) fn f32s(&mut self, n: usize) -> Option<Vec<f32>> {
        let (values, _) = self.bytes(n.checked_mul(4)?)?.as_chunks::<4>();
        Some(values.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    pub(crate) fn u32s(&mut self, n: usize) -> Option<Vec<u32>> {
        let (values, _) = self.bytes(n.checked_mul(4)?)?.as_chunks::<4>();
        Some(values.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    pub(crate) fn u16s(&mut self, n: usize) -> Option<impl Iterator<Item = u16> + use<'a>> {
        let (values, _) = self.bytes(n.checked_mul(2)?)?.as_chunks::<2>();
        Some(values.iter().map(|b| u16::from_le_bytes(*b)))
    }
}
