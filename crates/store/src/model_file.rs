//! Learned models on disk: what one acquisition has learned of its specimen, for the next.
//!
//! One file, little-endian: `BWMODEL` and a zero, version u32, number of detectors u32; for each detector the length of its
//! name u8 and the name, side u32, components u32, mean f64, scale f64, and as f32 weights, means and upper triangles of the
//! covariances, as [`PatchModel`] has them; last the CRC-32C of all before. In a data set it is the file `model`.

use crate::Error;
use crate::journal::bytes::{Cursor, put_f32};
use crate::zarr::write_whole;
use domain::{DetectorName, Invalid, PatchModel};
use std::borrow::Borrow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"BWMODEL\0";
const VERSION: u32 = 1;
/// Longest file that is read, bytes: a broken one must not ask for more.
const MAX_BYTES: u64 = 64 << 20;
/// Most detectors.
const MAX_DETECTORS: usize = 16;

/// Where the data set at `directory` keeps what was learned from it.
#[must_use]
pub fn model_path(directory: &Path) -> PathBuf {
    directory.join("model")
}

/// Where the data set at `directory` keeps the models it was given to start from: a replay needs them.
#[must_use]
pub fn given_model_path(directory: &Path) -> PathBuf {
    directory.join("model-given")
}

/// Writes `models` to the file `path`; whole, or not at all.
pub fn write_models<M: Borrow<PatchModel>>(path: &Path, models: &[M]) -> Result<(), Error> {
    write_whole(path, &encoded(models))
}

/// The models in a data set, or in a file of their own. Sizes are bounded and everything is checked before it is believed.
pub fn read_models(path: &Path) -> Result<Vec<PatchModel>, Error> {
    let file = if path.is_dir() {
        model_path(path)
    } else {
        path.to_owned()
    };
    let mut bytes = Vec::new();
    match File::open(&file) {
        Ok(open) => open.take(MAX_BYTES + 1).read_to_end(&mut bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_dir() => {
            let allowed = "a data set with a learned model: of an acquisition with the estimator auto or gmm that ended with a mixture";
            return Err(Invalid::new("model", path.display(), allowed).into());
        }
        Err(error) => Err(error),
    }
    .map_err(Error::io(&file))?;
    models_of_bytes(&bytes, &file)
}

fn encoded<M: Borrow<PatchModel>>(models: &[M]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((models.len() as u32).to_le_bytes());
    for model in models.iter().map(Borrow::borrow) {
        let name = model.detector.as_str().as_bytes();
        bytes.push(name.len() as u8);
        bytes.extend(name);
        bytes.extend(model.side.to_le_bytes());
        bytes.extend((model.weights.len() as u32).to_le_bytes());
        bytes.extend(model.mean.to_le_bytes());
        bytes.extend(model.scale.to_le_bytes());
        for values in [&model.weights, &model.means, &model.covariances] {
            put_f32(&mut bytes, values);
        }
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// The models in the content of a file; `path` is what errors call it.
pub fn models_of_bytes(bytes: &[u8], path: &Path) -> Result<Vec<PatchModel>, Error> {
    let refuse = |field: &'static str, found: String, expected: &'static str| Error::Format {
        path: path.to_owned(),
        field,
        found,
        expected,
    };
    if bytes.len() as u64 > MAX_BYTES {
        let found = format!("more than {MAX_BYTES} bytes");
        return Err(refuse("model", found, "at most 64 MiB"));
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        let expected = "a model file, or a data set that holds one";
        return Err(refuse("model", "other content".into(), expected));
    };
    let cut = || refuse("model", "a file that is cut".into(), "all of the file");
    let (rest, crc) = rest.split_last_chunk::<4>().ok_or_else(cut)?;
    let mut cursor = Cursor::new(rest);
    let version = cursor.u32().ok_or_else(cut)?;
    if version != VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            found: version,
            supported: VERSION,
        });
    }
    let computed = crc32c::crc32c(&bytes[..bytes.len() - 4]);
    if computed != u32::from_le_bytes(*crc) {
        let found = format!("checksum {computed:08x}");
        return Err(refuse("model", found, "the checksum at its end"));
    }
    let n = cursor.u32().ok_or_else(cut)? as usize;
    if !(1..=MAX_DETECTORS).contains(&n) {
        return Err(refuse("model.detectors", n.to_string(), "1 to 16"));
    }
    let mut models = Vec::with_capacity(n);
    for _ in 0..n {
        models.push(one(&mut cursor)?.ok_or_else(cut)?);
    }
    if !cursor.is_done() {
        let found = "bytes after the last detector".to_owned();
        return Err(refuse("model", found, "none"));
    }
    Ok(models)
}

/// One detector's model; `None` where the file ends before it does.
fn one(cursor: &mut Cursor<'_>) -> Result<Option<PatchModel>, Invalid> {
    let mut read = || {
        let n_name = cursor.u8()?;
        let name = String::from_utf8_lossy(cursor.bytes(n_name.into())?).into_owned();
        let (side, n) = (cursor.u32()?, cursor.u32()?);
        let (mean, scale) = (cursor.f64()?, cursor.f64()?);
        // Sizes that are refused are not read.
        let area = side.min(PatchModel::MAX_SIDE + 1).pow(2) as usize;
        let n = (n as usize).min(PatchModel::MAX_COMPONENTS + 1);
        Some((
            name,
            PatchModel {
                detector: DetectorName::new("unnamed").ok()?,
                side,
                mean,
                scale,
                weights: cursor.f32s(n)?,
                means: cursor.f32s(n * area)?,
                covariances: cursor.f32s(n * PatchModel::n_triangle(area))?,
            },
        ))
    };
    let Some((name, model)) = read() else {
        return Ok(None);
    };
    let detector = DetectorName::new(&name).map_err(|e| e.within("model"))?;
    let model = PatchModel { detector, ..model };
    model.check()?;
    Ok(Some(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(detector: &str) -> PatchModel {
        PatchModel {
            detector: DetectorName::new(detector).unwrap(),
            side: 2,
            mean: 0.125,
            scale: 0.5,
            weights: vec![0.25, 0.75],
            means: (0..8).map(|i| i as f32).collect(),
            covariances: [1.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5, 1.0].repeat(2),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn refused(bytes: &[u8]) -> String {
        let error = models_of_bytes(bytes, Path::new("m")).unwrap_err();
        error.to_string()
    }

    /// With the checksum that fits.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let models = [model("haadf"), model("abf")];
        let directory = tempfile::tempdir().unwrap();
        let path = model_path(directory.path());
        write_models(&path, &models).unwrap();
        assert_eq!(read_models(&path).unwrap(), models);
        assert_eq!(read_models(directory.path()).unwrap(), models);
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let bytes = encoded(&[model("haadf")]);
        let head = "42574d4f44454c000100000001000000056861616466\
                    0200000002000000000000000000c03f000000000000e03f0000803e0000403f";
        assert_eq!(hex(&bytes)[..head.len()], *head);
        assert_eq!(bytes.len(), 16 + 6 + 8 + 16 + 4 * (2 + 8 + 20) + 4);
        assert_eq!(hex(&bytes[bytes.len() - 4..]), "50204161");
    }

    #[test]
    fn damage_is_refused_by_name_wherever_it_is() {
        let good = encoded(&[model("haadf")]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(models_of_bytes(&bad, Path::new("m")).is_err(), "byte {at}");
        }
        for n in 0..good.len() {
            assert!(
                models_of_bytes(&good[..n], Path::new("m")).is_err(),
                "{n} bytes"
            );
        }
        assert!(refused(&good[..20]).starts_with("m: model"));
        assert!(refused(b"PNG").contains("a model file"));
    }

    #[test]
    fn sizes_that_lie_ask_for_no_memory() {
        let with = |at: usize, value: u32| {
            let mut bytes = encoded(&[model("haadf")]);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            refused(&sealed(bytes))
        };
        assert!(with(8, 2).contains("version 2"));
        assert!(with(12, u32::MAX).contains("model.detectors"));
        assert!(with(12, 2).contains("cut"));
        assert!(with(22, u32::MAX).contains("cut"));
        assert!(with(26, u32::MAX).contains("cut"));
        assert!(with(26, 1).contains("after the last"));
        assert!(with(46, f32::NAN.to_bits()).contains("model.weights"));
    }

    #[test]
    fn a_data_set_without_one_is_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_models(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        let missing = directory.path().join("none");
        assert!(matches!(read_models(&missing), Err(Error::Io { .. })));
    }
}
