//! Specimens from names, folders and files.
//!
//! A name is `mos2` (bundled, the default), `f`, `blank` or `code`; anything else is a path: a folder with
//! `meta.json` and `data.npy`, or a bare `.npy`, `.png`, `.tif` or `.tiff`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use domain::{ColumnState, DetectorName, HighTension, Invalid, NpyArray};
use serde::Deserialize;
use serde_json::Value;

use super::{Image, Plane, Specimen};
use crate::Error;

/// How values and sizes are read where the file does not say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Mean fraction of incident electrons to which grey values are scaled (`image2d_real`, bare files of grey values).
    /// Above 0, at most 1; default 0.05.
    pub real_mean: f64,
    /// Side of a pixel of a bare file, or of a folder that states none. Default: unknown.
    pub pixel_nm: Option<f64>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            real_mean: 0.05,
            pixel_nm: None,
        }
    }
}

#[derive(Deserialize)]
struct Meta {
    name: Option<String>,
    kind: String,
    detector: Option<String>,
    pixel_nm: Option<f64>,
    scale: Option<f64>,
    #[serde(default)]
    axes: Vec<Axis>,
    #[serde(default)]
    sim: Simulated,
}

/// How the images were computed.
#[derive(Default, Deserialize)]
struct Simulated {
    #[serde(rename = "energy_eV")]
    energy_ev: Option<f64>,
    convergence_mrad: Option<f64>,
    /// Everything else; among it `DETECTOR_mrad`, inner and outer angle.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Axis {
    size: Option<u64>,
}

const BUNDLED: [(&[u8], &[u8]); 2] = [
    (
        include_bytes!("../../specimens/mos2_haadf/meta.json"),
        include_bytes!("../../specimens/mos2_haadf/data.npy"),
    ),
    (
        include_bytes!("../../specimens/mos2_abf/meta.json"),
        include_bytes!("../../specimens/mos2_abf/data.npy"),
    ),
];

impl Specimen {
    /// The specimen that comes with the program: MoS₂ monolayer with a grain boundary, 512 × 512 pixels of
    /// 0.025 nm, detectors `haadf` and `abf`; CC0.
    #[must_use]
    pub fn bundled() -> Self {
        let mut planes = Vec::new();
        let mut pixel_nm = None;
        let mut column = ColumnState::default();
        for (meta, data) in BUNDLED {
            let path = Path::new("mos2");
            let meta = parse_meta(path, meta).expect("the bundled description is tested");
            let array = array_npy(data).expect("the bundled array is tested");
            pixel_nm = meta.pixel_nm;
            add_optics(&mut column, &meta).expect("the bundled optics are tested");
            planes.push(
                plane(&meta, array.values, &LoadOptions::default())
                    .expect("the bundled values are tested"),
            );
        }
        let image =
            Image::new("mos2", 512, 512, pixel_nm, planes).expect("the bundled shapes are tested");
        Self::Image(Image { column, ..image })
    }

    /// A specimen by name or path; the empty name is the bundled one.
    pub fn open(name: &str, options: &LoadOptions) -> Result<Self, Error> {
        if !(options.real_mean > 0.0 && options.real_mean <= 1.0) {
            return Err(Invalid::new("real_mean", options.real_mean, "above 0, at most 1").into());
        }
        if let Some(nm) = options.pixel_nm {
            domain::Nanometres::new(nm).map_err(|e| e.named("pixel_nm"))?;
            if matches!(name, "" | "mos2" | "f" | "blank" | "code") {
                return Err(stated_twice(nm, name).into());
            }
        }
        match name {
            "" | "mos2" => Ok(Self::bundled()),
            "f" => Ok(Self::letter_f()),
            "blank" => Ok(Self::blank()),
            "code" => Ok(Self::Code),
            path => load(Path::new(path), options).map(Self::Image),
        }
    }
}

/// A pixel size beside one that the specimen states itself.
fn stated_twice(nm: f64, name: &str) -> Invalid {
    let allowed = format!("left out, as {name:?} has a pixel size or none by design");
    Invalid::new("pixel_nm", nm, allowed)
}

fn refused(path: &Path, allowed: &'static str) -> Error {
    Invalid::new(
        "specimen",
        format!("{:?}", path.display().to_string()),
        allowed,
    )
    .into()
}

fn load(path: &Path, options: &LoadOptions) -> Result<Image, Error> {
    const ALLOWED: &str =
        "mos2, f, blank, code, a folder with meta.json and data.npy, or a .npy, .png or .tiff file";
    if path.is_dir() {
        if !path.join("meta.json").is_file() {
            return Err(refused(path, "a folder with meta.json and data.npy"));
        }
        return load_folder(path, options);
    }
    if !path.exists() {
        let value = format!("{:?} (no such file or folder)", path.display().to_string());
        return Err(Invalid::new("specimen", value, ALLOWED).into());
    }
    if !path.is_file() {
        return Err(refused(path, ALLOWED));
    }
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let bytes = read_file(path)?;
    let array = match extension.to_ascii_lowercase().as_str() {
        "npy" => array_npy(&bytes)?,
        "png" => picture_png(path, &bytes)?,
        "tif" | "tiff" => picture_tiff(path, &bytes)?,
        _ => return Err(refused(path, ALLOWED)),
    };
    load_bare(path, array, options)
}

/// A bare file: floats within 0…1 are fractions; everything else is grey values.
fn load_bare(path: &Path, array: Array, options: &LoadOptions) -> Result<Image, Error> {
    let [n_rows, n_cols] = plane_shape(&array.shape)?;
    let is_fraction = array.is_float && array.values.iter().all(|v| (0.0..=1.0).contains(v));
    let kind = if is_fraction {
        "image2d"
    } else {
        "image2d_real"
    };
    let meta = Meta {
        name: None,
        kind: kind.into(),
        detector: Some("image".into()),
        pixel_nm: options.pixel_nm,
        scale: None,
        axes: Vec::new(),
        sim: Simulated::default(),
    };
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or("image");
    let plane = plane(&meta, array.values, options)?;
    Ok(Image::new(
        name,
        n_rows,
        n_cols,
        options.pixel_nm,
        vec![plane],
    )?)
}

fn load_folder(folder: &Path, options: &LoadOptions) -> Result<Image, Error> {
    let (meta, shape, own) = load_detector(folder, options)?;
    let name = meta.name.as_deref().unwrap_or("specimen");
    let mut planes = vec![own];
    let mut column = ColumnState::default();
    add_optics(&mut column, &meta)?;
    if meta.kind == "image2d" {
        for sibling in siblings(folder, name, planes[0].detector.as_str())? {
            let (about, sibling_shape, plane) = load_detector(&sibling, options)?;
            if sibling_shape != shape {
                let [r, c] = sibling_shape;
                let allowed = format!("{} × {} like its sibling {name}", shape[0], shape[1]);
                let value = format!("{r} × {c} of {:?}", sibling.display().to_string());
                return Err(Invalid::new("specimen.shape", value, allowed).into());
            }
            if planes.iter().all(|p| p.detector != plane.detector) {
                planes.push(plane);
                add_optics(&mut column, &about)?;
            }
        }
    }
    if let (Some(_), Some(nm)) = (meta.pixel_nm, options.pixel_nm) {
        return Err(stated_twice(nm, name).into());
    }
    let pixel_nm = meta.pixel_nm.or(options.pixel_nm);
    let image = Image::new(name, shape[0], shape[1], pixel_nm, planes)?;
    Ok(Image { column, ..image })
}

/// Adds what `meta` says of the column to `column`: high tension and convergence where they are not known yet, the angles
/// of its own detector.
fn add_optics(column: &mut ColumnState, meta: &Meta) -> Result<(), Invalid> {
    let made = &meta.sim;
    let tension = made
        .energy_ev
        .map(|ev| HighTension::from_kilovolts(ev * 1e-3));
    let tension = tension
        .transpose()
        .map_err(|e| e.named("specimen.meta.sim.energy_eV"))?;
    column.high_tension = column.high_tension.or(tension);
    column.convergence_mrad = column.convergence_mrad.or(made.convergence_mrad);
    if let Some(detector) = &meta.detector
        && let Some(angles) = made.others.get(&format!("{detector}_mrad"))
    {
        let [inner, outer] = serde_json::from_value(angles.clone()).map_err(|_| {
            let field = format!("specimen.meta.sim.{detector}_mrad");
            Invalid::new(field, angles, "inner and outer angle")
        })?;
        column
            .collection_mrad
            .push((detector.clone(), inner, outer));
    }
    hal::check_column(column).map_err(|e| e.within("specimen.meta"))
}

/// Folders beside `folder` that hold other detectors of the same specimen, in order of name.
fn siblings(folder: &Path, name: &str, detector: &str) -> Result<Vec<PathBuf>, Error> {
    let Some(stem) = name
        .strip_suffix(detector)
        .and_then(|s| s.strip_suffix('_'))
    else {
        return Ok(Vec::new());
    };
    let resolved = fs::canonicalize(folder).map_err(|source| file_error(folder, source))?;
    let Some(parent) = resolved.parent() else {
        return Ok(Vec::new());
    };
    let entries = fs::read_dir(parent).map_err(|source| file_error(parent, source))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| *path != resolved && is_sibling(path, stem))
        .collect();
    found.sort();
    Ok(found)
}

fn is_sibling(path: &Path, stem: &str) -> bool {
    let Ok(bytes) = fs::read(path.join("meta.json")) else {
        return false;
    };
    let Ok(meta) = serde_json::from_slice::<Meta>(&bytes) else {
        return false;
    };
    let own = meta.detector.as_deref().zip(meta.name.as_deref());
    meta.kind == "image2d"
        && own.is_some_and(|(detector, name)| name == format!("{stem}_{detector}"))
}

fn load_detector(folder: &Path, options: &LoadOptions) -> Result<(Meta, [u32; 2], Plane), Error> {
    let path = folder.join("meta.json");
    let meta = parse_meta(&path, &read_file(&path)?)?;
    let array = array_npy(&read_file(&folder.join("data.npy"))?)?;
    let shape = plane_shape(&array.shape)?;
    check_axes(&meta, &array.shape)?;
    let plane = plane(&meta, array.values, options)?;
    Ok((meta, shape, plane))
}

fn parse_meta(path: &Path, bytes: &[u8]) -> Result<Meta, Error> {
    let meta: Meta = serde_json::from_slice(bytes).map_err(|e| {
        let value = format!("{:?}: {e}", path.display().to_string());
        Invalid::new(
            "specimen.meta",
            value,
            "a JSON object with kind, detector and pixel_nm",
        )
    })?;
    match meta.kind.as_str() {
        "image2d" | "image2d_real" => Ok(meta),
        kind => Err(Invalid::new("specimen.kind", kind, "image2d or image2d_real").into()),
    }
}

/// The sizes that the description states, if any, are those of the array.
fn check_axes(meta: &Meta, shape: &[usize]) -> Result<(), Invalid> {
    let stated: Option<Vec<u64>> = meta.axes.iter().map(|axis| axis.size).collect();
    match stated {
        Some(stated)
            if !stated.is_empty()
                && !stated.iter().copied().eq(shape.iter().map(|&n| n as u64)) =>
        {
            let allowed = format!("{stated:?}, as meta.json says");
            Err(Invalid::new(
                "specimen.shape",
                format!("{shape:?}"),
                allowed,
            ))
        }
        _ => Ok(()),
    }
}

fn plane_shape(shape: &[usize]) -> Result<[u32; 2], Invalid> {
    let side = |n: usize| {
        u32::try_from(n)
            .ok()
            .filter(|n| (2..=domain::Grid::MAX_SIDE).contains(n))
    };
    match shape {
        &[r, c] => side(r).zip(side(c)).map(|(r, c)| [r, c]),
        _ => None,
    }
    .ok_or_else(|| {
        Invalid::new(
            "specimen.shape",
            format!("{shape:?}"),
            "rows × columns, 2 to 65536 each",
        )
    })
}

/// The values as fractions of the incident electrons.
fn plane(meta: &Meta, mut values: Vec<f32>, options: &LoadOptions) -> Result<Plane, Invalid> {
    let detector = DetectorName::new(meta.detector.as_deref().unwrap_or("image"))
        .map_err(|e| e.named("specimen.detector"))?;
    let divisor = if meta.kind == "image2d_real" {
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len().max(1) as f64;
        if mean.is_finite() && mean <= 0.0 {
            return Err(Invalid::new(
                "specimen",
                format!("grey values of mean {mean}"),
                "a mean above 0",
            ));
        }
        // Values that are not finite pass through here and are refused with their place by `Image::new`.
        if mean.is_finite() {
            mean / options.real_mean
        } else {
            1.0
        }
    } else {
        meta.scale.unwrap_or(1.0)
    };
    if !(divisor.is_finite() && divisor > 0.0) {
        return Err(Invalid::new("specimen.scale", divisor, "above 0"));
    }
    if divisor != 1.0 {
        values
            .iter_mut()
            .for_each(|v| *v = (f64::from(*v) / divisor) as f32);
    }
    Ok(Plane {
        detector,
        values: values.into(),
    })
}

fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File {
        path: path.into(),
        source,
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    if !path.is_file() {
        return Err(refused(path, "a file that exists"));
    }
    fs::read(path).map_err(|source| file_error(path, source))
}

fn unreadable(path: &Path, why: impl ToString, allowed: &'static str) -> Error {
    let value = format!("{:?}: {}", path.display().to_string(), why.to_string());
    Invalid::new("specimen", value, allowed).into()
}

/// Numbers as read.
struct Array {
    /// Extents, slow axis first.
    shape: Vec<usize>,
    /// Values, row-major.
    values: Vec<f32>,
    /// Whether the file held floats.
    is_float: bool,
}

fn array_npy(bytes: &[u8]) -> Result<Array, Invalid> {
    let array = NpyArray::parse(bytes).map_err(|e| e.within("specimen"))?;
    Ok(Array {
        values: array.to_f32(),
        is_float: array.is_float(),
        shape: array.shape,
    })
}

fn picture_png(path: &Path, bytes: &[u8]) -> Result<Array, Error> {
    const ALLOWED: &str = "a grey PNG of 8 or 16 bits";
    let refuse = |e: png::DecodingError| unreadable(path, e, ALLOWED);
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(refuse)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| unreadable(path, "too large", ALLOWED))?;
    let mut buffer = vec![0; size];
    let info = reader.next_frame(&mut buffer).map_err(refuse)?;
    let n_channels = match info.color_type {
        png::ColorType::Grayscale => 1,
        png::ColorType::GrayscaleAlpha => 2,
        other => return Err(unreadable(path, format!("{other:?}"), ALLOWED)),
    };
    let bytes = &buffer[..info.buffer_size()];
    let values = match info.bit_depth {
        png::BitDepth::Sixteen => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .step_by(n_channels)
            .map(|&b| f32::from(u16::from_be_bytes(b)))
            .collect(),
        _ => bytes
            .iter()
            .step_by(n_channels)
            .map(|&b| f32::from(b))
            .collect(),
    };
    let shape = vec![info.height as usize, info.width as usize];
    Ok(Array {
        shape,
        values,
        is_float: false,
    })
}

fn picture_tiff(path: &Path, bytes: &[u8]) -> Result<Array, Error> {
    use tiff::decoder::{Decoder, DecodingResult as Pixels};
    const ALLOWED: &str = "a grey TIFF of integers or floats";
    let refuse = |e: tiff::TiffError| unreadable(path, e, ALLOWED);
    let mut decoder = Decoder::new(std::io::Cursor::new(bytes)).map_err(refuse)?;
    let (width, height) = decoder.dimensions().map_err(refuse)?;
    let (values, is_float): (Vec<f32>, bool) = match decoder.read_image().map_err(refuse)? {
        Pixels::U8(v) => (v.into_iter().map(f32::from).collect(), false),
        Pixels::U16(v) => (v.into_iter().map(f32::from).collect(), false),
        Pixels::U32(v) => (v.into_iter().map(|v| v as f32).collect(), false),
        Pixels::I16(v) => (v.into_iter().map(f32::from).collect(), false),
        Pixels::I32(v) => (v.into_iter().map(|v| v as f32).collect(), false),
        Pixels::F32(v) => (v, true),
        Pixels::F64(v) => (v.into_iter().map(|v| v as f32).collect(), true),
        _ => return Err(unreadable(path, "an unknown sample format", ALLOWED)),
    };
    let shape = vec![height as usize, width as usize];
    if values.len() != shape[0] * shape[1] {
        return Err(unreadable(path, "more than one channel", ALLOWED));
    }
    Ok(Array {
        shape,
        values,
        is_float,
    })
}

#[cfg(test)]
mod tests;
