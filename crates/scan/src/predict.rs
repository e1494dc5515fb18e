//! What a plan will cost in time, by running its generator.

use crate::Error;
use crate::fixed::{Timing, path};
use domain::{BlankTravel, DwellTime, Pattern, Plan, PlanKind};

/// Positions that are generated to predict; longer plans are scaled from these.
const EXACT_MAX: u64 = 4_000_000;
const CHUNK: usize = 4096;

/// The predicted scan time of a plan. Times in ns, all frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimePrediction {
    /// Exposures.
    pub n_positions: u64,
    /// Exposures that were generated for this prediction; fewer than `n_positions` means that the times are scaled.
    pub n_generated: u64,
    /// Dwell.
    pub dwell_ns: f64,
    /// Settling, travel and flyback with the beam blanked.
    pub blanked_ns: f64,
    /// Positions before which it is blanked.
    pub n_blanked: f64,
    /// Settling, travel and flyback with the beam on.
    pub unblanked_ns: f64,
    /// The longest jump between two positions, px.
    pub longest_jump: f32,
    /// A full raster with flyback of the same grid and frames: every pixel with the plan's dwell, no settling along
    /// its lines, the flyback time (or the settle time of a line's length, if longer) at the start of each.
    pub full_raster_ns: f64,
}

impl TimePrediction {
    /// Dwell, settling, travel and flyback, ns.
    #[must_use]
    pub fn total_ns(&self) -> f64 {
        self.dwell_ns + self.blanked_ns + self.unblanked_ns
    }

    /// Whether every position was generated.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.n_generated == self.n_positions
    }
}

/// Predicts the time of a plan: exactly up to four million positions, beyond by scaling the first frame's first four
/// million. `blanking` says which jumps are blanked; [`BlankTravel::Auto`] is to be resolved by the caller, who knows
/// the blanker, and counts as never here. Policies are predicted as jittered frames of the same fraction; an endless
/// view and a spot as one frame.
pub fn predict_time(
    plan: &Plan,
    dwell: DwellTime,
    blanking: BlankTravel,
) -> Result<TimePrediction, Error> {
    let mut plan = plan.clone();
    if plan.pattern.is_policy() && !matches!(plan.pattern, Pattern::External { .. }) {
        plan.pattern = Pattern::Jittered;
    }
    let per_frame = match plan.kind {
        PlanKind::Spot => 1,
        PlanKind::Acquire | PlanKind::View => plan.positions_per_frame(),
    };
    let n_frames = u64::from(plan.n_frames.max(1));
    let mut sums = Sums::default();
    let mut path = path(&plan)?;
    let mut timing = Timing::of(&plan, dwell);
    let mut places = Vec::with_capacity(CHUNK);
    'frames: for frame in 0..n_frames {
        path.begin(frame as u32);
        let mut left = per_frame;
        while left > 0 {
            if sums.n == EXACT_MAX {
                break 'frames;
            }
            let wanted = left.min(EXACT_MAX - sums.n).min(CHUNK as u64);
            places.clear();
            path.extend(wanted as usize, &mut places);
            if places.is_empty() {
                break;
            }
            left -= places.len() as u64;
            for place in &places {
                sums.add(&mut timing, place, blanking);
            }
        }
    }
    Ok(sums.scaled(
        per_frame * n_frames,
        full_raster_ns(&plan, dwell) * n_frames as f64,
    ))
}

fn full_raster_ns(plan: &Plan, dwell: DwellTime) -> f64 {
    let grid = plan.field.grid;
    let flyback = plan
        .settle
        .settle_ns(grid.n_cols() as f32 - 1.0)
        .max(plan.flyback_ns);
    grid.n_pixels() as f64 * f64::from(dwell.nanoseconds())
        + f64::from(grid.n_rows()) * f64::from(flyback)
}

#[derive(Default)]
struct Sums {
    n: u64,
    n_blanked: u64,
    dwell: f64,
    blanked: f64,
    unblanked: f64,
    longest_jump: f32,
}

impl Sums {
    fn add(&mut self, timing: &mut Timing, place: &crate::path::Place, blanking: BlankTravel) {
        let (length, settle) = timing.travel(place);
        self.dwell += f64::from(timing.dwell_ns(place));
        let blanked = match blanking {
            BlankTravel::Always => true,
            BlankTravel::Beyond(px) => length > px,
            BlankTravel::Never | BlankTravel::Auto => false,
        };
        *(if blanked {
            &mut self.blanked
        } else {
            &mut self.unblanked
        }) += f64::from(settle);
        if self.n > 0 {
            self.longest_jump = self.longest_jump.max(length);
        }
        self.n += 1;
        self.n_blanked += u64::from(blanked);
    }

    fn scaled(self, n_positions: u64, full_raster_ns: f64) -> TimePrediction {
        let scale = n_positions as f64 / self.n.max(1) as f64;
        TimePrediction {
            n_positions,
            n_generated: self.n,
            dwell_ns: self.dwell * scale,
            blanked_ns: self.blanked * scale,
            n_blanked: self.n_blanked as f64 * scale,
            unblanked_ns: self.unblanked * scale,
            longest_jump: self.longest_jump,
            full_raster_ns,
        }
    }
}
