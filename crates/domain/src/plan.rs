//! What the operator asks for: a scan plan.
//!
//! [`Plan::check`] tests the plan against itself. What depends on the instrument (minimum dwell, reach of
//! the coils, known current) is tested by the engine before anything is armed.

use crate::invalid::legible;
use crate::{
    Current, DetectorName, Dose, DoseLimits, DwellTime, Electrons, Fraction, Grid, Invalid,
    Nanometres, PixelRect, ScanField,
};
use std::sync::Arc;
use std::time::Duration;

/// What kind of exposure this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// A recorded acquisition.
    Acquire,
    /// Endless fast frames for finding and focusing, bounded by a dose rate.
    View,
    /// The beam on one place, bounded by its budget.
    Spot,
}

/// One place of an explicit list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListedPosition {
    /// Row, px of the plan's grid, fractional allowed.
    pub row: f32,
    /// Column, px.
    pub col: f32,
    /// Dwell of its own, else the plan's.
    pub dwell: Option<DwellTime>,
}

/// Where the beam goes: a static pattern or a policy. One namespace.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// Row by row with flyback.
    Raster,
    /// Row by row, alternating direction.
    Serpentine,
    /// Raster in `by` interleaved passes of rows.
    Interleaved {
        /// Passes, ≥ 2.
        by: u32,
    },
    /// Uniformly random distinct pixels.
    Random,
    /// One random pixel per stratum.
    Jittered,
    /// Random pixels no closer than a distance that gives the fraction.
    PoissonDisc,
    /// Well-spread zigzag along rows: a jitter row at a time.
    LineHop,
    /// Archimedean spiral from the centre, constant speed; off-grid.
    Spiral,
    /// As listed.
    List(Arc<[ListedPosition]>),
    /// Policy: expected error reduction per electron and microsecond, with a coverage reserve.
    Adaptive,
    /// Policy: the largest uncertainty first.
    Uncertainty,
    /// Policy: along edges of the estimate.
    Edges,
    /// Policy: more dwell where the estimate is noisy.
    Revisit,
    /// Policy: by the operator's weights, `[row, column]` of the plan's grid, ≥ 0.
    Weighted(Arc<[f32]>),
    /// Policy: a client answers over the API; `fallback` fills what it leaves.
    External {
        /// Pattern that fills a late slot.
        fallback: Box<Pattern>,
    },
}

impl Pattern {
    /// Every name, as the operator types it, with what it stands for when it needs no further data.
    pub const NAMES: [&'static str; 15] = [
        "raster",
        "serpentine",
        "interleaved",
        "random",
        "jittered",
        "poisson-disc",
        "line-hop",
        "spiral",
        "list",
        "adaptive",
        "uncertainty",
        "edges",
        "revisit",
        "weighted",
        "external",
    ];

    /// The name as the operator types it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Raster => "raster",
            Self::Serpentine => "serpentine",
            Self::Interleaved { .. } => "interleaved",
            Self::Random => "random",
            Self::Jittered => "jittered",
            Self::PoissonDisc => "poisson-disc",
            Self::LineHop => "line-hop",
            Self::Spiral => "spiral",
            Self::List(_) => "list",
            Self::Adaptive => "adaptive",
            Self::Uncertainty => "uncertainty",
            Self::Edges => "edges",
            Self::Revisit => "revisit",
            Self::Weighted(_) => "weighted",
            Self::External { .. } => "external",
        }
    }

    /// Whether positions are decided during the run.
    #[must_use]
    pub const fn is_policy(&self) -> bool {
        matches!(
            self,
            Self::Adaptive
                | Self::Uncertainty
                | Self::Edges
                | Self::Revisit
                | Self::Weighted(_)
                | Self::External { .. }
        )
    }

    /// The pattern of that name, for those that need no data of their own (`interleaved` runs 4 passes).
    pub fn from_name(name: &str) -> Result<Self, Invalid> {
        Ok(match name {
            "raster" => Self::Raster,
            "serpentine" => Self::Serpentine,
            "interleaved" => Self::Interleaved { by: 4 },
            "random" => Self::Random,
            "jittered" => Self::Jittered,
            "poisson-disc" => Self::PoissonDisc,
            "line-hop" => Self::LineHop,
            "spiral" => Self::Spiral,
            "adaptive" => Self::Adaptive,
            "uncertainty" => Self::Uncertainty,
            "edges" => Self::Edges,
            "revisit" => Self::Revisit,
            "external" => Self::External {
                fallback: Box::new(Self::Jittered),
            },
            "list" => {
                return Err(Invalid::new(
                    "pattern",
                    name,
                    "list with a file of positions",
                ));
            }
            "weighted" => {
                return Err(Invalid::new(
                    "pattern",
                    name,
                    "weighted with a mask of weights",
                ));
            }
            _ => {
                return Err(Invalid::new(
                    "pattern",
                    format!("{name:?}"),
                    Self::NAMES.join(", "),
                ));
            }
        })
    }
}

/// In which order a static pattern is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As the pattern generates it.
    AsGiven,
    /// Bands of rows, each swept along x, serpentine.
    Bands,
    /// Bands in `by` interleaved passes; four coarse frames, least diffusion damage.
    InterleavedBands {
        /// Passes, ≥ 2.
        by: u32,
    },
    /// A short tour through all positions.
    ShortTour,
    /// Interleaved bands by 4 for sparse patterns, as given for dense ones.
    #[default]
    Default,
}

/// How the exposure of a position is stated; everything else follows from the probe current.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Exposure {
    /// Dwell per position.
    Dwell(DwellTime),
    /// Expected incident electrons per position; sets the dwell at the known current.
    ElectronsPerPosition(Electrons),
    /// Mean dose over the whole field, everything unblanked included; sets the dwell at the known current.
    MeanDose(Dose),
}

/// A dose limit inside any disc.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AreaLimit {
    /// Largest mean dose inside the disc.
    pub dose: Dose,
    /// Radius of the disc; not below the probe's.
    pub radius: Nanometres,
}

/// When the beam is blanked between positions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum BlankTravel {
    /// Never: travel is exposed, and booked.
    Never,
    /// For jumps longer than so many px.
    Beyond(f32),
    /// Always.
    Always,
    /// By expected dose, from the blanker's kind and rise time.
    #[default]
    Auto,
}

/// Settle time by length of the jump, piecewise linear. Lengths in px of the plan's grid.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SettleLaw {
    /// `(jump length px, settle time ns)`, lengths rising. Empty: never wait.
    pub table: Vec<(f32, u32)>,
}

impl SettleLaw {
    /// Settle time for a jump of `length` px: interpolated, constant beyond the ends.
    #[must_use]
    pub fn settle_ns(&self, length: f32) -> u32 {
        let next = self.table.partition_point(|&(at, _)| at < length);
        match (
            next.checked_sub(1).and_then(|i| self.table.get(i)),
            self.table.get(next),
        ) {
            (Some(&(x0, t0)), Some(&(x1, t1))) => {
                let part = f64::from((length - x0) / (x1 - x0));
                (f64::from(t0) + part * (f64::from(t1) - f64::from(t0))).round() as u32
            }
            (Some(&(_, only)), None) | (None, Some(&(_, only))) => only,
            (None, None) => 0,
        }
    }
}

/// The estimators by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Estimator {
    /// Nearest sample.
    Nearest,
    /// Natural neighbour.
    Natural,
    /// Normalised Gaussian kernel.
    Kernel,
    /// Tile kriging.
    Kriging,
    /// In-situ patch Gaussian mixture.
    Gmm,
    /// Blackman–Tukey Gaussian process.
    Gp,
    /// Beta-process factor analysis.
    Bpfa,
    /// The best of the above by cross-validation.
    #[default]
    Auto,
}

impl Estimator {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Nearest,
        Self::Natural,
        Self::Kernel,
        Self::Kriging,
        Self::Gmm,
        Self::Gp,
        Self::Bpfa,
        Self::Auto,
    ];

    /// The name as the operator types it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Natural => "natural",
            Self::Kernel => "kernel",
            Self::Kriging => "kriging",
            Self::Gmm => "gmm",
            Self::Gp => "gp",
            Self::Bpfa => "bpfa",
            Self::Auto => "auto",
        }
    }

    /// The estimator of that name.
    pub fn from_name(name: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|e| e.name() == name)
            .ok_or_else(|| {
                Invalid::new(
                    "estimator",
                    format!("{name:?}"),
                    Self::ALL.map(Self::name).join(", "),
                )
            })
    }
}

/// Where a model comes from that an earlier acquisition has learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// An acquisition of the same service, by its id.
    Acquisition(String),
    /// A file that was uploaded ahead of the plan, by the id of the upload.
    Upload(String),
}

/// A reason to stop; the first that is reached ends the acquisition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StopRule {
    /// Exposures, all frames.
    Positions(u64),
    /// Scan time on the controller's clock.
    Time(Duration),
    /// Mean dose over the field, everything unblanked included.
    Dose(Dose),
    /// The estimate resolves this spacing.
    Resolution(Nanometres),
    /// Relative standard deviation everywhere in `region` (the whole grid if `None`).
    Precision {
        /// Uncertainty ÷ mean amplitude.
        relative: f64,
        /// Where.
        region: Option<PixelRect>,
    },
}

/// What happens when a decision is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenLate {
    /// The planned fallback goes on.
    #[default]
    Fallback,
    /// The beam waits, blanked.
    Wait,
}

/// The part of an earlier field that is scanned.
#[derive(Debug, Clone, PartialEq)]
pub enum Region {
    /// Rectangle `[x0, y0, x1, y1]` in field nm of the plan's field.
    Field([f64; 4]),
    /// Pixels of a parent acquisition.
    Parent {
        /// Its id.
        acquisition: String,
        /// Its pixels.
        rect: PixelRect,
    },
}

/// An acquisition that goes on without its client, within bounds of its own on time and on electrons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detached {
    /// Electrons it may spend; `None`: as the plan's total or mean dose limit says, one of which is there then.
    pub electrons: Option<Electrons>,
    /// Longest duration.
    pub duration: Duration,
}

/// Texts that a paper needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Texts {
    /// Who.
    pub operator: String,
    /// What.
    pub specimen: String,
    /// Title of the data set.
    pub title: String,
    /// Anything else.
    pub notes: String,
}

/// A complete scan plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Kind of exposure.
    pub kind: PlanKind,
    /// Field of view, already cut to the region asked for.
    pub field: ScanField,
    /// Acquisition the region was drawn on, for the record.
    pub parent: Option<String>,
    /// Where the beam goes.
    pub pattern: Pattern,
    /// In which order.
    pub order: Order,
    /// Exposures ÷ pixels, per frame.
    pub fraction: Fraction,
    /// Frames of a series; 0 (only for views) = until stopped.
    pub n_frames: u32,
    /// Average the frames into one estimate (else one estimate per frame).
    pub average: bool,
    /// Exposure of a position.
    pub exposure: Exposure,
    /// Settle times.
    pub settle: SettleLaw,
    /// Blanking between positions.
    pub blank_travel: BlankTravel,
    /// Flyback time at the end of a line of a dense raster, ns.
    pub flyback_ns: u32,
    /// Detectors, in the order of the data set.
    pub detectors: Vec<DetectorName>,
    /// Dose limits.
    pub limits: DoseLimits,
    /// Mean dose rate limit of a view, e/Å²/s.
    pub dose_rate_limit: Option<f64>,
    /// When to stop, besides the end of the pattern.
    pub stop: Vec<StopRule>,
    /// Estimator.
    pub estimator: Estimator,
    /// What the estimator may start from; `None`: from this frame alone.
    pub model_from: Option<ModelSource>,
    /// CPU time the estimator may use after the last sample.
    pub final_refinement: Duration,
    /// Work held by the controller.
    pub lead: Duration,
    /// Positions per decision, 64 to 4096.
    pub batch: u32,
    /// What a late decision costs.
    pub when_late: WhenLate,
    /// Identity besides the lease holder that may steer.
    pub steering_identity: Option<String>,
    /// Goes on without its client.
    pub detached: Option<Detached>,
    /// How often within a minute the acquisition goes on by itself after the watchdog tripped, 1 to 3; `None`: it waits to
    /// be cleared and resumed.
    pub resume_after_trip: Option<u32>,
    /// Seed of patterns and policies.
    pub seed: u64,
    /// Texts.
    pub texts: Texts,
}

impl Plan {
    /// A plan with the defaults of an acquisition: every pixel in jittered order, one frame; set `fraction` for a sparse scan.
    #[must_use]
    pub fn new(field: ScanField, detectors: Vec<DetectorName>, exposure: Exposure) -> Self {
        Self {
            kind: PlanKind::Acquire,
            field,
            parent: None,
            pattern: Pattern::Jittered,
            order: Order::Default,
            fraction: Fraction::FULL,
            n_frames: 1,
            average: false,
            exposure,
            settle: SettleLaw::default(),
            blank_travel: BlankTravel::Auto,
            flyback_ns: 0,
            detectors,
            limits: DoseLimits::default(),
            dose_rate_limit: None,
            stop: Vec::new(),
            estimator: Estimator::Auto,
            model_from: None,
            final_refinement: Duration::from_secs(2),
            lead: Duration::from_millis(20),
            batch: 1024,
            when_late: WhenLate::Fallback,
            steering_identity: None,
            detached: None,
            resume_after_trip: None,
            seed: 0,
            texts: Texts::default(),
        }
    }

    /// Exposures of one frame.
    #[must_use]
    pub fn positions_per_frame(&self) -> u64 {
        match &self.pattern {
            Pattern::List(list) => list.len() as u64,
            _ => self.fraction.of(self.field.grid.n_pixels()),
        }
    }

    /// Exposures of all frames; `None` for an endless view.
    #[must_use]
    pub fn n_positions(&self) -> Option<u64> {
        (self.n_frames > 0).then(|| self.positions_per_frame() * u64::from(self.n_frames))
    }

    /// The dwell at probe current `current`, before quantisation to controller ticks.
    ///
    /// `outside_ns` is the expected unblanked time outside the dwell per position; a mean dose counts it.
    pub fn dwell(&self, current: Option<Current>, outside_ns: f64) -> Result<DwellTime, Invalid> {
        let unknown = || {
            Invalid::new(
                "column.probe_current_pa",
                "unknown",
                "a known probe current for exposures in electrons",
            )
        };
        let (field, asked, ns) = match self.exposure {
            Exposure::Dwell(dwell) => return Ok(dwell),
            Exposure::ElectronsPerPosition(n) => {
                let rate = current.ok_or_else(unknown)?.electrons_per_ns();
                ("electrons_per_position", n.count(), n.count() / rate)
            }
            Exposure::MeanDose(dose) => {
                let area = self.field.area_a2().ok_or_else(|| {
                    Invalid::new(
                        "dose_e_per_a2",
                        dose.e_per_a2(),
                        "a field with a known pixel size, or electrons per position",
                    )
                })?;
                let rate = current.ok_or_else(unknown)?.electrons_per_ns();
                let positions = self.n_positions().unwrap_or(self.positions_per_frame()) as f64;
                let ns = dose.e_per_a2() * area / (positions * rate) - outside_ns;
                // Not a nanosecond more than asked for, but for a thousandth that floating-point numbers lose.
                ("dose_e_per_a2", dose.e_per_a2(), (ns + 1e-3).floor())
            }
        };
        let asked = legible(asked.to_string());
        if ns <= 0.0 {
            let value = format!("{asked}, which travel alone would pass,");
            let allowed = "a dose above that of travel; less travel, travel blanked, or a lower current also help";
            return Err(Invalid::new(field, value, allowed));
        }
        DwellTime::from_microseconds(ns / 1e3).map_err(|e| {
            let value = format!(
                "{asked}, a dwell of {} µs at this current and fraction,",
                legible((ns / 1e3).to_string())
            );
            Invalid::new(field, value, format!("a dwell of {}", e.allowed))
        })
    }

    /// Tests the plan against itself.
    pub fn check(&self) -> Result<(), Invalid> {
        let endless = self.kind == PlanKind::View;
        range(
            "n_frames",
            self.n_frames >= 1 || endless,
            self.n_frames.to_string(),
            "1 or more (0 only for a view)",
        )?;
        range(
            "batch",
            (64..=4096).contains(&self.batch),
            self.batch.to_string(),
            "64 to 4096 positions",
        )?;
        range(
            "detectors",
            !self.detectors.is_empty(),
            "none".into(),
            "at least one detector",
        )?;
        let lead_ms = self.lead.as_secs_f64() * 1e3;
        range(
            "lead_ms",
            (1.0..=1000.0).contains(&lead_ms),
            lead_ms.to_string(),
            "1 to 1000 ms",
        )?;
        for (i, detector) in self.detectors.iter().enumerate() {
            range(
                "detectors",
                !self.detectors[..i].contains(detector),
                detector.to_string(),
                "each detector once",
            )?;
        }
        if let Order::InterleavedBands { by } = self.order {
            range(
                "order.by",
                (2..=64).contains(&by),
                by.to_string(),
                "2 to 64 passes",
            )?;
        }
        check_pattern(&self.pattern, self.field.grid)?;
        check_settle(&self.settle)?;
        if self.limits.mean.is_some()
            || self.limits.area.is_some()
            || self.dose_rate_limit.is_some()
        {
            let area = self.field.area_a2();
            range(
                "limits",
                area.is_some(),
                "e/Å²".into(),
                "electrons only: the pixel size of this field is unknown",
            )?;
        }
        for rule in &self.stop {
            check_stop(rule, self.field)?;
        }
        if let Some(per_minute) = self.resume_after_trip {
            range(
                "resume_after_trip.per_minute",
                (1..=3).contains(&per_minute) && self.kind == PlanKind::Acquire,
                per_minute.to_string(),
                "1 to 3, of an acquisition",
            )?;
        }
        check_detached(self)
    }
}

/// Nobody watches it: what it may spend in all is stated before.
fn check_detached(plan: &Plan) -> Result<(), Invalid> {
    let bounded = plan.limits.total.is_some() || plan.limits.mean.is_some();
    match plan.detached {
        Some(Detached {
            electrons: None, ..
        }) if !bounded => Err(Invalid::new(
            "detached.electrons",
            "none",
            "electrons it may spend without its client, or a limit on the total or mean dose",
        )),
        _ => Ok(()),
    }
}

fn range(
    field: &'static str,
    ok: bool,
    value: String,
    allowed: &'static str,
) -> Result<(), Invalid> {
    if ok {
        Ok(())
    } else {
        Err(Invalid::new(field, value, allowed))
    }
}

fn check_settle(law: &SettleLaw) -> Result<(), Invalid> {
    let rising = law.table.windows(2).all(|w| w[0].0 < w[1].0);
    let finite = |(at, _): &(f32, u32)| at.is_finite() && *at >= 0.0;
    range(
        "settle",
        rising && law.table.iter().all(finite),
        format!("{:?}", law.table),
        "jump lengths ≥ 0 px, strictly rising",
    )
}

fn check_pattern(pattern: &Pattern, grid: Grid) -> Result<(), Invalid> {
    match pattern {
        Pattern::Interleaved { by } if !(2..=64).contains(by) => {
            Err(Invalid::new("pattern.by", by, "2 to 64 passes"))
        }
        Pattern::List(list) => {
            if list.is_empty() {
                return Err(Invalid::new(
                    "pattern.list",
                    "no positions",
                    "at least one position",
                ));
            }
            let inside = |v: f32, n: u32| v >= -0.5 && v <= n as f32 - 0.5;
            match list
                .iter()
                .position(|p| !inside(p.row, grid.n_rows()) || !inside(p.col, grid.n_cols()))
            {
                None => Ok(()),
                Some(i) => Err(Invalid::new(
                    format!("pattern.list[{i}]"),
                    format!("row {}, column {}", list[i].row, list[i].col),
                    format!(
                        "rows -0.5 to {}, columns -0.5 to {}",
                        grid.n_rows() as f32 - 0.5,
                        grid.n_cols() as f32 - 0.5
                    ),
                )),
            }
        }
        Pattern::Weighted(weights) => {
            let fits = weights.len() as u64 == grid.n_pixels();
            let good = weights.iter().all(|w| w.is_finite() && *w >= 0.0)
                && weights.iter().any(|w| *w > 0.0);
            if fits && good {
                Ok(())
            } else {
                Err(Invalid::new(
                    "pattern.weights",
                    format!("{} values", weights.len()),
                    format!("{} finite weights ≥ 0, not all zero", grid.n_pixels()),
                ))
            }
        }
        Pattern::External { fallback } if fallback.is_policy() => Err(Invalid::new(
            "pattern.fallback",
            fallback.name(),
            "a static pattern",
        )),
        Pattern::External { fallback } => check_pattern(fallback, grid),
        _ => Ok(()),
    }
}

fn check_stop(rule: &StopRule, field: ScanField) -> Result<(), Invalid> {
    let known = field.area_a2().is_some();
    match rule {
        StopRule::Positions(0) => Err(Invalid::new("stop.positions", 0, "1 or more")),
        StopRule::Resolution(nm) if !known => Err(Invalid::new(
            "stop.resolution_nm",
            nm.nm(),
            "a field with a known pixel size",
        )),
        StopRule::Dose(dose) if !known => Err(Invalid::new(
            "stop.dose_e_per_a2",
            dose.e_per_a2(),
            "a field with a known pixel size",
        )),
        StopRule::Precision { relative, .. } if !(*relative > 0.0 && *relative <= 1.0) => Err(
            Invalid::new("stop.relative", relative, "above 0, at most 1"),
        ),
        StopRule::Precision {
            region: Some(rect), ..
        } => field.cut(*rect).map(|_| ()).map_err(|e| e.within("stop")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
