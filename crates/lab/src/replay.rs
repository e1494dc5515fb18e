//! A recorded acquisition run again from its journal.

use crate::Error;
use serde::Serialize;
use std::path::Path;

/// What the replay found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Records read.
    pub records: u64,
    /// Batches made again.
    pub batches: u64,
    /// Blocks joined again.
    pub blocks: u64,
    /// Decisions made again.
    pub decisions: u64,
    /// Gaps booked again.
    pub gaps: u64,
    /// Estimates made again.
    pub estimates: u64,
    /// Whether the kernels are those of the recording.
    pub kernel_matches: bool,
    /// Whether everything is equal bit for bit.
    pub equal: bool,
    /// The first difference, in words.
    pub difference: Option<String>,
}

/// Replays the journal of the data set at `path` and compares every decision and the final estimates.
pub fn replay(path: &Path) -> Result<Replayed, Error> {
    let journal = if path.is_dir() {
        store::journal_path(path)
    } else {
        path.to_owned()
    };
    // What is no journal is refused by the store's own words.
    store::JournalReader::open(&journal)?;
    let report = engine::replay::replay(&journal)?;
    Ok(Replayed {
        records: report.n_records,
        batches: report.n_batches,
        blocks: report.n_blocks,
        decisions: report.n_decisions,
        gaps: report.n_gaps,
        estimates: report.n_estimates,
        kernel_matches: report.kernel_matches,
        equal: report.is_exact(),
        difference: report.differences.first().cloned(),
    })
}
