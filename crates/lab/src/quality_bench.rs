//! Quality and cost of estimators on specimens whose truth is known: the table of `bench recon`.
//!
//! Positions come from the same patterns as on an instrument, samples straight from the specimen's values: expectations, or
//! counts of an ideal detector. One detector, the specimen's first. A live run is the same samples once more, so that
//! every place is known and only the work counts; wall times are medians over the runs and count what else the machine does,
//! CPU times do not.

use crate::Error;
use crate::score::{Planes, Score, score};
use crate::stopwatch::{Spent, now};
use domain::{
    DetectorName, DwellTime, Estimate, Estimator, Exposure, Fraction, Grid, Invalid,
    MonotonicClock, Nanometres, NpyArray, Order, Pattern, Pitch, Plan, PositionBatch, SampleBlock,
    ScanField, Signal,
};
use recon::quality::{ColumnScore, columns};
use recon::{DetectorSetup, Kernel, Noise, Reconstructor, Setup, WorkQuota};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Positions per batch asked of a pattern.
const BATCH: usize = 4096;
/// New samples of a live step.
const NEW_SAMPLES: usize = 256;
/// Side of the region that local new samples come from, px.
const REGION: f32 = 128.0;
/// Samples before the first picture, part of the pixels.
const FIRST: f64 = 0.02;
/// Units of work between two looks at the first picture.
const LOOK: u64 = 512;

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityBench {
    /// Positions ÷ pixels, jittered; from 1 on a whole raster.
    pub fraction: f64,
    /// Events per visited pixel on average; `None` for expectations without noise.
    pub counts: Option<f64>,
    /// Side of the middle part that is used, px; `None` for all.
    pub crop: Option<u32>,
    /// Seeds pattern and counts.
    pub seed: u64,
    /// Threads.
    pub n_threads: usize,
    /// Live steps measured; 0: none.
    pub n_live: u32,
}

/// Milliseconds of a step: medians over the runs.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Milliseconds {
    /// By the clock on the wall.
    pub wall: f64,
    /// Of all threads.
    pub cpu: f64,
}

/// What a live run costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Live {
    /// From the first 2 % of the samples to a picture of the whole field.
    pub first_picture: Milliseconds,
    /// All pixels anew, mean and deviation, nothing learned meanwhile.
    pub redraw: Milliseconds,
    /// 256 samples within 128² px.
    pub local_256: Milliseconds,
    /// 256 samples all over the field.
    pub spread_256: Milliseconds,
    /// The last look at all samples, with what was learned before.
    pub finish: Milliseconds,
}

/// One estimator on one specimen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QualityRun {
    /// Specimen.
    pub specimen: String,
    /// Rows and columns.
    pub shape: [u32; 2],
    /// Visited pixels ÷ pixels.
    pub visited: f64,
    /// Events per visited pixel; `None` without noise.
    pub counts: Option<f64>,
    /// Estimator.
    pub estimator: &'static str,
    /// Quality; the coverage counts unvisited pixels, or all where every pixel was visited.
    pub score: Score,
    /// Whether the estimator calls its intervals calibrated.
    pub calibrated: bool,
    /// Part of the visible atom columns that are found; `None` where the atoms are not known.
    pub columns_found: Option<f64>,
    /// Root mean square error of their places, px.
    pub columns_rms_px: Option<f64>,
    /// From the first sample to the last estimate, learning included.
    pub spent: Spent,
    /// The live run, where one was asked for.
    pub live: Option<Live>,
    /// Upper bound of the memory held, bytes.
    pub memory_bytes: usize,
    /// Instructions used.
    pub kernel: &'static str,
    /// Threads.
    pub n_threads: usize,
}

/// A specimen and its samples, ready for estimators.
pub struct Bench {
    name: String,
    folder: PathBuf,
    detector: DetectorName,
    field: ScanField,
    /// First row and column of the part in the whole.
    origin: [u32; 2],
    truth: Vec<f32>,
    visits: Vec<f32>,
    blocks: Vec<SampleBlock>,
    options: QualityBench,
}

impl Bench {
    /// Reads the specimen at `path` and draws its samples.
    pub fn open(path: &Path, options: &QualityBench) -> Result<Self, Error> {
        check(options)?;
        let load = sim::LoadOptions::default();
        let specimen = sim::Specimen::open(&path.display().to_string(), &load)?;
        let Some(image) = specimen.image() else {
            return Err(
                Invalid::new("specimen", path.display(), "a specimen with an image").into(),
            );
        };
        let side = options.crop.unwrap_or(u32::MAX);
        let (n_rows, n_cols) = (image.n_rows.min(side), image.n_cols.min(side));
        let origin = [(image.n_rows - n_rows) / 2, (image.n_cols - n_cols) / 2];
        let plane = &image.planes[0];
        let truth = (0..n_rows * n_cols)
            .map(|i| {
                let (row, col) = (origin[0] + i / n_cols, origin[1] + i % n_cols);
                plane.values[(row * image.n_cols + col) as usize]
            })
            .collect();
        let pitch = match image.pixel_nm {
            Some(nm) => Pitch::Nanometres(Nanometres::new(nm)?),
            None => Pitch::Unknown,
        };
        let mut bench = Self {
            name: image.name.clone(),
            folder: path.to_path_buf(),
            detector: plane.detector.clone(),
            field: ScanField::centred(Grid::new(n_rows, n_cols)?, pitch),
            origin,
            truth,
            visits: vec![0.0; n_rows as usize * n_cols as usize],
            blocks: Vec::new(),
            options: options.clone(),
        };
        bench.sample()?;
        Ok(bench)
    }

    /// Name of the specimen.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Visits the pattern's positions.
    fn sample(&mut self) -> Result<(), Error> {
        let dwell = DwellTime::from_nanoseconds(1000)?;
        let detectors = vec![self.detector.clone()];
        let mut plan = Plan::new(self.field, detectors, Exposure::Dwell(dwell));
        plan.seed = self.options.seed;
        plan.fraction = Fraction::new(self.options.fraction)?;
        plan.pattern = if self.options.fraction < 1.0 {
            Pattern::Jittered
        } else {
            Pattern::Raster
        };
        plan.order = Order::Default;
        let mut policy = scan::policy(&plan, dwell, None)?;
        let mean = self.truth.iter().map(|&v| f64::from(v)).sum::<f64>() / self.truth.len() as f64;
        let electrons = self.options.counts.map(|c| c / mean);
        let mut chance = Chance(self.options.seed ^ 0xC0_FFEE);
        let mut left = plan.positions_per_frame();
        while left > 0 {
            let mut batch = PositionBatch::default();
            let context = scan::Context {
                estimate: None,
                remaining: scan::Remaining {
                    positions: left,
                    electrons: f64::INFINITY,
                    time_ns: f64::INFINITY,
                },
                frame: 0,
                n_wanted: BATCH.min(left as usize),
            };
            policy.decide(&context, &mut batch);
            if batch.is_empty() {
                break;
            }
            left = left.saturating_sub(batch.len() as u64);
            let block = self.block(&batch, electrons, &mut chance);
            self.blocks.push(block);
        }
        Ok(())
    }

    fn block(
        &mut self,
        batch: &PositionBatch,
        electrons: Option<f64>,
        chance: &mut Chance,
    ) -> SampleBlock {
        let n_cols = self.field.grid.n_cols() as usize;
        let places = batch.row.iter().zip(&batch.col);
        let values = places.map(|(&row, &col)| {
            let pixel = row.round() as usize * n_cols + col.round() as usize;
            self.visits[pixel] += 1.0;
            let value = f64::from(self.truth[pixel]);
            electrons.map_or(value, |e| chance.poisson(value.max(0.0) * e)) as f32
        });
        let values = values.collect();
        SampleBlock::ideal(
            batch.row.iter().map(|r| r.round()).collect(),
            batch.col.iter().map(|c| c.round()).collect(),
            electrons.unwrap_or(1.0) as f32,
            vec![Signal::Scalar(values)],
        )
    }

    fn estimator(&self, estimator: Estimator) -> Result<Box<dyn Reconstructor>, Error> {
        let noise = match self.options.counts {
            None => Noise::None,
            Some(_) => Noise::Counting {
                excess: 1.0,
                read_noise: 0.0,
            },
        };
        Ok(recon::new(&Setup {
            grid: self.field.grid,
            detectors: vec![DetectorSetup {
                name: self.detector.clone(),
                noise,
                rise_ns: 0.0,
            }],
            estimator,
            n_threads: self.options.n_threads,
            kernel: Kernel::Native,
            seed: self.options.seed,
        })?)
    }

    /// Estimates with `estimator`, scores and times it; the estimate is for [`Bench::export`].
    pub fn run(&self, estimator: Estimator) -> Result<(QualityRun, Estimate), Error> {
        let clock = MonotonicClock::new();
        let mut recon = self.estimator(estimator)?;
        let start = now(&clock);
        for block in &self.blocks {
            recon.absorb(block);
        }
        recon.finish();
        let estimate = recon.estimate();
        let spent = since(&clock, start);
        let live = (self.options.n_live > 0)
            .then(|| self.live(estimator))
            .transpose()?;
        let found = &estimate.detectors[0];
        let planes = Planes {
            detector: self.detector.as_str(),
            truth: &self.truth,
            mean: &found.mean,
            uncertainty: &found.uncertainty,
        };
        let (grid, n) = (self.field.grid, self.visits.len());
        let visited = self.visits.iter().filter(|v| **v > 0.0).count();
        let nowhere = vec![0.0; n];
        let visits = if visited == n { &nowhere } else { &self.visits };
        let columns = self.columns(&found.mean)?;
        let run = QualityRun {
            specimen: self.name.clone(),
            shape: [grid.n_rows(), grid.n_cols()],
            visited: visited as f64 / n as f64,
            counts: self.options.counts,
            estimator: estimator.name(),
            score: score(grid, self.field.pitch, &planes, visits)?,
            calibrated: found.calibrated,
            columns_found: columns.map(|c| c.recall),
            columns_rms_px: columns.map(|c| c.position_rms_px),
            spent,
            live,
            memory_bytes: recon.memory_bytes(),
            kernel: Kernel::Native.variant(),
            n_threads: self.options.n_threads,
        };
        Ok((run, estimate))
    }

    fn live(&self, estimator: Estimator) -> Result<Live, Error> {
        let clock = MonotonicClock::new();
        let n_live = self.options.n_live;
        let all = joined(&self.blocks);
        let first = {
            let n = (FIRST * self.truth.len() as f64) as usize;
            part(&all, n.min(all.len()), |_| true)
        };
        let mut first_picture = Vec::new();
        for _ in 0..n_live {
            let mut recon = self.estimator(estimator)?;
            let start = now(&clock);
            recon.absorb(&first);
            loop {
                let left = recon.refine(WorkQuota(LOOK));
                let seen = recon.estimate();
                let whole = seen.detectors[0].uncertainty.iter().all(|u| u.is_finite());
                if whole || left.0 > 0 {
                    break;
                }
            }
            first_picture.push(since(&clock, start));
        }
        let mut recon = self.estimator(estimator)?;
        recon.absorb(&all);
        recon.refine(WorkQuota::ALL);
        let every = (all.len() / NEW_SAMPLES).max(1);
        let spread = part(&all, NEW_SAMPLES, |i| i % every == 0);
        let region = |i: usize| all.row[i] < REGION && all.col[i] < REGION;
        let inside = (0..all.len()).filter(|&i| region(i)).count();
        let apart = (inside / NEW_SAMPLES).max(1);
        let mut seen = 0;
        let local = part(&all, NEW_SAMPLES, |i| {
            seen += usize::from(region(i));
            region(i) && seen % apart == 0
        });
        let mut times = |block: Option<&SampleBlock>| {
            let spent = (0..n_live).map(|_| {
                let start = now(&clock);
                match block {
                    Some(block) => {
                        recon.absorb(block);
                        recon.refine(WorkQuota::ALL);
                    }
                    None => recon.finish(),
                }
                let _ = recon.estimate();
                since(&clock, start)
            });
            median(spent.collect())
        };
        Ok(Live {
            first_picture: median(first_picture),
            redraw: times(Some(&all)),
            local_256: times(Some(&local)),
            spread_256: times(Some(&spread)),
            finish: times(None),
        })
    }

    /// Found columns, where the specimen's folder, or that of its HAADF image, lists the atoms.
    fn columns(&self, mean: &[f32]) -> Result<Option<ColumnScore>, Error> {
        let Pitch::Nanometres(pixel) = self.field.pitch else {
            return Ok(None);
        };
        let name = self.folder.file_name().map(|n| n.to_string_lossy());
        let sibling = name
            .as_deref()
            .and_then(|n| n.rsplit_once('_'))
            .map(|(stem, _)| self.folder.with_file_name(format!("{stem}_haadf")));
        let Some(path) = [Some(self.folder.clone()), sibling]
            .into_iter()
            .flatten()
            .map(|folder| folder.join("atoms.npy"))
            .find(|path| path.is_file())
        else {
            return Ok(None);
        };
        let atoms = read_npy(&path)?;
        let here: Vec<[f32; 4]> = atoms
            .chunks_exact(4)
            .map(|a| {
                [
                    a[0] - self.origin[0] as f32,
                    a[1] - self.origin[1] as f32,
                    a[2],
                    a[3],
                ]
            })
            .filter(|a| {
                let inside = |v: f32, n: u32| (0.0..=(n - 1) as f32).contains(&v);
                inside(a[0], self.field.grid.n_rows()) && inside(a[1], self.field.grid.n_cols())
            })
            .collect();
        // Without visible columns there is nothing to find.
        Ok(columns(self.field.grid, pixel.nm(), &self.truth, mean, &here).ok())
    }

    /// Writes `truth.npy`, `samples.npy` (NaN where no sample is), `mean.npy` and `uncertainty.npy` to `folder`, in units
    /// in which the truth goes from 0 to 1, and `units.npy`, the value of no events and the events of a sample per unit
    /// (0 without noise): what other programs can be run on.
    pub fn export(&self, estimate: &Estimate, folder: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(folder).map_err(|source| Error::File {
            path: folder.display().to_string(),
            source,
        })?;
        let (low, high) = self
            .truth
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| {
                (a.min(v), b.max(v))
            });
        let scale = 1.0 / (high - low).max(f32::MIN_POSITIVE);
        let n_cols = self.field.grid.n_cols() as usize;
        let (mut sums, mut electrons) = (vec![0.0f32; self.truth.len()], self.visits.clone());
        electrons.fill(0.0);
        for block in &self.blocks {
            for (i, value) in block.signals[0].scalar().into_iter().flatten().enumerate() {
                let pixel = block.row[i] as usize * n_cols + block.col[i] as usize;
                sums[pixel] += value;
                electrons[pixel] += block.electrons.at(i);
            }
        }
        let samples = sums.iter().zip(&electrons).map(|(s, e)| s / e);
        let scaled = |values: &[f32]| values.iter().map(|v| (v - low) * scale).collect();
        let found = &estimate.detectors[0];
        let files: [(&str, Vec<f32>); 4] = [
            ("truth", scaled(&self.truth)),
            ("samples", scaled(&samples.collect::<Vec<f32>>())),
            ("mean", scaled(&found.mean)),
            (
                "uncertainty",
                found.uncertainty.iter().map(|u| u * scale).collect(),
            ),
        ];
        let shape = [self.field.grid.n_rows() as usize, n_cols];
        let per_unit = match self.options.counts {
            Some(_) => self.blocks.first().map_or(0.0, |b| b.electrons.at(0)) / scale,
            None => 0.0,
        };
        store::write_npy_f32(&folder.join("units.npy"), &[2], &[-low * scale, per_unit])?;
        for (name, values) in files {
            store::write_npy_f32(&folder.join(format!("{name}.npy")), &shape, &values)?;
        }
        Ok(())
    }
}

fn check(options: &QualityBench) -> Result<(), Invalid> {
    if !(0.001..=1.0).contains(&options.fraction) {
        return Err(Invalid::new("fraction", options.fraction, "0.001 to 1"));
    }
    if let Some(counts) = options.counts
        && !(1e-4..=1e6).contains(&counts)
    {
        return Err(Invalid::new("counts", counts, "1e-4 to 1e6 events"));
    }
    if let Some(crop) = options.crop
        && !(32..=16_384).contains(&crop)
    {
        return Err(Invalid::new("crop", crop, "32 to 16384 px"));
    }
    if options.n_live > 100 {
        return Err(Invalid::new("live", options.n_live, "0 to 100 runs"));
    }
    Ok(())
}

/// All blocks as one.
fn joined(blocks: &[SampleBlock]) -> SampleBlock {
    let values = |b: &SampleBlock| b.signals[0].scalar().map_or_else(Vec::new, <[f32]>::to_vec);
    SampleBlock::ideal(
        blocks.iter().flat_map(|b| b.row.clone()).collect(),
        blocks.iter().flat_map(|b| b.col.clone()).collect(),
        blocks.first().map_or(1.0, |b| b.electrons.at(0)),
        vec![Signal::Scalar(blocks.iter().flat_map(values).collect())],
    )
}

/// The first `n` samples that `keep` names.
fn part(block: &SampleBlock, n: usize, mut keep: impl FnMut(usize) -> bool) -> SampleBlock {
    let kept: Vec<usize> = (0..block.len()).filter(|&i| keep(i)).take(n).collect();
    let values = block.signals[0].scalar().unwrap_or_default();
    SampleBlock::ideal(
        kept.iter().map(|&i| block.row[i]).collect(),
        kept.iter().map(|&i| block.col[i]).collect(),
        block.electrons.at(0),
        vec![Signal::Scalar(kept.iter().map(|&i| values[i]).collect())],
    )
}

fn since(clock: &MonotonicClock, start: Spent) -> Spent {
    let end = now(clock);
    Spent {
        wall_s: end.wall_s - start.wall_s,
        cpu_s: end.cpu_s - start.cpu_s,
    }
}

fn median(spent: Vec<Spent>) -> Milliseconds {
    let middle = |of: fn(&Spent) -> f64| {
        let mut values: Vec<f64> = spent.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        1e3 * values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    Milliseconds {
        wall: middle(|s| s.wall_s),
        cpu: middle(|s| s.cpu_s),
    }
}

/// A seeded stream of chance (SplitMix64, Steele, Lea & Flood 2014).
struct Chance(u64);

impl Chance {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A Poisson count; above a mean of 200 by its normal limit, rounded.
    fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 200.0 {
            let radius = (-2.0 * self.uniform().max(f64::MIN_POSITIVE).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * self.uniform()).cos();
            return (mean + mean.sqrt() * normal).round().max(0.0);
        }
        let (limit, mut product, mut n) = ((-mean).exp(), self.uniform(), 0.0);
        while product > limit {
            product *= self.uniform();
            n += 1.0;
        }
        n
    }
}

fn read_npy(path: &Path) -> Result<Vec<f32>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        path: path.display().to_string(),
        source,
    })?;
    Ok(NpyArray::parse(&bytes)?.to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(counts: Option<f64>) -> QualityBench {
        QualityBench {
            fraction: 0.1,
            counts,
            crop: Some(96),
            seed: 3,
            n_threads: 1,
            n_live: 0,
        }
    }

    #[test]
    fn samples_are_the_truth_of_a_tenth_of_the_pixels() {
        let bench = Bench::open(Path::new("f"), &options(None)).unwrap();
        let visited = bench.visits.iter().filter(|v| **v > 0.0).count();
        assert!((800..1050).contains(&visited), "{visited}");
        let all = joined(&bench.blocks);
        for (i, value) in all.signals[0].scalar().unwrap().iter().enumerate() {
            let pixel = all.row[i] as usize * 96 + all.col[i] as usize;
            assert_eq!(*value, bench.truth[pixel]);
        }
    }

    #[test]
    fn counts_have_the_mean_that_was_asked_for() {
        for counts in [0.5, 300.0] {
            let bench = Bench::open(Path::new("mos2"), &options(Some(counts))).unwrap();
            let all = joined(&bench.blocks);
            let values = all.signals[0].scalar().unwrap();
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            // Places and counts scatter: 920 samples of a lattice whose values scatter by 1.5 times their mean.
            assert!((f64::from(mean) / counts - 1.0).abs() < 0.25, "{mean}");
        }
    }

    #[test]
    fn what_is_exported_is_what_was_scored() {
        let bench = Bench::open(Path::new("mos2"), &options(None)).unwrap();
        let (run, estimate) = bench.run(Estimator::Kriging).unwrap();
        let (nearest, _) = bench.run(Estimator::Nearest).unwrap();
        let [kriging, nearest] = [run, nearest].map(|run| run.score.psnr_db.unwrap());
        assert!(kriging > nearest + 1.0);
        let folder = tempfile::tempdir().unwrap();
        bench.export(&estimate, folder.path()).unwrap();
        let read = |name: &str| {
            let path = folder.path().join(name);
            read_npy(&path).unwrap()
        };
        let (truth, mean, samples) = (read("truth.npy"), read("mean.npy"), read("samples.npy"));
        let squares = truth
            .iter()
            .zip(&mean)
            .map(|(t, m)| f64::from(t - m).powi(2));
        let psnr = -10.0 * (squares.sum::<f64>() / truth.len() as f64).log10();
        assert!((psnr - kriging).abs() < 0.01);
        let known = samples.iter().zip(&truth).filter(|(s, _)| !s.is_nan());
        assert!(known.clone().count() > 800);
        assert!(known.into_iter().all(|(s, t)| (s - t).abs() < 1e-5));
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        for (field, options) in [
            (
                "fraction",
                QualityBench {
                    fraction: 0.0,
                    ..options(None)
                },
            ),
            ("counts", options(Some(-1.0))),
            (
                "crop",
                QualityBench {
                    crop: Some(8),
                    ..options(None)
                },
            ),
        ] {
            let refused = Bench::open(Path::new("f"), &options)
                .err()
                .unwrap()
                .to_string();
            assert!(refused.contains(field), "{refused}");
        }
    }
}
