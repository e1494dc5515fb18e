//! A data set: one directory `<id>.zspy/`, from the first record of its journal to arrays that HyperSpy opens.
//!
//! ```text
//! journal                        what happened, see the journal's own description
//! Experiments/estimate[-NAME]    data[t?, y, x] f4, events per incident electron
//! Experiments/uncertainty[-NAME] the same shape: half-width of the 90 % interval ÷ 1.645
//! Experiments/visits             data[y, x] u4, exposures per pixel, all frames
//! Experiments/dose               data[y, x] f4, e/Å² (electrons per pixel where the pixel size is unknown)
//! model                          what was learned of the specimen, where a mixture was; see `write_models`
//! model-given                    what the acquisition was given to start from, where it was
//! samples/                       one array per column, chunks of 65536, see `Samples`
//! .zmetadata                     written last: a data set that has it is complete
//! ```
//! Memory is bounded whatever the size: the journal is streamed, columns go out chunk by chunk, maps tile by
//! tile through a callback, and what is counted per pixel waits by tiles in a scratch file where memory does not hold it.

mod columns;
mod counts;
mod finalise;
mod metadata;
mod open;
mod recover;

pub use columns::{SampleSummary, Samples, SignalColumn};
pub use finalise::Finaliser;
pub use open::{DataSet, DataSetEntry, DataSetState, Listing, MapInfo, list, model_use};
pub use recover::{Recovery, recover};

/// Name of the journal in a data set.
pub(crate) const JOURNAL: &str = "journal";
/// Directory of the signals.
pub(crate) const EXPERIMENTS: &str = "Experiments";
/// Directory of the columns.
pub(crate) const SAMPLES: &str = "samples";
/// Side of the square chunks of maps, pixels.
pub(crate) const TILE: u32 = 512;

/// Where the journal of the data set at `directory` lies.
#[must_use]
pub fn journal_path(directory: &std::path::Path) -> std::path::PathBuf {
    directory.join(JOURNAL)
}

#[cfg(test)]
mod tests;
