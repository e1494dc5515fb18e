//! PNG and TIFF files. Written whole under a temporary name and renamed.

use super::{DisplayRange, Picture, Plane};
use crate::Error;
use crate::zarr::write_durably;
use domain::{Invalid, NpyArray, Pitch};
use std::io::{self, Cursor};
use std::path::Path;
use tiff::encoder::{TiffEncoder, colortype};
use tiff::tags::{ResolutionUnit, Tag};

fn side(n: usize) -> Result<u32, Error> {
    u32::try_from(n).map_err(|_| {
        Invalid::new(
            "picture",
            format!("{n} pixels"),
            "at most 4294967295 pixels a side",
        )
        .into()
    })
}

/// Writes a picture in colour.
pub fn write_png(path: &Path, picture: &Picture) -> Result<(), Error> {
    let (width, height) = (side(picture.width())?, side(picture.height())?);
    png_file(
        path,
        width,
        height,
        (png::ColorType::Rgb, png::BitDepth::Eight),
        picture.rgb(),
    )
}

/// Writes `plane` in 16-bit grey, `range` from black to white.
pub fn write_png_gray16(path: &Path, plane: &Plane<'_>, range: DisplayRange) -> Result<(), Error> {
    let (width, height) = (side(plane.n_cols())?, side(plane.n_rows())?);
    let bytes: Vec<u8> = grey16(plane, range).flat_map(u16::to_be_bytes).collect();
    png_file(
        path,
        width,
        height,
        (png::ColorType::Grayscale, png::BitDepth::Sixteen),
        &bytes,
    )
}

fn grey16(plane: &Plane<'_>, range: DisplayRange) -> impl Iterator<Item = u16> {
    plane
        .values()
        .iter()
        .map(move |v| (range.position(*v).clamp(0.0, 1.0) * 65_535.0).round() as u16)
}

fn png_file(
    path: &Path,
    width: u32,
    height: u32,
    (colour, depth): (png::ColorType, png::BitDepth),
    bytes: &[u8],
) -> Result<(), Error> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    encoder
        .write_header()
        .and_then(|mut writer| {
            writer.write_image_data(bytes)?;
            writer.finish()
        })
        .map_err(|e| Error::io(path)(io::Error::other(e)))?;
    write_durably(path, &file)
}

/// Writes the values themselves, 32-bit float.
pub fn write_tiff_f32(path: &Path, plane: &Plane<'_>, pixel: Pitch) -> Result<(), Error> {
    tiff_file::<colortype::Gray32Float>(path, plane, pixel, plane.values())
}

/// Writes `values` of `shape` as a NumPy array, `<f4`.
pub fn write_npy_f32(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), Error> {
    write_durably(path, &NpyArray::from_f32(shape, values)?)
}

/// Writes 16-bit grey, `range` from black to white.
pub fn write_tiff_u16(
    path: &Path,
    plane: &Plane<'_>,
    range: DisplayRange,
    pixel: Pitch,
) -> Result<(), Error> {
    let values: Vec<u16> = grey16(plane, range).collect();
    tiff_file::<colortype::Gray16>(path, plane, pixel, &values)
}

/// Writes 8-bit grey, `range` from black to white.
pub fn write_tiff_u8(
    path: &Path,
    plane: &Plane<'_>,
    range: DisplayRange,
    pixel: Pitch,
) -> Result<(), Error> {
    let values: Vec<u8> = grey16(plane, range)
        .map(|v| ((u32::from(v) * 255 + 32_767) / 65_535) as u8)
        .collect();
    tiff_file::<colortype::Gray8>(path, plane, pixel, &values)
}

fn tiff_file<C: colortype::ColorType>(
    path: &Path,
    plane: &Plane<'_>,
    pixel: Pitch,
    values: &[C::Inner],
) -> Result<(), Error>
where
    [C::Inner]: tiff::encoder::TiffValue,
{
    let (width, height) = (side(plane.n_cols())?, side(plane.n_rows())?);
    let mut file = Cursor::new(Vec::new());
    TiffEncoder::new(&mut file)
        .and_then(|mut encoder| {
            let mut image = encoder.new_image::<C>(width, height)?;
            if let Some((resolution, about)) = resolution_of(pixel) {
                image.resolution(ResolutionUnit::Centimeter, resolution);
                image
                    .encoder()
                    .write_tag(Tag::ImageDescription, about.as_str())?;
            }
            image.write_data(values)
        })
        .map_err(|e| Error::io(path)(io::Error::other(e)))?;
    write_durably(path, file.get_ref())
}

/// Pixels per centimetre as the fraction that TIFF wants, and the size in words.
fn resolution_of(pixel: Pitch) -> Option<(tiff::encoder::Rational, String)> {
    let Pitch::Nanometres(nm) = pixel else {
        return None;
    };
    let per_cm = 1e7 / nm.nm();
    // The largest denominator that keeps the numerator within 32 bits.
    let d = (f64::from(u32::MAX) / per_cm).floor().clamp(1.0, 1e6);
    let n = (per_cm * d).round();
    if !(1.0..=f64::from(u32::MAX)).contains(&n) {
        return None;
    }
    let resolution = tiff::encoder::Rational {
        n: n as u32,
        d: d as u32,
    };
    Some((resolution, format!("pixel size {} nm", nm.nm())))
}
