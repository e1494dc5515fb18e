//! Verbs that speak to a server: connection, errors, and the field of view.

use crate::args::{FieldArgs, ServerArgs};
use crate::failure::Failure;
use client::{Capabilities, Client, ConnectOptions, ErrorKind, Tls};
use domain::{Angle, Grid, Invalid, Nanometres, Pitch, PixelRect, Region, ScanField};
use std::future::Future;
use std::path::Path;

/// Runs a verb to its end on a runtime of its own.
pub(crate) fn run(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::Internal(e.into()))?;
    runtime.block_on(verb)
}

pub(crate) async fn connect(args: &ServerArgs) -> Result<Client, Failure> {
    let token = match &args.token_file {
        Some(path) => Some(text_of(path)?.trim().to_owned()),
        None => args.token.clone(),
    };
    let options = ConnectOptions {
        url: args.server.clone(),
        token,
        tls: certificates(args)?,
        ..ConnectOptions::default()
    };
    Ok(Client::connect_with(&options).await?)
}

fn certificates(args: &ServerArgs) -> Result<Option<Tls>, Failure> {
    let (Some(ca), Some(cert), Some(key)) = (&args.ca, &args.cert, &args.key) else {
        return Ok(None);
    };
    Ok(Some(Tls {
        ca: text_of(ca)?,
        cert: text_of(cert)?,
        key: text_of(key)?,
    }))
}

fn text_of(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|source| Failure::File {
        path: path.display().to_string(),
        source,
    })
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Invalid(invalid) => Self::Usage(invalid),
            error => match error.kind() {
                ErrorKind::Unreachable => Self::Unreachable(error.to_string()),
                ErrorKind::Refused => Self::Refused(error.to_string()),
                ErrorKind::Usage => Self::NotFound(error.to_string()),
                ErrorKind::Fault => Self::Internal(error.into()),
            },
        }
    }
}

/// The field of view that the options ask for, and the part of it that is scanned.
pub(crate) fn field(
    args: &FieldArgs,
    capabilities: &Capabilities,
) -> Result<(ScanField, Option<Region>), Invalid> {
    let mut field = capabilities.default_field;
    let width = field.extent()[0];
    if let Some(pixels) = &args.pixels {
        field.grid = grid(pixels)?;
        field.pitch = match field.pitch {
            Pitch::Nanometres(_) => {
                Pitch::Nanometres(Nanometres::new(width / f64::from(field.grid.n_cols()))?)
            }
            Pitch::Unknown => Pitch::Unknown,
        };
    }
    if let Some(fov) = args.fov_nm {
        let pitch = Nanometres::new(fov / f64::from(field.grid.n_cols()));
        field.pitch = Pitch::Nanometres(pitch.map_err(|_| {
            Invalid::new(
                "fov_nm",
                fov,
                "a field of view within the reach of the coils, nm",
            )
        })?);
    }
    if let Some(centre) = &args.centre_nm {
        field.centre = numbers("centre_nm", centre)?;
    }
    field.rotation = Angle::from_radians(args.rotation_deg.to_radians())
        .map_err(|_| Invalid::new("rotation_deg", args.rotation_deg, "-57000 to 57000 degrees"))?;
    let region = match (&args.region_nm, &args.region_of) {
        (None, None) => None,
        (Some(rectangle), None) => Some(Region::Field(numbers("region_nm", rectangle)?)),
        (None, Some(parent)) => Some(parent_region(parent)?),
        (Some(_), Some(parent)) => {
            return Err(Invalid::new(
                "region_of",
                parent,
                "either region_nm or region_of, not both",
            ));
        }
    };
    Ok((field, region))
}

/// `N` or `ROWSxCOLUMNS`.
pub(crate) fn grid(text: &str) -> Result<Grid, Invalid> {
    let bad = || {
        Invalid::new(
            "pixels",
            format!("{text:?}"),
            "N or ROWSxCOLUMNS, 1 to 65536 each",
        )
    };
    let (rows, cols) = text.split_once('x').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| bad());
    Grid::new(number(rows)?, number(cols)?).map_err(|_| bad())
}

fn numbers<const N: usize>(field: &'static str, text: &str) -> Result<[f64; N], Invalid> {
    let bad = || {
        Invalid::new(
            field,
            format!("{text:?}"),
            format!("{N} numbers in nm, comma-separated"),
        )
    };
    let parsed: Vec<f64> = text
        .split(',')
        .map(|part| part.trim().parse().map_err(|_| bad()))
        .collect::<Result<_, _>>()?;
    let numbers: [f64; N] = parsed.try_into().map_err(|_| bad())?;
    if numbers.iter().all(|v| v.is_finite()) {
        Ok(numbers)
    } else {
        Err(bad())
    }
}

fn parent_region(text: &str) -> Result<Region, Invalid> {
    let bad = || {
        Invalid::new(
            "region_of",
            format!("{text:?}"),
            "ID:ROW,COL,ROWS,COLUMNS in pixels",
        )
    };
    let (id, rectangle) = text.rsplit_once(':').ok_or_else(bad)?;
    let parsed: Vec<u32> = rectangle
        .split(',')
        .map(|part| part.trim().parse().map_err(|_| bad()))
        .collect::<Result<_, _>>()?;
    let [row, col, n_rows, n_cols] = parsed.try_into().map_err(|_| bad())?;
    Ok(Region::Parent {
        acquisition: id.to_owned(),
        rect: PixelRect {
            row,
            col,
            n_rows,
            n_cols,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart_or_refused_by_name() {
        assert_eq!(grid("16x32").unwrap(), Grid::new(16, 32).unwrap());
        assert_eq!(grid("512").unwrap(), Grid::new(512, 512).unwrap());
        for bad in ["0", "x", "65537", "-3", "1.5"] {
            assert_eq!(grid(bad).unwrap_err().field, "pixels");
        }
        assert_eq!(numbers::<2>("centre_nm", "-1.5, 2").unwrap(), [-1.5, 2.0]);
        assert!(numbers::<2>("centre_nm", "1,nan").is_err());
        assert!(numbers::<4>("region_nm", "1,2,3").is_err());
        let rect = PixelRect {
            row: 1,
            col: 2,
            n_rows: 3,
            n_cols: 4,
        };
        let parent = Region::Parent {
            acquisition: "20261122-1".into(),
            rect,
        };
        assert_eq!(parent_region("20261122-1:1,2,3,4").unwrap(), parent);
        assert!(parent_region("1,2,3,4").is_err());
    }
}
