//! Journal, data sets, recovery, calibrations, export and pictures.
//!
//! Owns every format on disk. An acquisition is one directory `<id>.zspy/`: while it runs, only the journal in
//! it grows; at the end the journal becomes arrays that HyperSpy opens, and stays as the replay. Nothing here
//! knows the controller, the engine or the API, reads a clock, or changes a file that it did not create.

mod calibration;
mod claim;
mod dataset;
mod date;
mod digest;
mod error;
#[cfg(test)]
mod fixtures;
mod journal;
mod list_file;
mod model_file;
mod picture;
mod record;
mod scratch;
mod zarr;

pub use calibration::{
    CalibrationStore, CoilCalibration, ColumnKey, Doubt, FieldCalibration, InForce, SeenLattice,
    StoredDetectorCalibration,
};
pub use claim::{
    DataDirectory, check_new, check_space, check_writable, create_data_set_at, data_set_id,
    free_bytes,
};
pub use dataset::{
    Claims, DataSet, DataSetEntry, DataSetState, Finaliser, Listing, MapInfo, MapQuality, Recovery,
    SampleSummary, Samples, SignalColumn, claims, journal_path, list, recover,
};
pub use digest::sha256;
pub use error::Error;
pub use journal::{
    DiskFile, Fault, JournalFile, JournalIndex, JournalReader, Recorder, RecorderSettings,
    SampleReader, ScriptedFile, Syncer, Tail,
};
pub use list_file::{list_from_csv, list_from_npy};
pub use model_file::{given_model_path, model_path, models_of_bytes, read_models, write_models};
pub use picture::{
    ColourMap, DisplayRange, Figure, Panel, Picture, Plane, ansi_picture, plain_picture,
    write_npy_f32, write_png, write_png_gray16, write_tiff_f32, write_tiff_u8, write_tiff_u16,
};
pub use record::{
    ArmingId, BatchRecord, BlockRecord, Command, Decider, Event, FinalState, Finish, FinishReason,
    GapRecord, Header, Instrument, Record, RunState, Status,
};
pub use scratch::ScratchFile;
