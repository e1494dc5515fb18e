//! Arrays that come in parts, ahead of the plan that names them.

use crate::refuse::{invalid, refuse};
use domain::{Invalid, ListedPosition};
use proto::Upload;
use proto::v1::ErrorReason;
use proto::v1::upload_array_request::Part;
use tonic::Status;

/// Largest part, bytes of its largest array.
const MAX_PART_BYTES: usize = 1 << 20;

/// Parts of an upload, of one kind.
#[derive(Default)]
pub(super) struct Gathered {
    positions: Vec<ListedPosition>,
    weights: Vec<f32>,
}

impl Gathered {
    /// Adds a part; refuses a mixture of kinds, and more than `max_bytes` in all.
    pub(super) fn add(&mut self, part: Option<Part>, max_bytes: usize) -> Result<(), Status> {
        let wrong = |field: &'static str, value: String, allowed: &'static str| {
            Err(invalid(Invalid::new(field, value, allowed)))
        };
        match part {
            None => return wrong("part", "unset".into(), "positions or weights_f32"),
            Some(Part::Positions(_)) if !self.weights.is_empty() => {
                return wrong("positions", "after weights".into(), "parts of one kind");
            }
            Some(Part::WeightsF32(_)) if !self.positions.is_empty() => {
                return wrong("weights_f32", "after positions".into(), "parts of one kind");
            }
            Some(Part::Positions(arrays)) => {
                if arrays.row_px.len() > MAX_PART_BYTES {
                    let value = format!("{} bytes", arrays.row_px.len());
                    return wrong("positions.row_px", value, "at most 1 MiB");
                }
                let list = proto::positions_from_proto(&arrays);
                self.positions
                    .extend(list.map_err(|e| invalid(e.within("positions")))?);
            }
            Some(Part::WeightsF32(bytes)) => {
                if bytes.len() > MAX_PART_BYTES {
                    let value = format!("{} bytes", bytes.len());
                    return wrong("weights_f32", value, "at most 1 MiB");
                }
                let weights = proto::f32s_of_bytes("weights_f32", &bytes);
                self.weights.extend(weights.map_err(invalid)?);
            }
        }
        let used = size_of::<ListedPosition>() * self.positions.len() + 4 * self.weights.len();
        if used > max_bytes {
            let text =
                format!("the upload is larger than limits.max_upload_mib, {max_bytes} bytes");
            return Err(refuse(ErrorReason::Overloaded, text));
        }
        Ok(())
    }

    /// The whole array and its number of values.
    pub(super) fn finish(self) -> Result<(Upload, u64), Status> {
        if !self.positions.is_empty() {
            let n = self.positions.len() as u64;
            return Ok((Upload::Positions(self.positions.into()), n));
        }
        if self.weights.is_empty() {
            let empty = Invalid::new("part", "no values", "positions or weights_f32");
            return Err(invalid(empty));
        }
        let n = self.weights.len() as u64;
        Ok((Upload::Weights(self.weights.into()), n))
    }
}
