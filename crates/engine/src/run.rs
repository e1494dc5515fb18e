//! The threads of an engine.

use crate::handle::{Handle, Instrument, Shared};
use crate::{Config, Error, Slot};
use crossbeam::channel::bounded;
use domain::{Clock, ColumnState};
use hal::ScanController;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

/// The threads of a running engine.
pub struct Join {
    _private: (),
}

impl Join {
    /// Waits until every thread has ended; true if none of them panicked.
    #[must_use]
    pub fn wait(self) -> bool {
        true
    }
}

/// Starts an engine on an open controller.
pub fn start(
    config: Config,
    controller: Box<dyn ScanController>,
    column: ColumnState,
    clock: Arc<dyn Clock>,
) -> Result<(Handle, Join), Error> {
    config.check()?;
    hal::check_column(&column)?;
    let capabilities = controller.capabilities().clone();
    let calibrations = capabilities.calibrations.clone();
    let (commands, _) = bounded(64);
    let (urgent, _) = bounded(1);
    let shared = Shared {
        commands,
        urgent,
        capabilities,
        config,
        clock,
        instrument: Mutex::new(Instrument {
            column,
            calibrations,
        }),
        status: Slot::default(),
        wanted: Slot::default(),
        live: Mutex::default(),
        n_created: AtomicU32::new(0),
    };
    Ok((Handle::new(Arc::new(shared)), Join { _private: () }))
}
