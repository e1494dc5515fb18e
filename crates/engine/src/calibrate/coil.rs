//! Identification of the scan coils by jump and hold, from nothing but the image signal.
//!
//! A coarse survey finds places where the signal is steep along an axis. Slow passes in one direction tell which signal
//! belongs to which place there. Then the beam jumps onto those places, again and again, from near and from far, and the
//! signal is counted in short bins while the coil arrives: see [`scan::identify`]. Nothing is assumed about the coils:
//! a few short trains of jumps in bins of all lengths say which kind they are.
//!
//! Lengths are in units of 1/512 of the field along the axis. The places are exposed for the whole time: sacrificial.

use super::{Look, Occasion, Progress, Readout, Run, Runner, Watch, electrons};
use crate::{AcquisitionId, CoilCalibration, Error};
use domain::{
    Affine, DwellTime, Electrons, Estimator, Exposure, Fraction, Invalid, ListedPosition, Order,
    Pattern, Plan, SampleBlock, SampleFlags, SettleLaw,
};
use hal::FieldCalibration;
use scan::{AxisCoil, CoilModel, Identified, JumpResponse, LineProfile};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Longest dwell that is counted, µs: the detector's range must suit it.
pub const COIL_DWELL_US: f64 = 25.0;
/// Units across the field.
const UNITS: f64 = 512.0;
/// Places per side of the survey, and its dwell, ns.
const SURVEY: u32 = 128;
const SURVEY_NS: u32 = 10_000;
/// Landing lines, and how far apart their rows are at least, units.
const LINES: usize = 4;
const APART: f64 = 6.0;
/// Steepness counts over so many units around a landing place.
const STEEP_REACH: f64 = 20.0;
/// Reach of the profiles, units, and their step.
const REACH: f64 = 35.0;
const STEP: f64 = 0.25;
/// Slow passes at the full budget: dwell per step, ns, passes, steps before the profile begins, rest at its start.
const PASS_NS: u32 = 25_000;
const PASSES: f64 = 7.0;
const RUN_IN: usize = 20;
const REST_NS: u32 = 2_000_000;
/// Trains of jumps: length, units, duration after the landing in periods of the low pass, share of the time.
const TRAINS: [(f64, f64, f64); 3] = [(6.0, 2.4, 0.3), (24.0, 3.6, 0.35), (250.0, 60.0, 0.35)];
/// Time for a line to forget the train before, in periods of the low pass.
const FORGET_PERIODS: f64 = 30.0;
/// The first look: jumps of so many units, so many times each, in bins up to this long after the landing, ns. Long trains tell
/// a slow coil; of a fast one they count little while it moves, which is what the short ones are for.
const LOOK: [(f64, f64, f64); 4] = [
    (24.0, 6.0, LOOK_NS),
    (250.0, 6.0, LOOK_NS),
    (24.0, 60.0, 150e3),
    (250.0, 60.0, 150e3),
];
const LOOK_NS: f64 = 3e6;
/// Longest bin: long ones would saturate the detector, ns.
const BIN_MAX: u32 = 25_000;
/// Frames that the trains are spread over: slow changes of current and specimen touch all trains alike.
const FRAMES: u32 = 6;
/// A fit with a larger χ² per degree of freedom is tried again from these speeds, relative to the first guess.
const GOOD_CHI_SQUARE: f64 = 3.0;
const OTHER_SPEEDS: [f64; 4] = [0.5, 2.0, 0.25, 4.0];
/// A fit with a larger one is refused.
const WORST_CHI_SQUARE: f64 = 6.0;
/// A pause between samples that is longer than this breaks a train, ns.
const PAUSE_NS: u64 = 100;

/// What is known of one axis after its run.
#[derive(Debug, Clone, PartialEq)]
pub struct AxisFound {
    /// The fit; lengths are units of 1/512 of the field.
    pub fit: Identified,
    /// Beam time on this axis, the survey's half included.
    pub beam: Duration,
    /// Mean signal at the landing places, events per µs.
    pub events_per_us: f64,
    /// Landing places `[row, column]`, px.
    pub landings: Vec<[f64; 2]>,
}

/// What the identification found.
#[derive(Debug, Clone, PartialEq)]
pub struct CoilFound {
    /// To be stored and put into force; named after its survey.
    pub calibration: CoilCalibration,
    /// The axes `[x, y]` of the deflection.
    pub axes: [AxisFound; 2],
    /// Electrons spent.
    pub electrons: f64,
}

/// The runs of one identification: what they have spent together, within the budget of the plan.
struct Tally<'a> {
    runner: &'a mut dyn Runner,
    watch: Watch<'a>,
    step: &'static str,
    /// Beam time of the runs that have ended, and of all at most.
    beam_ns: u64,
    most_ns: u64,
    electrons: f64,
    /// Name of the first run.
    first: Option<AcquisitionId>,
}

impl Runner for Tally<'_> {
    fn dwell_min_ns(&self) -> u32 {
        self.runner.dwell_min_ns()
    }

    fn acquire(&mut self, plan: &Plan, readout: Readout, look: Look<'_>) -> Result<Run, Error> {
        let mut plan = plan.clone();
        if let Some(total) = plan.limits.total {
            plan.limits.total = Some(Electrons::new(total.count() - self.electrons)?);
        }
        let (n, ns) = (plan.n_positions().unwrap_or(1) as f64, beam_ns(&plan));
        let (step, spent, before, most) = (self.step, self.electrons, self.beam_ns, self.most_ns);
        let watch = &mut self.watch;
        let run = self.runner.acquire(&plan, readout, &mut |run| {
            let part = (run.n_sampled + run.n_gaps) as f64 / n;
            let progress = Progress {
                step,
                done: (before as f64 + part * ns as f64) / most as f64,
                electrons: spent + electrons(run),
            };
            look(run) && watch(&progress)
        })?;
        self.electrons += run.electrons();
        self.beam_ns += ns;
        self.first.get_or_insert(run.acquisition.id.clone());
        Ok(run)
    }
}

/// Which coil a pixel axis drives, and deflection per px.
#[derive(Debug, Clone, Copy)]
struct Axis {
    /// Columns vary (else rows).
    along_row: bool,
    /// Coil: 0 is x, 1 is y.
    coil: usize,
    /// Deflection per px.
    per_px: f64,
    /// Pixels along it, and across.
    n: u32,
    n_across: u32,
}

impl Axis {
    /// Pixels per unit.
    fn unit(&self) -> f64 {
        f64::from(self.n) / UNITS
    }

    /// The place `along` px along the axis and `across` px across it.
    fn place(&self, along: f64, across: f64, ns: u32) -> Result<ListedPosition, Invalid> {
        let (row, col) = if self.along_row {
            (across, along)
        } else {
            (along, across)
        };
        Ok(ListedPosition {
            row: row as f32,
            col: col as f32,
            dwell: Some(DwellTime::from_nanoseconds(ns.into())?),
        })
    }
}

/// The first of the runs that [`coil`] makes of `plan`, a coarse picture: to ask whether they can be made.
pub fn coil_survey(plan: &Plan) -> Result<Plan, Invalid> {
    survey_list(plan).and_then(|list| listed(plan, list, 1))
}

/// Identifies both coils with the first detector of `plan` on its field, in at most `beam` per axis (50 ms to 1 s). `map`
/// is the calibration that the runs are made with. All runs together spend at most the total of the plan's limits.
pub fn coil(
    runner: &mut dyn Runner,
    plan: &Plan,
    map: &FieldCalibration,
    beam: Duration,
    occasion: &Occasion,
    watch: Watch<'_>,
) -> Result<CoilFound, Error> {
    let ms = beam.as_secs_f64() * 1e3;
    if !(50.0..=1000.0).contains(&ms) {
        return Err(Invalid::new("coil.beam_ms_per_axis", ms, "50 to 1000 ms").into());
    }
    let axes = axes(plan, map)?;
    let mut runs = Tally {
        runner,
        watch,
        step: "a coarse picture",
        beam_ns: 0,
        most_ns: 2 * beam.as_nanos() as u64,
        electrons: 0.0,
        first: None,
    };
    let survey = Survey::make(&mut runs, plan)?;
    let half = survey.beam_ns / 2;
    let mut found = Vec::new();
    for axis in axes {
        let landings = survey.landings(&axis)?;
        let run = AxisRun {
            plan,
            axis,
            landings,
            scale: ms / 1000.0,
            dwell_min_ns: runs.dwell_min_ns(),
        };
        let budget = (beam.as_nanos() as u64).saturating_sub(half);
        runs.step = ["jump and hold of the x coil", "jump and hold of the y coil"][run.axis.coil];
        let mut one = run.identify(&mut runs, budget)?;
        one.beam += Duration::from_nanos(half);
        found.push((axis, one));
    }
    found.sort_by_key(|(axis, _)| axis.coil);
    let in_deflection =
        |(axis, one): &(Axis, AxisFound)| one.fit.coil.scaled(axis.per_px * axis.unit());
    let calibration = CoilCalibration {
        id: runs.first.map(|id| id.to_string()).unwrap_or_default(),
        date_s: occasion.date_s,
        high_tension: occasion.column.high_tension,
        magnification: occasion.column.magnification,
        model: CoilModel {
            col: in_deflection(&found[0]),
            row: in_deflection(&found[1]),
        },
        group_delay_error_us: [0, 1].map(|i| found[i].1.fit.group_delay_error_us),
    };
    calibration.model.check()?;
    let mut axes = found.into_iter().map(|(_, one)| one);
    match (axes.next(), axes.next()) {
        (Some(x), Some(y)) => Ok(CoilFound {
            calibration,
            axes: [x, y],
            electrons: runs.electrons,
        }),
        _ => Err(Invalid::new("calibration", "one axis", "two axes").into()),
    }
}

/// The pixel axes and their coils; refuses a field that is turned against the coils.
fn axes(plan: &Plan, map: &FieldCalibration) -> Result<[Axis; 2], Invalid> {
    let from_pixel: Affine = map
        .deflection_from_field
        .after(&plan.field.field_from_pixel());
    let (n_rows, n_cols) = (plan.field.grid.n_rows(), plan.field.grid.n_cols());
    if n_rows.min(n_cols) < 128 {
        return Err(Invalid::new(
            "field.grid",
            format!("{n_rows} × {n_cols}"),
            "128 × 128 pixels or more",
        ));
    }
    let axis = |k: usize| {
        let by = [from_pixel.m[0][k], from_pixel.m[1][k]];
        let coil = usize::from(by[1].abs() > by[0].abs());
        if by[1 - coil].abs() > 0.1 * by[coil].abs() {
            return Err(Invalid::new(
                "field.rotation_rad",
                plan.field.rotation.radians(),
                "a field along the coils: each axis of the scan drives one of them",
            ));
        }
        Ok(Axis {
            along_row: k == 0,
            coil,
            per_px: by[coil].abs(),
            n: if k == 0 { n_cols } else { n_rows },
            n_across: if k == 0 { n_rows } else { n_cols },
        })
    };
    Ok([axis(0)?, axis(1)?])
}

/// The plan of a run over `list`, `n_frames` times.
fn listed(plan: &Plan, list: Vec<ListedPosition>, n_frames: u32) -> Result<Plan, Invalid> {
    Ok(Plan {
        pattern: Pattern::List(Arc::from(list)),
        order: Order::AsGiven,
        fraction: Fraction::FULL,
        exposure: Exposure::Dwell(DwellTime::from_nanoseconds(PASS_NS.into())?),
        settle: SettleLaw::default(),
        flyback_ns: 0,
        n_frames,
        average: true,
        estimator: Estimator::Nearest,
        final_refinement: Duration::ZERO,
        ..plan.clone()
    })
}

/// What came back, by position.
struct Values {
    /// Events; NaN where there is no good sample.
    events: Vec<f32>,
    /// Positions before which the scan paused, rising.
    pauses: Vec<usize>,
}

impl Values {
    fn of(blocks: &[Arc<SampleBlock>], n: usize) -> Self {
        let mut events = vec![f32::NAN; n];
        let (mut pauses, mut end_ns) = (Vec::new(), None);
        for block in blocks {
            let first = block.first_position as usize;
            let signal = block
                .signals
                .first()
                .and_then(|s| s.scalar())
                .unwrap_or_default();
            if end_ns.is_none_or(|end| block.t0_ns > end + PAUSE_NS) {
                pauses.push(first);
            }
            let mut work = 0;
            for (i, &value) in signal.iter().enumerate() {
                work += u64::from(block.dwell_ns.at(i)) + u64::from(block.settle_ns.at(i));
                let is_good = !block.flags.at(i).contains(SampleFlags::SATURATED);
                if let (Some(slot), true) = (events.get_mut(first + i), is_good) {
                    *slot = value;
                }
            }
            end_ns = Some(block.t0_ns + work);
        }
        Self { events, pauses }
    }

    /// The events of `range`, `None` where one is missing or the scan paused after the position before `range`.
    fn unbroken(&self, range: Range<usize>) -> Option<&[f32]> {
        let next = self.pauses.partition_point(|&p| p < range.start);
        let is_paused = self.pauses.get(next).is_some_and(|p| range.contains(p));
        let values = self.events.get(range)?;
        (!is_paused && values.iter().all(|v| v.is_finite())).then_some(values)
    }
}

fn beam_ns(plan: &Plan) -> u64 {
    match &plan.pattern {
        Pattern::List(list) => {
            let once: u64 = list
                .iter()
                .filter_map(|p| p.dwell)
                .map(|dwell| u64::from(dwell.nanoseconds()))
                .sum();
            once * u64::from(plan.n_frames)
        }
        _ => 0,
    }
}

/// Distance between places of the survey, px: rows, columns.
fn survey_spacing(plan: &Plan) -> [f64; 2] {
    let grid = plan.field.grid;
    [grid.n_rows(), grid.n_cols()].map(|n| f64::from(n) / f64::from(SURVEY))
}

/// Rows there and back.
fn survey_list(plan: &Plan) -> Result<Vec<ListedPosition>, Invalid> {
    let spacing = survey_spacing(plan);
    let dwell = DwellTime::from_nanoseconds(SURVEY_NS.into())?;
    let place = |r: u32, c: u32| {
        let c = if r.is_multiple_of(2) {
            c
        } else {
            SURVEY - 1 - c
        };
        ListedPosition {
            row: ((f64::from(r) + 0.5) * spacing[0] - 0.5) as f32,
            col: ((f64::from(c) + 0.5) * spacing[1] - 0.5) as f32,
            dwell: Some(dwell),
        }
    };
    let rows = 0..SURVEY;
    Ok(rows
        .flat_map(|r| (0..SURVEY).map(move |c| place(r, c)))
        .collect())
}

/// A coarse picture.
struct Survey {
    /// `[row, column]`.
    values: Vec<f32>,
    /// Distance between places, px: rows, columns.
    spacing: [f64; 2],
    beam_ns: u64,
}

impl Survey {
    fn make(runner: &mut dyn Runner, plan: &Plan) -> Result<Self, Error> {
        let spacing = survey_spacing(plan);
        let plan = coil_survey(plan)?;
        let blocks = runner
            .acquire(&plan, Readout::Calibrated, &mut |_| true)?
            .blocks;
        let n = SURVEY as usize;
        let seen = Values::of(&blocks, n * n);
        let mut values = seen.events;
        for row in values.chunks_mut(n).skip(1).step_by(2) {
            row.reverse();
        }
        Ok(Self {
            values,
            spacing,
            beam_ns: beam_ns(&plan),
        })
    }

    /// The steepest places `[row, column]`, px, from which a long jump and a profile stay in the field.
    fn landings(&self, axis: &Axis) -> Result<Vec<[f64; 2]>, Invalid> {
        let n = SURVEY as usize;
        let at = |along: usize, across: usize| {
            let (r, c) = if axis.along_row {
                (across, along)
            } else {
                (along, across)
            };
            f64::from(self.values[r * n + c])
        };
        let spacing = self.spacing[usize::from(axis.along_row)];
        let across_px = self.spacing[usize::from(!axis.along_row)];
        let unit = axis.unit();
        let longest = TRAINS
            .iter()
            .map(|t| t.0)
            .fold(REACH + RUN_IN as f64 * STEP, f64::max);
        let px = |k: usize, spacing: f64| (k as f64 + 0.5) * spacing - 0.5;
        let reach = ((STEEP_REACH * unit / spacing).round() as usize).max(1);
        let mut candidates = Vec::new();
        for across in 0..n {
            for along in reach..n - reach {
                let here = px(along, spacing);
                let inside =
                    here >= longest * unit && here <= f64::from(axis.n) - 1.0 - REACH * unit;
                if inside {
                    let steep: f64 = (along - reach..along + reach)
                        .map(|k| (at(k + 1, across) - at(k, across)).abs())
                        .sum();
                    if steep.is_finite() {
                        candidates.push((steep, here, px(across, across_px)));
                    }
                }
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut chosen: Vec<[f64; 2]> = Vec::new();
        let apart = APART * f64::from(axis.n_across) / UNITS;
        for (steep, along, across) in candidates {
            let is_apart = chosen.iter().all(|c| (c[1] - across).abs() >= apart);
            if steep > 0.0 && is_apart {
                chosen.push([along, across]);
            }
            if chosen.len() == LINES {
                return Ok(chosen);
            }
        }
        Err(Invalid::new(
            "specimen",
            format!("{} places with contrast", chosen.len()),
            format!("{LINES} places with contrast along every axis"),
        ))
    }
}

/// The run along one axis.
struct AxisRun<'a> {
    plan: &'a Plan,
    axis: Axis,
    /// `[along, across]`, px.
    landings: Vec<[f64; 2]>,
    /// Share of the full budget.
    scale: f64,
    /// Shortest dwell of the controller, ns.
    dwell_min_ns: u32,
}

/// One train of equal jumps onto one line within a list.
struct Train {
    response: JumpResponse,
    /// First position of the train in the list; periods to forget, periods that count.
    first: usize,
    forget: usize,
    periods: usize,
}

impl AxisRun<'_> {
    fn identify(&self, runner: &mut dyn Runner, budget_ns: u64) -> Result<AxisFound, Error> {
        let (profiles, mut beam) = self.profiles(runner)?;
        let (start, looked) = self.look(runner, &profiles[..1])?;
        beam += looked;
        let left = budget_ns.saturating_sub(beam);
        let (list, mut trains) = self.trains(&start, left)?;
        let plan = listed(self.plan, list, FRAMES)?;
        beam += beam_ns(&plan);
        self.collect(runner, &plan, &mut trains)?;
        let responses: Vec<JumpResponse> = trains.into_iter().map(|t| t.response).collect();
        let fit = best_fit(&start, &profiles, &responses)?;
        let rates = profiles.iter().flat_map(|p| &p.rate);
        let n = profiles.iter().map(|p| p.rate.len()).sum::<usize>().max(1) as f64;
        let place = |[along, across]: &[f64; 2]| {
            if self.axis.along_row {
                [*across, *along]
            } else {
                [*along, *across]
            }
        };
        Ok(AxisFound {
            fit,
            beam: Duration::from_nanos(beam),
            events_per_us: rates.sum::<f64>() / n * 1e3,
            landings: self.landings.iter().map(place).collect(),
        })
    }

    /// Slow passes along every line.
    fn profiles(&self, runner: &mut dyn Runner) -> Result<(Vec<LineProfile>, u64), Error> {
        let n_passes = (PASSES * self.scale).round().max(1.0) as usize;
        let n_values = (2.0 * REACH / STEP) as usize;
        let unit = self.axis.unit();
        let mut list = Vec::new();
        for [along, across] in &self.landings {
            for _ in 0..n_passes {
                for k in 0..RUN_IN + n_values {
                    let at = (k as f64 - RUN_IN as f64) * STEP - REACH;
                    let ns = if k == 0 { REST_NS } else { PASS_NS };
                    list.push(self.axis.place(along + at * unit, *across, ns)?);
                }
            }
        }
        let plan = listed(self.plan, list, 1)?;
        let blocks = runner
            .acquire(&plan, Readout::Calibrated, &mut |_| true)?
            .blocks;
        let per_pass = RUN_IN + n_values;
        let seen = Values::of(&blocks, self.landings.len() * n_passes * per_pass);
        let mut profiles = Vec::new();
        for line in 0..self.landings.len() {
            let mut sums = vec![0.0; n_values];
            let mut n_good = 0;
            for pass in 0..n_passes {
                let first = (line * n_passes + pass) * per_pass + RUN_IN;
                if let Some(values) = seen.unbroken(first..first + n_values) {
                    n_good += 1;
                    sums.iter_mut()
                        .zip(values)
                        .for_each(|(s, v)| *s += f64::from(*v));
                }
            }
            let time_ns = f64::from(n_good) * f64::from(PASS_NS);
            if n_good == 0 {
                return Err(broken());
            }
            profiles.push(LineProfile {
                first_px: -REACH,
                step_px: STEP,
                rate: sums.iter().map(|s| (s / time_ns).max(0.0)).collect(),
                time_ns,
            });
        }
        Ok((profiles, beam_ns(&plan)))
    }

    /// Appends a train to `list`.
    fn train(
        &self,
        list: &mut Vec<ListedPosition>,
        mut response: JumpResponse,
        forget: usize,
        periods: usize,
    ) -> Result<Train, Invalid> {
        let [along, across] = self.landings[response.line];
        let first = list.len();
        for _ in 0..forget + periods {
            let away = along - response.jump_px * self.axis.unit();
            list.push(self.axis.place(away, across, response.hold_ns)?);
            for &ns in &response.bins_ns {
                list.push(self.axis.place(along, across, ns)?);
            }
        }
        response.n_repeats = 0;
        response.counts = vec![0.0; response.bins_ns.len()];
        Ok(Train {
            response,
            first,
            forget,
            periods,
        })
    }

    /// Runs `plan` and adds what its trains counted.
    fn collect(
        &self,
        runner: &mut dyn Runner,
        plan: &Plan,
        trains: &mut [Train],
    ) -> Result<(), Error> {
        let blocks = runner
            .acquire(plan, Readout::Calibrated, &mut |_| true)?
            .blocks;
        let per_frame = plan.positions_per_frame() as usize;
        let seen = Values::of(&blocks, per_frame * plan.n_frames as usize);
        for train in trains.iter_mut() {
            let n = train.response.bins_ns.len();
            for frame in 0..plan.n_frames as usize {
                for period in train.forget..train.forget + train.periods {
                    // The hold comes before its bins.
                    let at = frame * per_frame + train.first + period * (n + 1) + 1;
                    if let Some(values) = seen.unbroken(at..at + n) {
                        train.response.n_repeats += 1;
                        let counts = &mut train.response.counts;
                        counts
                            .iter_mut()
                            .zip(values)
                            .for_each(|(c, v)| *c += f64::from(*v));
                    }
                }
            }
            train
                .response
                .counts
                .iter_mut()
                .for_each(|c| *c = c.max(0.0));
            if train.response.n_repeats == 0 {
                return Err(broken());
            }
        }
        Ok(())
    }

    /// Which kind of coil it is: trains from near and from far, in bins of all lengths.
    fn look(
        &self,
        runner: &mut dyn Runner,
        profile: &[LineProfile],
    ) -> Result<(AxisCoil, u64), Error> {
        let (mut list, mut trains) = (Vec::new(), Vec::new());
        for (jump_px, n_periods, end_ns) in LOOK {
            let (mut bins_ns, mut at, mut width) =
                (Vec::new(), 0.0, f64::from(self.dwell_min_ns.max(100)));
            while at < end_ns {
                bins_ns.push(width as u32);
                at += width;
                width = (width * 1.12_f64).min(f64::from(BIN_MAX));
            }
            let response = JumpResponse {
                line: 0,
                jump_px,
                hold_ns: end_ns as u32,
                bins_ns,
                counts: Vec::new(),
                n_repeats: 0,
            };
            let forget = (LOOK_NS / (2.0 * end_ns)).ceil() as usize;
            let periods = (n_periods * self.scale).ceil() as usize;
            trains.push(self.train(&mut list, response, forget, periods)?);
        }
        let plan = listed(self.plan, list, 1)?;
        self.collect(runner, &plan, &mut trains)?;
        let responses: Vec<JumpResponse> = trains.into_iter().map(|t| t.response).collect();
        Ok((scan::guess(profile, &responses)?, beam_ns(&plan)))
    }

    /// Trains of every length onto every line, within `budget_ns` of beam over all frames.
    fn trains(
        &self,
        start: &AxisCoil,
        budget_ns: u64,
    ) -> Result<(Vec<ListedPosition>, Vec<Train>), Error> {
        let period_us = 1e3 / start.f0_khz;
        let share_ns = budget_ns as f64 / (f64::from(FRAMES) * self.landings.len() as f64);
        let (mut list, mut trains) = (Vec::new(), Vec::new());
        for line in 0..self.landings.len() {
            for (jump_px, periods, share) in TRAINS {
                let bins_ns: Vec<u32> = scan::jump_bins(start.f0_khz, periods * period_us)
                    .iter()
                    .flat_map(|&ns| split(ns.max(self.dwell_min_ns)))
                    .collect();
                let after: u64 = bins_ns.iter().map(|&ns| u64::from(ns)).sum();
                let response = JumpResponse {
                    line,
                    jump_px,
                    hold_ns: after as u32,
                    bins_ns,
                    counts: Vec::new(),
                    n_repeats: 0,
                };
                let one_ns = 2.0 * after as f64;
                let forget = (FORGET_PERIODS * period_us * 1e3 / one_ns).ceil().max(1.0);
                let counted = (share_ns * share / one_ns - forget).floor().max(1.0);
                trains.push(self.train(&mut list, response, forget as usize, counted as usize)?);
            }
        }
        Ok((list, trains))
    }
}

/// The fit from `start`, or from slower and faster coils of its kind where that one does not explain the counts. What
/// nothing explains is refused: a wrong model places samples worse than none.
fn best_fit(
    start: &AxisCoil,
    profiles: &[LineProfile],
    responses: &[JumpResponse],
) -> Result<Identified, Error> {
    let mut best = scan::identify(start, profiles, responses)?;
    for factor in OTHER_SPEEDS {
        if best.chi_square < GOOD_CHI_SQUARE {
            break;
        }
        let other = AxisCoil {
            f0_khz: start.f0_khz * factor,
            delay_us: start.delay_us / factor,
            slew_px_per_us: start.slew_px_per_us * factor,
            tail_us: start.tail_us / factor,
            ..*start
        };
        let found = scan::identify(&other, profiles, responses)?;
        if found.chi_square < best.chi_square {
            best = found;
        }
    }
    if best.chi_square > WORST_CHI_SQUARE {
        return Err(Invalid::new(
            "coil.chi_square",
            format!("{:.1}", best.chi_square),
            format!(
                "at most {WORST_CHI_SQUARE}: nothing found explains the counts; try a place with more contrast, or more current"
            ),
        )
        .into());
    }
    Ok(best)
}

/// A bin in parts that do not saturate the detector.
fn split(ns: u32) -> impl Iterator<Item = u32> {
    let n = ns.div_ceil(BIN_MAX).max(1);
    (0..n).map(move |k| ns / n + u32::from(k < ns % n))
}

fn broken() -> Error {
    Invalid::new(
        "coil",
        "no train of jumps without a pause or a saturated sample",
        "a link that keeps up with short dwells, and a detector within its range",
    )
    .into()
}

#[cfg(test)]
mod tests;
