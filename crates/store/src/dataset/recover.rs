//! Finishing what a killed process left behind.

use super::{DataSet, DataSetState, Finaliser, SampleSummary};
use crate::Error;
use std::path::Path;

/// What recovery found and did.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// Identity of the data set.
    pub id: String,
    /// How far it had come before.
    pub state: DataSetState,
    /// What was saved; `None` where it was complete already and nothing was touched.
    pub saved: Option<SampleSummary>,
}

/// Finishes the data set at `path`: columns, visits and dose of every intact record, without estimates (those
/// are made from the samples by `reconstruct`). A complete data set is left alone, one that is being recorded
/// is refused with [`Error::Busy`]. The journal is never changed, its damaged end included.
pub fn recover(path: &Path) -> Result<Recovery, Error> {
    let set = DataSet::open(path)?;
    let saved = match set.state() {
        DataSetState::Finished | DataSetState::Recovered => None,
        DataSetState::Recording => {
            return Err(Error::Busy {
                path: path.to_owned(),
            });
        }
        DataSetState::Unfinished => Some(Finaliser::begin(path)?.finish()?),
    };
    Ok(Recovery {
        id: set.header().id.clone(),
        state: set.state(),
        saved,
    })
}
