//! From plan to policy: static patterns, views and spots behind the seam that adaptive policies share.

use crate::adaptive::{Adaptive, Goal};
use crate::order::Sweep;
use crate::path::{Bands, Path, Place, Travel};
use crate::pattern::{
    Fill, Lattice, ListBands, ListPath, PoissonDisc, Spiral, Stratified, Uniform, UniformPath,
};
use crate::tour::ShortTour;
use crate::{Context, Error, Policy};
use domain::{
    Current, DwellTime, Grid, Invalid, Order, Pattern, PerPosition, Plan, PlanKind, PositionBatch,
    SettleLaw,
};

/// Longest single exposure of a spot, ns: what one limit test can overlook.
pub const SPOT_DWELL_MAX_NS: u32 = 1_000_000_000;
/// From this fraction on a pattern counts as dense, and its default order is as given.
const DENSE: f64 = 0.5;
/// A view pays its pauses in pieces of at least this, ns, so that the blanker's edges do not count.
const PAUSE_MIN_NS: f64 = 1e6;

/// The policy of a plan, with `dwell` per position unless the pattern has its own.
///
/// Frames of a series differ (the frame is part of the seed). The first move comes from the park position and is
/// given the settle time of the field's diagonal. `current` is needed for views with a dose rate limit only.
/// [`Pattern::External`] gives the policy of its fallback.
pub fn policy(
    plan: &Plan,
    dwell: DwellTime,
    current: Option<Current>,
) -> Result<Box<dyn Policy>, Error> {
    Ok(match plan.kind {
        PlanKind::Spot => Box::new(Spot::new(plan, dwell)?),
        PlanKind::View => Box::new(Static::new(
            plan,
            dwell,
            Pause::of_view(plan, dwell, current)?,
        )?),
        PlanKind::Acquire => match Goal::of(&plan.pattern) {
            Some(goal) => Box::new(Adaptive::new(plan, goal, dwell, current, |n| {
                seeds(plan, n)
            })?),
            None => Box::new(Static::new(plan, dwell, Pause::default())?),
        },
    })
}

/// Jittered seeds of an adaptive frame: four coarse passes.
fn seeds(plan: &Plan, n: u64) -> Box<dyn Path> {
    let bands = Stratified::new(plan.field.grid, n, Fill::Jitter, plan.seed);
    Box::new(Sweep::new(Box::new(bands), 4, true))
}

/// The places of a plan in visiting order.
pub(crate) fn path(plan: &Plan) -> Result<Box<dyn Path>, Error> {
    let (grid, n) = (plan.field.grid, plan.positions_per_frame());
    let pattern = match &plan.pattern {
        Pattern::External { fallback } => fallback.as_ref(),
        other => other,
    };
    if let Pattern::Spiral = pattern {
        return match plan.order {
            Order::AsGiven | Order::Default => Ok(Box::new(Spiral::new(grid, n, plan.seed))),
            order => Err(Invalid::new(
                "order",
                format!("{order:?}"),
                "as given: a spiral has only its own order",
            )
            .into()),
        };
    }
    let sparse = (n as f64) < DENSE * grid.n_pixels() as f64;
    match (pattern, order_of(pattern, plan.order, sparse)) {
        (Pattern::List(list), Order::AsGiven) => Ok(Box::new(ListPath::new(list.clone()))),
        (Pattern::Random, Order::AsGiven) => {
            Ok(Box::new(UniformPath::new(uniform(grid, n, plan.seed)?)))
        }
        (_, order) => Ok(arranged(
            pattern,
            order,
            bands(pattern, grid, n, plan.seed)?,
        )),
    }
}

fn order_of(pattern: &Pattern, asked: Order, sparse: bool) -> Order {
    let scattered = matches!(
        pattern,
        Pattern::Random | Pattern::Jittered | Pattern::PoissonDisc | Pattern::LineHop
    );
    match asked {
        Order::Default if scattered && sparse => Order::InterleavedBands { by: 4 },
        Order::Default => Order::AsGiven,
        order => order,
    }
}

fn arranged(pattern: &Pattern, order: Order, bands: Box<dyn Bands>) -> Box<dyn Path> {
    match (order, pattern) {
        (Order::ShortTour, _) => Box::new(ShortTour::new(bands)),
        (Order::Bands, _) | (_, Pattern::Serpentine)
            if !matches!(order, Order::InterleavedBands { .. }) =>
        {
            Box::new(Sweep::new(bands, 1, true))
        }
        (Order::InterleavedBands { by }, _) => Box::new(Sweep::new(bands, by, true)),
        (_, Pattern::Interleaved { by }) => Box::new(Sweep::new(bands, *by, false)),
        _ => Box::new(Sweep::new(bands, 1, false)),
    }
}

fn bands(pattern: &Pattern, grid: Grid, n: u64, seed: u64) -> Result<Box<dyn Bands>, Error> {
    Ok(match pattern {
        Pattern::Raster | Pattern::Serpentine | Pattern::Interleaved { .. } => {
            Box::new(Lattice::new(grid, n))
        }
        Pattern::Jittered => Box::new(Stratified::new(grid, n, Fill::Jitter, seed)),
        Pattern::LineHop => Box::new(Stratified::new(grid, n, Fill::Zigzag, seed)),
        Pattern::Random => Box::new(uniform(grid, n, seed)?),
        Pattern::PoissonDisc => Box::new(PoissonDisc::new(grid, n, seed)?),
        Pattern::List(list) => Box::new(ListBands::new(grid, list.clone())),
        other => {
            return Err(Error::NotImplemented {
                name: other.name(),
                allowed: Pattern::NAMES
                    .into_iter()
                    .filter(|name| {
                        Pattern::from_name(name).map_or(*name == "list", |p| {
                            !p.is_policy() || matches!(p, Pattern::External { .. })
                        })
                    })
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        }
    })
}

fn uniform(grid: Grid, n: u64, seed: u64) -> Result<Uniform, Error> {
    if n > u64::from(u32::MAX) {
        return Err(Invalid::new(
            "fraction",
            n as f64 / grid.n_pixels() as f64,
            "at most 4294967295 random positions per frame",
        )
        .into());
    }
    Ok(Uniform::new(grid, n, seed))
}

/// Blanked time per time of dwell that a view needs to keep its dose rate; 0 where it has no limit on that.
pub fn pause_per_dwell(
    plan: &Plan,
    dwell: DwellTime,
    current: Option<Current>,
) -> Result<f64, Error> {
    Pause::of_view(plan, dwell, current).map(|pause| pause.per_dwell)
}

/// Blanked pauses that keep a view's mean dose rate below its limit.
#[derive(Debug, Clone, Copy, Default)]
struct Pause {
    /// Pause owed per ns of dwell.
    per_dwell: f64,
}

impl Pause {
    fn of_view(plan: &Plan, dwell: DwellTime, current: Option<Current>) -> Result<Self, Error> {
        let Some(limit) = plan.dose_rate_limit else {
            return Ok(Self::default());
        };
        let refused = |value: String, allowed: &str| {
            Error::from(Invalid::new(
                "limits.dose_rate_e_per_a2_s",
                value,
                allowed.to_owned(),
            ))
        };
        if !(limit.is_finite() && limit > 0.0) {
            return Err(refused(limit.to_string(), "above 0 e/Å²/s"));
        }
        let Some(area) = plan.field.area_a2() else {
            return Err(refused(
                limit.to_string(),
                "none: the pixel size is unknown",
            ));
        };
        let Some(current) = current else {
            return Err(refused(
                limit.to_string(),
                "none: the probe current is unknown",
            ));
        };
        let rate = current.electrons_per_ns() * 1e9 / area;
        let per_dwell = (rate / limit - 1.0).max(0.0);
        let longest = per_dwell * f64::from(dwell.nanoseconds());
        if longest > 1e9 {
            let least = rate / (1.0 + 1e9 / f64::from(dwell.nanoseconds()));
            return Err(refused(
                limit.to_string(),
                &format!("at least {least:.3e} e/Å²/s at this current, field and dwell"),
            ));
        }
        Ok(Self { per_dwell })
    }
}

/// A static pattern.
struct Static {
    path: Box<dyn Path>,
    timing: Timing,
    frame: Option<u32>,
    places: Vec<Place>,
}

impl Static {
    fn new(plan: &Plan, dwell: DwellTime, pause: Pause) -> Result<Self, Error> {
        Ok(Self {
            path: path(plan)?,
            timing: Timing::new(plan, dwell, pause),
            frame: None,
            places: Vec::with_capacity(plan.batch as usize),
        })
    }
}

impl Policy for Static {
    fn decide(&mut self, context: &Context<'_>, batch: &mut PositionBatch) {
        if self.frame != Some(context.frame) {
            self.path.begin(context.frame);
            self.frame = Some(context.frame);
        }
        let n = context.remaining.positions.min(context.n_wanted as u64) as usize;
        self.places.clear();
        self.path.extend(n, &mut self.places);
        batch.flags.blank_settle |= self.timing.pause.per_dwell > 0.0;
        self.timing.append(&self.places, batch);
    }

    fn is_adaptive(&self) -> bool {
        false
    }
}

/// Dwell and settle time of places in visiting order.
pub(crate) struct Timing {
    dwell_ns: u32,
    law: SettleLaw,
    flyback_ns: u32,
    first_jump: f32,
    last: Option<[f32; 2]>,
    pause: Pause,
    owed_ns: f64,
}

impl Timing {
    fn new(plan: &Plan, dwell: DwellTime, pause: Pause) -> Self {
        let grid = plan.field.grid;
        Self {
            dwell_ns: dwell.nanoseconds(),
            law: plan.settle.clone(),
            flyback_ns: plan.flyback_ns,
            first_jump: (grid.n_rows() as f32).hypot(grid.n_cols() as f32),
            last: None,
            pause,
            owed_ns: 0.0,
        }
    }

    /// Timing without pauses.
    pub(crate) fn of(plan: &Plan, dwell: DwellTime) -> Self {
        Self::new(plan, dwell, Pause::default())
    }

    /// Dwell of a place, ns.
    pub(crate) fn dwell_ns(&self, place: &Place) -> u32 {
        if place.dwell_ns == 0 {
            self.dwell_ns
        } else {
            place.dwell_ns
        }
    }

    /// Length of the jump to `place` in px, and its settle time in ns. Moves the beam there.
    pub(crate) fn travel(&mut self, place: &Place) -> (f32, u32) {
        let here = [place.row, place.col];
        let length = self.last.map_or(self.first_jump, |last| {
            let (dr, dc) = (here[0] - last[0], here[1] - last[1]);
            (dr * dr + dc * dc).sqrt()
        });
        let arrives = self.last.is_none();
        self.last = Some(here);
        let settle = match place.travel {
            Travel::Sweep if !arrives => 0,
            Travel::Flyback => self.law.settle_ns(length).max(self.flyback_ns),
            Travel::Jump | Travel::Sweep => self.law.settle_ns(length),
        };
        (length, settle)
    }

    /// Appends places with their dwell and settle times.
    pub(crate) fn append(&mut self, places: &[Place], batch: &mut PositionBatch) {
        let n = batch.len();
        batch.row.extend(places.iter().map(|p| p.row));
        batch.col.extend(places.iter().map(|p| p.col));
        // Without an early way out the whole batch is asked in vectors.
        if places.iter().fold(0, |any, p| any | p.dwell_ns) == 0 {
            batch.dwell_ns.extend(n, places.len(), self.dwell_ns);
        } else {
            append(&mut batch.dwell_ns, n, places, |p| self.dwell_ns(p));
        }
        let never_waits = self.law.table.is_empty() && self.flyback_ns == 0;
        if never_waits && self.pause.per_dwell == 0.0 {
            batch.settle_ns.extend(n, places.len(), 0);
            self.last = places.last().map_or(self.last, |p| Some([p.row, p.col]));
        } else if self.pause.per_dwell == 0.0 {
            append(&mut batch.settle_ns, n, places, |p| self.travel(p).1);
        } else {
            append(&mut batch.settle_ns, n, places, |p| {
                self.travel_and_pause(p)
            });
        }
    }

    fn travel_and_pause(&mut self, place: &Place) -> u32 {
        let settle = f64::from(self.travel(place).1);
        self.owed_ns = (self.owed_ns - settle).max(0.0);
        let mut wait = settle;
        if self.owed_ns >= PAUSE_MIN_NS || place.travel == Travel::Flyback {
            wait += self.owed_ns;
            self.owed_ns = 0.0;
        }
        self.owed_ns += self.pause.per_dwell * f64::from(self.dwell_ns(place));
        wait.min(f64::from(u32::MAX)) as u32
    }
}

/// Appends the values of `places` behind `n` others.
fn append(
    times: &mut PerPosition<u32>,
    n: usize,
    places: &[Place],
    mut of: impl FnMut(&Place) -> u32,
) {
    for (i, place) in places.iter().enumerate() {
        times.extend(n + i, 1, of(place));
    }
}

/// One place, exposed again and again until the budget ends.
struct Spot {
    place: [f32; 2],
    dwell_ns: u32,
    settle_ns: u32,
}

impl Spot {
    fn new(plan: &Plan, dwell: DwellTime) -> Result<Self, Error> {
        let dwell_ns = dwell.nanoseconds();
        if dwell_ns > SPOT_DWELL_MAX_NS {
            return Err(Invalid::new(
                "dwell_ns",
                dwell_ns,
                format!("1 to {SPOT_DWELL_MAX_NS} ns for a spot"),
            )
            .into());
        }
        let centre = |n: u32| (n as f32 - 1.0) / 2.0;
        let grid = plan.field.grid;
        let place = match &plan.pattern {
            Pattern::List(list) => match &list[..] {
                [only] => [only.row, only.col],
                _ => {
                    let value = format!("{} positions", list.len());
                    return Err(
                        Invalid::new("pattern.list", value, "one position for a spot").into(),
                    );
                }
            },
            _ => [centre(grid.n_rows()), centre(grid.n_cols())],
        };
        Ok(Self {
            place,
            dwell_ns,
            settle_ns: Timing::of(plan, dwell)
                .travel(&Place {
                    row: place[0],
                    col: place[1],
                    dwell_ns: 0,
                    travel: Travel::Jump,
                })
                .1,
        })
    }
}

impl Policy for Spot {
    fn decide(&mut self, context: &Context<'_>, batch: &mut PositionBatch) {
        for _ in 0..context.remaining.positions.min(context.n_wanted as u64) {
            batch.push(self.place[0], self.place[1], self.dwell_ns, self.settle_ns);
            self.settle_ns = 0;
        }
    }

    fn is_adaptive(&self) -> bool {
        false
    }
}
