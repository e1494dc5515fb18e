//! The recording of an acquisition: header, journal, and the finished data set.

use super::estimating::Estimator;
use super::store_failure;
use crate::core::{Edges, OpenFailure, Settings, Totals};
use crate::{
    AcquisitionId, Config, Origin, PlannedCoils, Prediction, Prepared, RecorderState, State,
};
use domain::{BlankTravel, DwellTime, Invalid, PatchModel};
use hal::{BlankerKind, Capabilities, FieldCalibration, FieldUnit};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{ColumnKey, FinalState, Finish, Header, Instrument, Recorder, RecorderSettings};

/// Room on the disk below which nothing is recorded, bytes.
pub(crate) const SPACE_RESERVE: u64 = 16 << 20;

/// The setting that says that the data set holds models to start from.
const GIVEN: &str = "model_given";

/// The directory of an acquisition.
pub(crate) fn path_of(directory: &Path, id: &AcquisitionId) -> PathBuf {
    directory.join(format!("{id}.zspy"))
}

/// Creates `<id>.zspy/` and its journal. Refuses before anything is written where there is no room.
pub(crate) fn open(
    path: &Path,
    prepared: &Prepared,
    config: &Config,
    capabilities: &Capabilities,
) -> Result<Recorder, OpenFailure> {
    let header = header(prepared, config, capabilities);
    header.check().map_err(OpenFailure::Invalid)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let needed = prepared
        .prediction
        .storage_bytes
        .saturating_add(SPACE_RESERVE);
    store::check_space(directory, needed).map_err(store_failure)?;
    store::create_data_set_at(path).map_err(store_failure)?;
    begin(path, prepared, &header).map_err(|error| {
        // The directory is this function's own and empty but for a journal that never began.
        let _ = std::fs::remove_dir_all(path);
        store_failure(error)
    })
}

fn begin(path: &Path, prepared: &Prepared, header: &Header) -> Result<Recorder, store::Error> {
    if !prepared.given.is_empty() {
        store::write_models(&store::given_model_path(path), &prepared.given)?;
    }
    Recorder::create(
        &store::journal_path(path),
        header,
        RecorderSettings::default(),
    )
}

fn header(prepared: &Prepared, config: &Config, capabilities: &Capabilities) -> Header {
    let created_ns = prepared.created.as_nanos() as u64;
    let mut header = Header::new(
        prepared.id.as_str(),
        created_ns,
        prepared.plan.clone(),
        prepared.detectors.clone(),
    );
    header.identity.clone_from(&prepared.origin.identity);
    header.lease_epoch = prepared.origin.lease_epoch;
    header.audit_head.clone_from(&prepared.origin.audit_head);
    header.request.clone_from(&prepared.origin.request);
    header.column = prepared.column.clone();
    header.instrument = instrument(capabilities);
    header.field_calibration = Some(calibration(prepared));
    header.coil_calibration = prepared.coils.as_ref().map(|c| c.id.clone());
    header.versions = vec![("software".into(), config.software.clone())];
    header.kernel = super::estimating::kernel_of(config).variant().into();
    header.settings = settings(prepared, config, capabilities);
    header
}

fn calibration(prepared: &Prepared) -> store::FieldCalibration {
    let found = &prepared.calibration;
    store::FieldCalibration {
        id: found.id.clone(),
        date_s: found.date_s,
        column: ColumnKey::of(&prepared.column),
        matrix: found.deflection_from_field.m,
        offset: found.deflection_from_field.t,
        uncertainty: found.scale_uncertainty,
        valid_until_s: (found.valid_for != Duration::MAX)
            .then(|| found.date_s.saturating_add(found.valid_for.as_secs())),
        residual_nm: 0.0,
        electrons: 0.0,
        source: format!("field in {}", found.unit.symbol()),
        lattice: None,
        disagreement: String::new(),
    }
}

fn instrument(capabilities: &Capabilities) -> Instrument {
    Instrument {
        address: capabilities.address.clone(),
        model: capabilities.model.clone(),
        serial: capabilities.serial.clone(),
        dwell_min_ns: capabilities.dwell_min_ns,
        dwell_max_ns: capabilities.dwell_max_ns,
        tick_ns: capabilities.tick_ns,
        dac_bits: capabilities.dac_bits,
        blanker: match capabilities.blanker {
            BlankerKind::None => "none",
            BlankerKind::Slow => "slow",
            BlankerKind::Fast => "fast",
        }
        .into(),
        blanker_closing_ns: capabilities.blanker_closing_ns,
        blanker_opening_ns: capabilities.blanker_opening_ns,
        queue_positions: capabilities.queue_positions,
        return_samples: capabilities.return_samples,
        has_watchdog: capabilities.has_watchdog,
        has_dose_counter: capabilities.has_dose_counter,
        cannot: capabilities.cannot.clone(),
    }
}

/// What a replay needs besides the header's own fields.
fn settings(
    prepared: &Prepared,
    config: &Config,
    capabilities: &Capabilities,
) -> Vec<(String, String)> {
    let blanking = match prepared.prediction.blank_travel {
        BlankTravel::Always => "always".to_owned(),
        BlankTravel::Beyond(px) => format!("beyond {px}"),
        BlankTravel::Never | BlankTravel::Auto => "never".to_owned(),
    };
    let nanoseconds = |d: Duration| d.as_nanos().to_string();
    [
        ("dwell_ns", prepared.dwell.nanoseconds().to_string()),
        ("batch", prepared.prediction.batch.to_string()),
        ("blank_travel", blanking),
        ("dark", prepared.dark.to_string()),
        ("noiseless", prepared.noiseless.to_string()),
        ("estimate", config.estimate.to_string()),
        ("watchdog_ns", nanoseconds(config.watchdog)),
        (
            "unblanked_stretch_ns",
            nanoseconds(config.unblanked_stretch),
        ),
        ("settle_max_ns", capabilities.settle_max_ns.to_string()),
        ("late_in_a_row", config.late_in_a_row.to_string()),
    ]
    .into_iter()
    .chain(prepared.coils.as_ref().map(|c| ("coil", c.to_text())))
    .chain((!prepared.given.is_empty()).then(|| (GIVEN, "true".to_owned())))
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The last record of a journal.
pub(crate) fn finish_of(totals: &Totals) -> Finish {
    Finish {
        state: match totals.state {
            State::Finished => FinalState::Finished,
            State::Failed => FinalState::Failed,
            _ => FinalState::Aborted,
        },
        reason: totals.reason.recorded(),
        text: totals.reason.to_string(),
        totals: totals.dose,
        n_samples: totals.n_sampled,
        n_gaps: totals.n_gaps,
        scan_ns: totals.scan_ns,
    }
}

/// A data set on its way from a journal to arrays.
#[derive(Debug)]
pub(crate) struct Finishing {
    path: PathBuf,
    finaliser: Option<store::Finaliser>,
}

impl Finishing {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            finaliser: None,
        }
    }

    fn finaliser(&mut self) -> Result<&mut store::Finaliser, String> {
        if self.finaliser.is_none() {
            self.finaliser = Some(store::Finaliser::begin(&self.path).map_err(|e| e.to_string())?);
        }
        self.finaliser
            .as_mut()
            .ok_or_else(|| "no finaliser".to_owned())
    }

    /// Writes the maps of the estimator's frame, and what was learned of it. The journal may still grow.
    pub(crate) fn maps(&mut self, estimator: &mut Estimator) -> Result<(), String> {
        let frame = estimator.frame();
        let mut tile = |rect| estimator.recon().estimate_tile(rect);
        let finaliser = self.finaliser()?;
        finaliser
            .write_maps(frame, &mut tile)
            .map_err(|e| e.to_string())?;
        let detectors = estimator.recon().estimate().detectors;
        let calibrated: Vec<bool> = detectors.iter().map(|d| d.calibrated).collect();
        finaliser.set_calibrated(&calibrated);
        finaliser.set_model_use(estimator.transferred());
        let learned = estimator.recon().learned();
        if !learned.is_empty() {
            store::write_models(&store::model_path(&self.path), &learned)
                .map_err(|e| e.to_string())?;
        }
        estimator.failure().map_or(Ok(()), Err)
    }

    /// Writes samples and metadata. Nobody records to the journal any more.
    pub(crate) fn complete(mut self) -> Result<(), String> {
        self.finaliser()?;
        match self.finaliser {
            Some(finaliser) => finaliser.finish().map(|_| ()).map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }
}

/// A setting of the session.
fn recorded<'a>(header: &'a Header, name: &str) -> Result<&'a str, Invalid> {
    let found = header.settings.iter().find(|(n, _)| n == name);
    found
        .map(|(_, value)| value.as_str())
        .ok_or_else(|| Invalid::new(format!("journal.settings.{name}"), "missing", "recorded"))
}

fn recorded_number(header: &Header, name: &str) -> Result<u64, Invalid> {
    let value = recorded(header, name)?;
    value
        .parse()
        .map_err(|_| Invalid::new(format!("journal.settings.{name}"), value, "a whole number"))
}

/// The models that the data set at `path` was given to start from; none where its header says none.
pub(crate) fn given_of(header: &Header, path: &Path) -> Result<Vec<Arc<PatchModel>>, store::Error> {
    if recorded(header, GIVEN).is_err() {
        return Ok(Vec::new());
    }
    let models = store::read_models(&store::given_model_path(path))?;
    Ok(models.into_iter().map(Arc::new).collect())
}

/// How travel was blanked, from its setting.
fn travel(text: &str) -> BlankTravel {
    let beyond = text.strip_prefix("beyond ");
    match (text, beyond.and_then(|px| px.parse().ok())) {
        ("always", _) => BlankTravel::Always,
        (_, Some(px)) => BlankTravel::Beyond(px),
        (_, None) => BlankTravel::Never,
    }
}

/// What a replay needs, from a header: the prepared plan, the machine's settings, whether there is an estimator.
pub(crate) fn from_header(header: &Header) -> Result<(Prepared, Settings, bool), Invalid> {
    let text = |name| recorded(header, name);
    let number = |name| recorded_number(header, name);
    let flag = |name| Ok::<_, Invalid>(recorded(header, name)? == "true");
    let blank_travel = travel(text("blank_travel")?);
    let instrument = &header.instrument;
    let dwell = DwellTime::from_nanoseconds(number("dwell_ns")?)?;
    let prediction = Prediction {
        n_positions: header.plan.n_positions(),
        dwell,
        time: None,
        full_raster_time: Duration::ZERO,
        dwell_time: None,
        electrons_dwell: None,
        electrons_outside: None,
        dose_e_per_a2: None,
        storage_bytes: 0,
        memory_bytes: 0,
        batch: number("batch")? as u32,
        blank_travel,
        explanation: Vec::new(),
    };
    let settings = Settings {
        watchdog: Duration::from_nanos(number("watchdog_ns")?),
        unblanked_stretch: Duration::from_nanos(number("unblanked_stretch_ns")?),
        late_in_a_row: number("late_in_a_row")? as u32,
        queue_positions: u64::from(instrument.queue_positions),
        return_samples: u64::from(instrument.return_samples),
        edges: Edges {
            opening_ns: instrument.blanker_opening_ns,
            closing_ns: instrument.blanker_closing_ns,
            tick_ns: instrument.tick_ns.max(1e-3),
        },
        dwell_ns: (instrument.dwell_min_ns, instrument.dwell_max_ns),
        settle_max_ns: number("settle_max_ns")? as u32,
        has_watchdog: instrument.has_watchdog,
        recorder: RecorderState::Alive,
    };
    let current = header.column.probe_current;
    let prepared = Prepared {
        id: AcquisitionId::recorded(&header.id),
        plan: header.plan.clone(),
        prediction,
        dwell,
        electrons_per_ns: current.map(domain::Current::electrons_per_ns),
        noiseless: flag("noiseless")?,
        dark: flag("dark")?,
        calibrates: false,
        detectors: header.detectors.clone(),
        armed: Vec::new(),
        // The machine only hands it on.
        calibration: FieldCalibration::square("recorded", FieldUnit::Pixels, 1.0)?,
        coils: text("coil").ok().map(PlannedCoils::from_text).transpose()?,
        given: Vec::new(),
        column: header.column.clone(),
        created: Duration::from_nanos(header.created_ns),
        origin: Origin {
            identity: header.identity.clone(),
            lease_epoch: header.lease_epoch,
            audit_head: header.audit_head.clone(),
            request: header.request.clone(),
        },
    };
    Ok((prepared, settings, flag("estimate")?))
}
