//! Any bytes as a message of the API, and its way into the domain.

use domain::{DetectorName, Grid, Pitch, ScanField};
use prost::Message;
use proto::{PlanContext, v1};

/// What must hold for whatever is in `data`; its first byte says which message it is.
pub(crate) fn check(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 7 {
        0 => decoded(bytes, plan),
        1 => decoded(bytes, |m: &v1::PositionArray| {
            if let Ok(list) = proto::positions_from_proto(m) {
                assert!(list.iter().all(|p| p.row.is_finite() && p.col.is_finite()));
            }
        }),
        2 => decoded(bytes, |m: &v1::SampleGap| {
            if let Ok(gap) = proto::gap_from_proto(m) {
                assert_eq!(proto::proto_from_gap(&gap), *m);
            }
        }),
        3 => decoded(bytes, |m: &v1::Column| {
            if let Ok(state) = proto::column_from_proto(m) {
                let again = proto::column_from_proto(&proto::proto_from_column(&state, ""));
                assert_eq!(again.as_ref(), Ok(&state));
            }
        }),
        4 => decoded(bytes, |m: &v1::Detector| {
            let _refused = proto::detector_from_proto(m);
        }),
        5 => decoded(bytes, |m: &v1::SampleChunk| {
            let Ok((blocks, names)) = proto::blocks_from_chunk(m) else {
                return;
            };
            for block in &blocks {
                assert_eq!(names.len(), block.signals.len());
                let mut scalars = block.signals.iter().filter_map(|s| s.scalar());
                assert!(scalars.all(|values| values.len() == block.len()));
            }
        }),
        _ => decoded(bytes, |m: &v1::ScanField| {
            let _refused = proto::scan_field_from_proto(m, &field());
        }),
    }
}

fn decoded<M: Message + Default>(bytes: &[u8], check: impl FnOnce(&M)) {
    if let Ok(message) = M::decode(bytes) {
        check(&message);
    }
}

fn field() -> ScanField {
    let grid = Grid::new(64, 64).expect("it is a grid");
    ScanField::centred(grid, Pitch::Unknown)
}

fn plan(message: &v1::Plan) {
    let detectors = [DetectorName::new("haadf").expect("it is a name")];
    let context = PlanContext {
        default_field: field(),
        default_detectors: &detectors,
        detectors: &detectors,
        parent: &|_| None,
        upload: &|_| None,
        seed: 1,
    };
    if let Ok(plan) = proto::plan_from_proto(message, &context) {
        plan.check().expect("it has been checked");
        // What the service tells of a plan is a plan.
        let told = proto::proto_from_plan(&plan);
        proto::plan_from_proto(&told, &context).expect("it was a plan");
    }
}
