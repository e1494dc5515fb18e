//! Arrays that come in parts, ahead of the plan that names them.

use crate::models::models_of_upload;
use crate::refuse::{invalid, refuse};
use domain::{Invalid, ListedPosition};
use proto::Upload;
use proto::v1::ErrorReason;
use proto::v1::upload_array_request::Part;
use tonic::Status;

/// Largest part, bytes of its largest array.
const MAX_PART_BYTES: usize = 1 << 20;

const KINDS: &str = "positions, weights_f32 or model";
const ONE_KIND: &str = "parts of one kind";

/// Parts of an upload, of one kind.
#[derive(Default)]
pub(super) struct Gathered {
    positions: Vec<ListedPosition>,
    weights: Vec<f32>,
    model: Vec<u8>,
}

impl Gathered {
    /// Adds a part; refuses a mixture of kinds, and more than `max_bytes` in all.
    pub(super) fn add(&mut self, part: Option<Part>, max_bytes: usize) -> Result<(), Status> {
        let wrong = |field: &'static str, value: String, allowed: &'static str| {
            Err(invalid(Invalid::new(field, value, allowed)))
        };
        match part {
            None => return wrong("part", "unset".into(), KINDS),
            Some(Part::Positions(_)) if self.has_besides(self.positions.len()) => {
                return wrong("positions", "after another kind".into(), ONE_KIND);
            }
            Some(Part::WeightsF32(_)) if self.has_besides(self.weights.len()) => {
                return wrong("weights_f32", "after another kind".into(), ONE_KIND);
            }
            Some(Part::Model(_)) if self.has_besides(self.model.len()) => {
                return wrong("model", "after another kind".into(), ONE_KIND);
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
            Some(Part::Model(bytes)) => {
                if bytes.len() > MAX_PART_BYTES {
                    let value = format!("{} bytes", bytes.len());
                    return wrong("model", value, "at most 1 MiB");
                }
                self.model.extend_from_slice(&bytes);
            }
        }
        let used = size_of::<ListedPosition>() * self.positions.len()
            + 4 * self.weights.len()
            + self.model.len();
        if used > max_bytes {
            let text =
                format!("the upload is larger than limits.max_upload_mib, {max_bytes} bytes");
            return Err(refuse(ErrorReason::Overloaded, text));
        }
        Ok(())
    }

    /// Whether there is more than the `n` values of one kind.
    fn has_besides(&self, n: usize) -> bool {
        self.positions.len() + self.weights.len() + self.model.len() > n
    }

    /// The whole array and its number of values.
    pub(super) fn finish(self) -> Result<(Upload, u64), Status> {
        if !self.positions.is_empty() {
            let n = self.positions.len() as u64;
            return Ok((Upload::Positions(self.positions.into()), n));
        }
        if !self.model.is_empty() {
            let models = models_of_upload(&self.model).map_err(invalid)?;
            let n = models.len() as u64;
            return Ok((Upload::Models(models), n));
        }
        if self.weights.is_empty() {
            let empty = Invalid::new("part", "no values", KINDS);
            return Err(invalid(empty));
        }
        let n = self.weights.len() as u64;
        Ok((Upload::Weights(self.weights.into()), n))
    }
}
