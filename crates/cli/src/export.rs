//! `export`: pictures and arrays of a data set.

mod samples;

use crate::args::{ExportArgs, ExportFormat};
use crate::failure::Failure;
use crate::output::Output;
use domain::Grid;
use serde_json::json;
use std::path::{Path, PathBuf};
use store::{ColourMap, DataSet, DataSetState, DisplayRange, MapInfo, Picture, Plane};

/// Largest plane that is exported whole, pixels.
const PIXELS_MAX: u64 = 1 << 28;

/// Runs `beamwright export`.
pub(crate) fn export(args: &ExportArgs, output: &Output) -> Result<(), Failure> {
    let set = DataSet::open(&args.dataset).map_err(lab::Error::from)?;
    check_complete(&set)?;
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None => args
            .dataset
            .parent()
            .map_or_else(PathBuf::new, Path::to_path_buf),
    };
    store::check_writable(if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &folder
    })
    .map_err(lab::Error::from)?;
    let mut files = Vec::new();
    for map in set.maps().map_err(lab::Error::from)? {
        for frame in 0..map.n_frames {
            files.push(export_map(args.format, &set, &map, frame, &folder)?);
        }
    }
    if args.format == ExportFormat::Npy {
        files.extend(samples::export(&set, &folder)?);
    }
    let text: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    output.result(text.join("\n"), &json!({ "files": files }));
    Ok(())
}

/// Refuses a data set whose arrays are not written yet.
fn check_complete(set: &DataSet) -> Result<(), Failure> {
    let path = set.path().display();
    let text = match set.state() {
        DataSetState::Finished | DataSetState::Recovered => return Ok(()),
        DataSetState::Recording => {
            format!("dataset: {path} is being recorded (allowed: a complete data set)")
        }
        DataSetState::Unfinished => format!(
            "dataset: {path} was interrupted (allowed: a complete data set; `beamwright recover {path}` completes it)"
        ),
    };
    Err(Failure::NotFound(text))
}

fn export_map(
    format: ExportFormat,
    set: &DataSet,
    map: &MapInfo,
    frame: u32,
    folder: &Path,
) -> Result<PathBuf, Failure> {
    let grid = Grid::new(map.n_rows, map.n_cols)?;
    if grid.n_pixels() > PIXELS_MAX {
        let text = format!(
            "{} has {} pixels; read the data set in tiles instead",
            map.name,
            grid.n_pixels()
        );
        return Err(Failure::NotFound(text));
    }
    let values = set
        .read_map(&map.name, frame, grid.rect())
        .map_err(lab::Error::from)?;
    let plane = Plane::new(map.n_rows as usize, map.n_cols as usize, &values)?;
    let number = if map.n_frames > 1 {
        format!("-{frame:04}")
    } else {
        String::new()
    };
    let ending = match format {
        ExportFormat::Png => "png",
        ExportFormat::Tiff => "tiff",
        ExportFormat::Npy => "npy",
    };
    let path = folder.join(format!("{}-{}{number}.{ending}", set.header().id, map.name));
    let written = match format {
        ExportFormat::Png => {
            let colours = if map.name.starts_with("estimate") {
                ColourMap::Gray
            } else {
                ColourMap::Viridis
            };
            store::write_png(
                &path,
                &Picture::of(&plane, colours, DisplayRange::of(&values, 0.002)),
            )
        }
        ExportFormat::Tiff => store::write_tiff_f32(&path, &plane, set.header().plan.field.pitch),
        ExportFormat::Npy => {
            store::write_npy_f32(&path, &[map.n_rows as usize, map.n_cols as usize], &values)
        }
    };
    written.map_err(lab::Error::from)?;
    Ok(path)
}
