//! Archimedean spiral from the centre at constant speed, off-grid.
//!
//! Turns lie as far apart as positions along the path, `d = R·√(π/n)`, and n positions fill the largest circle of the
//! field. Arc length of `r = bθ`: `s = b/2·(θ√(1+θ²) + asinh θ)`, solved for θ by Newton steps.

use crate::path::{Path, Place, Travel};
use crate::random::{key, unit};
use domain::Grid;
use std::f64::consts::{PI, TAU};

/// The spiral of one field.
#[derive(Debug)]
pub(crate) struct Spiral {
    n: u64,
    centre: [f64; 2],
    spacing: f64,
    seed: u64,
    start_angle: f64,
    next: u64,
}

impl Spiral {
    pub(crate) fn new(grid: Grid, n: u64, seed: u64) -> Self {
        let radius = f64::from(grid.n_rows().min(grid.n_cols())) / 2.0;
        let mut spiral = Self {
            n,
            centre: [grid.n_rows(), grid.n_cols()].map(|n| (f64::from(n) - 1.0) / 2.0),
            // Half a spacing of rim, so that the last turn stays inside.
            spacing: radius / ((n as f64 / PI).sqrt() + 0.5),
            seed,
            start_angle: 0.0,
            next: 0,
        };
        spiral.begin(0);
        spiral
    }

    fn place(&self, k: u64) -> Place {
        let per_angle = self.spacing / TAU;
        let angle = angle_at(TAU * k as f64);
        let (sin, cos) = (angle + self.start_angle).sin_cos();
        let radius = per_angle * angle;
        Place {
            row: (self.centre[0] + radius * sin) as f32,
            col: (self.centre[1] + radius * cos) as f32,
            dwell_ns: 0,
            travel: if k == 0 { Travel::Jump } else { Travel::Sweep },
        }
    }
}

/// The θ at arc length `s`, in units of b.
fn angle_at(s: f64) -> f64 {
    let mut angle = (2.0 * s).sqrt();
    for _ in 0..4 {
        let speed = (1.0 + angle * angle).sqrt();
        let length = 0.5 * (angle * speed + angle.asinh());
        let step = (length - s) / speed;
        angle = (angle - step).max(0.0);
        if step.abs() < 1e-9 {
            break;
        }
    }
    angle
}

impl Path for Spiral {
    fn begin(&mut self, frame: u32) {
        self.start_angle = TAU * unit(key(self.seed, u64::from(frame)));
        self.next = 0;
    }

    fn extend(&mut self, n: usize, places: &mut Vec<Place>) {
        let end = (self.next + n as u64).min(self.n);
        places.extend((self.next..end).map(|k| self.place(k)));
        self.next = end;
    }
}
