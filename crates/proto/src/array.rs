//! Arrays on the wire: `bytes` of little-endian values.

use bytes::Bytes;
use domain::Invalid;

/// Little-endian bytes of `values`.
#[must_use]
pub fn bytes_of_f32s(values: &[f32]) -> Bytes {
    let mut out = vec![0; 4 * values.len()];
    for (to, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
    out.into()
}

/// Little-endian bytes of `values`.
#[must_use]
pub fn bytes_of_u32s(values: &[u32]) -> Bytes {
    let mut out = vec![0; 4 * values.len()];
    for (to, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
    out.into()
}

/// The values in `bytes`; refuses a length that is no multiple of 4. Values may be anything, NaN included.
pub fn f32s_of_bytes(field: &str, bytes: &[u8]) -> Result<Vec<f32>, Invalid> {
    let words = words_of(field, bytes)?;
    Ok(words.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// The values in `bytes`; refuses a length that is no multiple of 4.
pub fn u32s_of_bytes(field: &str, bytes: &[u8]) -> Result<Vec<u32>, Invalid> {
    let words = words_of(field, bytes)?;
    Ok(words.iter().map(|b| u32::from_le_bytes(*b)).collect())
}

/// Refuses an array whose length is not `n`.
pub(crate) fn expect_len(field: &str, got: usize, n: usize) -> Result<(), Invalid> {
    if got == n {
        Ok(())
    } else {
        Err(Invalid::new(
            field.to_owned(),
            format!("{got} values"),
            format!("{n} values"),
        ))
    }
}

fn words_of<'a>(field: &str, bytes: &'a [u8]) -> Result<&'a [[u8; 4]], Invalid> {
    match bytes.as_chunks::<4>() {
        (words, []) => Ok(words),
        _ => Err(Invalid::new(
            field.to_owned(),
            format!("{} bytes", bytes.len()),
            "a multiple of 4 bytes",
        )),
    }
}
