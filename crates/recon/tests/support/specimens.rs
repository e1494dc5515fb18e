//! Specimens, patterns and blocks for the tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part"
)]

use domain::{DetectorName, Estimator, Grid, SampleBlock, Signal};
use recon::{DetectorSetup, Kernel, Noise, Setup};

/// A stable stream of uniform numbers.
pub struct Random(pub u64);

impl Random {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().max(1e-300).ln()).sqrt()
            * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let (limit, mut product, mut n) = ((-mean).exp(), self.uniform(), 0.0);
        while product > limit {
            product *= self.uniform();
            n += 1.0;
        }
        n
    }
}

/// A square specimen, events per incident electron.
pub struct Specimen {
    pub side: usize,
    pub values: Vec<f32>,
}

impl Specimen {
    /// SrTiO3 grain boundary, HAADF, 128².
    pub fn grain_boundary() -> Self {
        Self::from_bytes(128, include_bytes!("../data/sto_gb_128.f32"))
    }

    /// MoS2 monolayer, HAADF, 96².
    pub fn monolayer() -> Self {
        Self::from_bytes(96, include_bytes!("../data/mos2_96.f32"))
    }

    fn from_bytes(side: usize, bytes: &[u8]) -> Self {
        let values = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Self {
            side,
            values: values.collect(),
        }
    }

    pub fn grid(&self) -> Grid {
        Grid::new(self.side as u32, self.side as u32).unwrap()
    }

    pub fn at(&self, [row, col]: [usize; 2]) -> f32 {
        self.values[row * self.side + col]
    }

    pub fn mean(&self) -> f64 {
        self.values.iter().map(|&v| f64::from(v)).sum::<f64>() / self.values.len() as f64
    }

    /// One pixel in each cell of a jittered grid.
    pub fn jittered(&self, fraction: f64, seed: u64) -> Vec<[usize; 2]> {
        let n = (self.side as f64 * fraction.sqrt()).round() as usize;
        let mut random = Random(seed);
        let mut pick =
            |k: usize| ((k as f64 + random.uniform()) * self.side as f64 / n as f64) as usize;
        (0..n * n)
            .map(|i| {
                [
                    pick(i / n).min(self.side - 1),
                    pick(i % n).min(self.side - 1),
                ]
            })
            .collect()
    }

    /// Noiseless samples, or counts of so many incident electrons each.
    pub fn block(&self, places: &[[usize; 2]], electrons: Option<f64>, seed: u64) -> SampleBlock {
        let mut random = Random(seed);
        let values = places.iter().map(|&p| {
            let v = f64::from(self.at(p));
            electrons.map_or(v, |e| random.poisson(e * v)) as f32
        });
        let values = values.collect();
        let place = |k: usize| places.iter().map(|p| p[k] as f32).collect();
        block(
            place(0),
            place(1),
            electrons.unwrap_or(1.0) as f32,
            vec![values],
        )
    }
}

/// A block of samples at the given places.
pub fn block(row: Vec<f32>, col: Vec<f32>, electrons: f32, values: Vec<Vec<f32>>) -> SampleBlock {
    let signals = values.into_iter().map(Signal::Scalar).collect();
    SampleBlock::ideal(row, col, electrons, signals)
}

pub fn setup(grid: Grid, estimator: Estimator, noises: &[Noise]) -> Setup {
    let detector = |(i, &noise): (usize, &Noise)| DetectorSetup {
        name: DetectorName::new(&format!("d{i}")).unwrap(),
        noise,
        rise_ns: 0.0,
    };
    Setup {
        grid,
        detectors: noises.iter().enumerate().map(detector).collect(),
        estimator,
        n_threads: 2,
        kernel: Kernel::Native,
        seed: 11,
    }
}

pub const COUNTING: Noise = Noise::Counting {
    excess: 1.0,
    read_noise: 0.0,
};
