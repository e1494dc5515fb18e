//! The gRPC types of `beamwright.v1` and their checked conversion to the domain.
//!
//! `proto/` at the top of the repository is the source; [`v1`] is generated from it. Nothing that came over
//! the network reaches the domain except through the functions here, which refuse with [`domain::Invalid`]
//! naming the path of the message field (`plan.stop_rules[1].resolution_nm`), the value and the allowed
//! range; [`Refusal`] carries that over gRPC and back. The conversions do no I/O and never panic.

/// The generated messages, clients and servers.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("beamwright.v1");
}

mod array;
mod chunk;
mod device;
mod geometry;
mod kinds;
mod lookup;
mod plan;
mod plan_message;
#[cfg(test)]
mod plan_tests;
mod refusal;
mod sample;
#[cfg(test)]
mod tests;

pub use array::{bytes_of_f32s, bytes_of_u32s, f32s_of_bytes, u32s_of_bytes};
pub use chunk::{CHUNK_BYTES, ChunkOptions, Gathering};
pub use device::{
    column_from_proto, detector_from_proto, proto_from_column, proto_from_detector,
    proto_from_detector_calibration,
};
pub use geometry::{
    grid_from_proto, proto_from_field, proto_from_rect, rect_from_proto, scan_field_from_proto,
};
pub use kinds::{
    estimator_from_proto, pattern_kind_of, pattern_kind_of_name, proto_from_estimator,
    proto_from_order,
};
pub use lookup::{ACQUISITIONS, CALIBRATIONS, UPLOADS, id_of_name, name_of_id};
pub use plan::{MAX_INLINE_POSITIONS, PlanContext, Upload, plan_from_proto, positions_from_proto};
pub use plan_message::{name_of_model_source, proto_from_plan, proto_from_positions};
pub use refusal::Refusal;
pub use sample::{blocks_from_chunk, gap_from_proto, proto_from_gap};

/// The encoded descriptor set of the API, for reflection and for walking over its calls.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/beamwright.v1.bin"));

/// Grows with every addition to `beamwright.v1`; told by `GetServerInfo`.
pub const API_REVISION: u32 = 1;
