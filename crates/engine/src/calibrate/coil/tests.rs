//! Coils that are not of the model's class are identified well enough to place samples.

use super::*;
use crate::calibrate::{Look, Run};
use crate::coil::{Follower, PlannedCoils};
use crate::core::tests::rig::capabilities;
use domain::{DetectorName, Grid, PerPosition, Pitch, PositionBatch, ScanField, Signal};
use hal::FieldUnit;

/// One axis of another physics than the model's: an amplifier of first order before a resonance of second order, two eddy
/// currents, and no hysteresis. Integrated by small steps, px of the field and µs.
#[derive(Debug, Clone)]
struct Strange {
    f0_khz: f64,
    zeta: f64,
    amplifier_us: f64,
    delay_us: f64,
    pending: Vec<(f64, f64)>,
    now: f64,
    target: f64,
    drive: f64,
    y: f64,
    v: f64,
    eddy: [f64; 2],
}

const EDDY: [(f64, f64); 2] = [(0.002, 150.0), (0.001, 900.0)];

impl Strange {
    fn new(f0_khz: f64, delay_us: f64, at: f64) -> Self {
        Self {
            f0_khz,
            zeta: 0.62,
            amplifier_us: 0.6,
            delay_us,
            pending: Vec::new(),
            now: 0.0,
            target: at,
            drive: at,
            y: at,
            v: 0.0,
            eddy: [at; 2],
        }
    }

    fn send(&mut self, to: f64) {
        self.pending.push((self.now + self.delay_us, to));
    }

    fn beam(&self) -> f64 {
        let lag = |i: usize| EDDY[i].0 * (self.eddy[i] - self.y);
        self.y + lag(0) + lag(1)
    }

    /// Lets `dt` pass, cut where a command takes effect.
    fn step(&mut self, dt: f64) {
        let end = self.now + dt;
        while let Some(&(at, to)) = self.pending.first()
            && at < end
        {
            self.move_on(at - self.now);
            self.target = to;
            self.pending.remove(0);
        }
        self.move_on(end - self.now);
    }

    fn move_on(&mut self, dt: f64) {
        if dt <= 0.0 {
            return;
        }
        self.now += dt;
        let w = std::f64::consts::TAU * self.f0_khz * 1e-3;
        self.drive += (self.target - self.drive) * -(-dt / self.amplifier_us).exp_m1();
        let push = |y: f64, v: f64| w * w * (self.drive - y) - 2.0 * self.zeta * w * v;
        let (ym, vm) = (
            self.y + 0.5 * dt * self.v,
            self.v + 0.5 * dt * push(self.y, self.v),
        );
        (self.y, self.v) = (self.y + dt * vm, self.v + dt * push(ym, vm));
        for (z, (_, tau)) in self.eddy.iter_mut().zip(EDDY) {
            *z += (self.y - *z) * dt / tau;
        }
    }
}

/// A microscope with strange coils over a smooth specimen: 512 px are the whole deflection.
struct Microscope {
    x: Strange,
    y: Strange,
    seed: u64,
    beam_ns: u64,
}

/// Counts per µs.
fn signal(x: f64, y: f64) -> f64 {
    let wave = |k: f64, l: f64, phase: f64| (k * x + l * y + phase).sin();
    let sum = wave(0.19, 0.07, 0.3)
        + wave(0.11, -0.15, 1.1)
        + wave(0.05, 0.21, 2.0)
        + wave(0.27, 0.02, 0.7)
        + wave(0.02, -0.28, 1.9);
    12.0 * (1.0 + 0.19 * sum)
}

impl Microscope {
    fn new() -> Self {
        Self {
            x: Strange::new(52.0, 1.9, -256.0),
            y: Strange::new(68.0, 1.2, -256.0),
            seed: 1,
            beam_ns: 0,
        }
    }

    fn normal(&mut self) -> f64 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.seed = self
                .seed
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(1);
            sum += (self.seed >> 11) as f64 / (1u64 << 53) as f64;
        }
        sum
    }

    /// Mean signal, and mean place `[x, y]`, of a dwell after a jump.
    fn dwell(&mut self, x: f64, y: f64, ns: u32) -> (f64, [f64; 2]) {
        self.x.send(x);
        self.y.send(y);
        self.beam_ns += u64::from(ns);
        let us = f64::from(ns) * 1e-3;
        let n = (us / 0.1).ceil().max(1.0);
        let (mut sum, mut place) = (0.0, [0.0; 2]);
        for _ in 0..n as usize {
            self.x.step(us / n);
            self.y.step(us / n);
            let here = [self.x.beam(), self.y.beam()];
            sum += signal(here[0], here[1]) / n;
            place = [place[0] + here[0] / n, place[1] + here[1] / n];
        }
        (sum, place)
    }
}

/// From pixels to px from the middle.
fn centred(px: f32) -> f64 {
    f64::from(px) - 255.5
}

impl Runner for Microscope {
    fn dwell_min_ns(&self) -> u32 {
        20
    }

    fn acquire(&mut self, plan: &Plan, readout: Readout, _look: Look<'_>) -> Result<Run, Error> {
        assert_eq!(readout, Readout::Calibrated);
        let Pattern::List(list) = &plan.pattern else {
            panic!("runs are lists")
        };
        let list = list.clone();
        let mut blocks = Vec::new();
        let mut first_position = 0;
        // Parked before every run.
        (self.x, self.y) = (
            Strange::new(52.0, 1.9, -256.0),
            Strange::new(68.0, 1.2, -256.0),
        );
        let mut t0_ns = 0;
        for _ in 0..plan.n_frames {
            for part in list.chunks(4096) {
                let mut values = Vec::new();
                let mut dwell_ns = Vec::new();
                for p in part {
                    let ns = p.dwell.unwrap().nanoseconds();
                    let (rate, _) = self.dwell(centred(p.col), centred(p.row), ns);
                    let mean = rate * f64::from(ns) * 1e-3;
                    values.push((mean + mean.sqrt() * self.normal()) as f32);
                    dwell_ns.push(ns);
                }
                let work: u64 = dwell_ns.iter().map(|&ns| u64::from(ns)).sum();
                blocks.push(Arc::new(SampleBlock {
                    sequence: blocks.len() as u64,
                    first_position,
                    frame: 0,
                    t0_ns,
                    row: part.iter().map(|p| p.row).collect(),
                    col: part.iter().map(|p| p.col).collect(),
                    row_actual: Vec::new(),
                    col_actual: Vec::new(),
                    path_covariance: Vec::new(),
                    dwell_ns: PerPosition::Each(dwell_ns),
                    settle_ns: PerPosition::Uniform(0),
                    electrons: PerPosition::Uniform(1.0),
                    electrons_outside: PerPosition::Uniform(0.0),
                    flags: PerPosition::Uniform(SampleFlags::default()),
                    signals: vec![Signal::Scalar(values)],
                }));
                t0_ns += work;
                first_position += part.len() as u64;
            }
        }
        // Nobody looks at the acquisition itself here.
        let any = crate::core::tests::rig::plan();
        Ok(Run {
            acquisition: Arc::new(crate::core::tests::rig::ended(&any)),
            blocks,
        })
    }
}

fn plan() -> Plan {
    let field = ScanField::centred(Grid::new(512, 512).unwrap(), Pitch::Unknown);
    let exposure = Exposure::Dwell(DwellTime::from_nanoseconds(1000).unwrap());
    Plan::new(field, vec![DetectorName::new("haadf").unwrap()], exposure)
}

fn map() -> FieldCalibration {
    FieldCalibration::square("field", FieldUnit::Pixels, 512.0).unwrap()
}

/// A sparse frame by bands at 1 µs, about 10 %: jumps of a few pixels, lines back and forth.
fn bands() -> PositionBatch {
    let mut batch = PositionBatch::default();
    let mut seed = 7u64;
    let mut draw = || {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(11);
        (seed >> 40) as f32 / (1u64 << 24) as f32
    };
    for band in 0..40 {
        for k in 0..160 {
            let k = if band % 2 == 0 { k } else { 159 - k };
            let row = (100.0 + 3.2 * band as f32 + 3.2 * draw()).floor();
            let col = (3.2 * k as f32 + 3.2 * draw()).floor();
            batch.push(row, col, 1000, 0);
        }
    }
    batch
}

/// The batch as the engine would place it.
fn placed(calibration: &CoilCalibration, batch: &PositionBatch) -> SampleBlock {
    let planned = PlannedCoils::new(calibration, &plan().field, &map(), &capabilities()).unwrap();
    let dwell = DwellTime::from_nanoseconds(100).unwrap();
    let corner = ListedPosition {
        row: 0.0,
        col: 0.0,
        dwell: Some(dwell),
    };
    let one = Plan {
        pattern: Pattern::List(Arc::from([corner])),
        ..plan()
    };
    let any = Microscope::new()
        .acquire(&one, Readout::Calibrated, &mut |_| true)
        .unwrap()
        .blocks;
    let mut block = SampleBlock {
        row: batch.row.clone(),
        col: batch.col.clone(),
        ..(*any[0]).clone()
    };
    let mut follower = Follower::new(&planned).unwrap();
    follower.follow([(batch, 0..batch.len())].into_iter(), &mut block);
    block
}

fn occasion() -> Occasion {
    Occasion {
        date_s: 5,
        valid_for: Duration::MAX,
        column: domain::ColumnState::default(),
    }
}

#[test]
fn strange_coils_are_placed_to_a_quarter_of_a_pixel() {
    let mut microscope = Microscope::new();
    let beam = Duration::from_secs(1);
    let mut told = Vec::new();
    let mut watch = |progress: &Progress| {
        told.push(progress.done);
        true
    };
    let occasion = occasion();
    let found = coil(
        &mut microscope,
        &plan(),
        &map(),
        beam,
        &occasion,
        &mut watch,
    )
    .unwrap();
    assert_eq!(found.calibration.date_s, 5);
    assert!(
        told.iter().all(|done| (0.0..=1.0).contains(done)),
        "{told:?}"
    );
    // One second per axis, the survey shared.
    assert!(
        microscope.beam_ns <= 2_000_000_000,
        "{} ns",
        microscope.beam_ns
    );
    let told: u64 = found.axes.iter().map(|a| a.beam.as_nanos() as u64).sum();
    assert!(told.abs_diff(microscope.beam_ns) < 1000);
    let truth =
        |f0: f64, delay: f64| delay + 0.6 + 2.0 * 0.62 / (std::f64::consts::TAU * f0 * 1e-3);
    for (axis, want) in found.axes.iter().zip([truth(52.0, 1.9), truth(68.0, 1.2)]) {
        let got = axis.fit.coil.group_delay_us();
        assert!((got / want - 1.0).abs() < 0.04, "{got} µs against {want}");
    }
    let batch = bands();
    let block = placed(&found.calibration, &batch);
    let mut fresh = Microscope::new();
    // The long way from the park position, with its slow eddies, is left out; a constant shift moves the image, nothing
    // else.
    let mut errors = Vec::new();
    for i in 0..batch.len() {
        let (_, [x, y]) = fresh.dwell(centred(batch.col[i]), centred(batch.row[i]), 1000);
        let off = |col: f32, row: f32| [centred(col) - x, centred(row) - y];
        if i >= 2000 {
            let predicted = off(block.col_actual[i], block.row_actual[i]);
            errors.push((predicted, off(batch.col[i], batch.row[i])));
        }
    }
    let count = errors.len() as f64;
    let mean = [0, 1].map(|k| errors.iter().map(|(p, _)| p[k]).sum::<f64>() / count);
    type Errors = ([f64; 2], [f64; 2]);
    let rms = |off: &dyn Fn(&Errors) -> [f64; 2]| {
        let sum: f64 = errors
            .iter()
            .map(|e| off(e).iter().map(|v| v * v).sum::<f64>())
            .sum();
        (sum / count).sqrt()
    };
    let predicted = rms(&|(p, _)| [p[0] - mean[0], p[1] - mean[1]]);
    let commanded = rms(&|(_, c)| *c);
    assert!(commanded > 5.0, "{commanded} px");
    assert!(
        predicted < 0.25,
        "{predicted} px rms around a shift of {mean:?}"
    );
    assert!(mean.iter().all(|m| m.abs() < 0.5), "{mean:?} px");
}

#[test]
fn what_cannot_be_identified_is_refused_by_name() {
    let refused = |plan: &Plan, ms: u64| {
        let mut microscope = Microscope::new();
        let beam = Duration::from_millis(ms);
        match coil(
            &mut microscope,
            plan,
            &map(),
            beam,
            &occasion(),
            &mut |_| true,
        ) {
            Err(Error::Invalid(invalid)) => invalid.field.into_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&plan(), 2000), "coil.beam_ms_per_axis");
    let mut turned = plan();
    turned.field.rotation = domain::Angle::from_radians(0.5).unwrap();
    assert_eq!(refused(&turned, 500), "field.rotation_rad");
    let mut small = plan();
    small.field.grid = Grid::new(64, 512).unwrap();
    assert_eq!(refused(&small, 500), "field.grid");
}
