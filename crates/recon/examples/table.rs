//! Prints quality and cost of estimators on specimens: `table [--fraction F] [--electrons N] [--estimators a,b] [--crop N] [--live] DIR…`
//!
//! `--electrons N` counts N incident electrons per position; without it samples are noiseless. `--counts C` chooses N so that a visited pixel
//! holds C events on average.
#![allow(
    clippy::print_stdout,
    reason = "a table on the terminal is what it is for"
)]

use domain::{Clock, DetectorName, Estimator, Grid, MonotonicClock, Pitch, SampleBlock, Signal};
use recon::{DetectorSetup, Kernel, Noise, Setup, quality};
use std::path::Path;

struct Image {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

fn npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("a readable npy file");
    let at = 10;
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[at..at + header_len]).into_owned();
    let body = &bytes[at + header_len..];
    let shape = header
        .split("'shape': (")
        .nth(1)
        .and_then(|s| s.split(')').next())
        .expect("a shape");
    let shape = shape
        .split(',')
        .filter_map(|s| s.trim().parse().ok())
        .collect();
    let values = if header.contains("<f4") {
        body.chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    } else if header.contains("<u2") {
        body.chunks_exact(2)
            .map(|b| f32::from(u16::from_le_bytes([b[0], b[1]])))
            .collect()
    } else if header.contains("u1") {
        body.iter().map(|&b| f32::from(b)).collect()
    } else {
        panic!("unknown type in {header}")
    };
    (shape, values)
}

fn load(dir: &Path, crop: usize) -> Image {
    let (shape, values) = npy(&dir.join("data.npy"));
    let (rows, cols) = (shape[0], shape[1]);
    let (r, c) = (rows.min(crop), cols.min(crop));
    let (r0, c0) = ((rows - r) / 2, (cols - c) / 2);
    let values: Vec<f32> = (0..r * c)
        .map(|i| values[(r0 + i / c) * cols + c0 + i % c])
        .collect();
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let scale = if mean > 1.0 {
        (0.05 / mean) as f32
    } else {
        1.0
    };
    Image {
        rows: r,
        cols: c,
        values: values.iter().map(|v| v * scale).collect(),
    }
}

struct Random(u64);
impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
    fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 60.0 {
            let normal = (-2.0 * self.next().max(1e-300).ln()).sqrt()
                * (std::f64::consts::TAU * self.next()).cos();
            return (mean + mean.sqrt() * normal).round().max(0.0);
        }
        let (limit, mut product, mut n) = ((-mean).exp(), self.next(), 0.0);
        while product > limit {
            product *= self.next();
            n += 1.0;
        }
        n
    }
}

/// One position in each cell of a jittered grid; every pixel once at fraction 1.
fn jittered(rows: usize, cols: usize, fraction: f64, random: &mut Random) -> Vec<(usize, usize)> {
    let side = fraction.sqrt();
    let (nr, nc) = (
        (rows as f64 * side).round() as usize,
        (cols as f64 * side).round() as usize,
    );
    let pick = |k: usize, n: usize, of: usize, u: f64| {
        (((k as f64 + u) * of as f64 / n as f64) as usize).min(of - 1)
    };
    (0..nr * nc)
        .map(|i| {
            let (u, v) = (random.next(), random.next());
            (pick(i / nc, nr, rows, u), pick(i % nc, nc, cols, v))
        })
        .collect()
}

fn block(
    image: &Image,
    places: &[(usize, usize)],
    electrons: Option<f64>,
    random: &mut Random,
) -> SampleBlock {
    let value = |&(r, c): &(usize, usize), random: &mut Random| {
        let v = f64::from(image.values[r * image.cols + c]);
        electrons.map_or(v, |e| random.poisson(v * e)) as f32
    };
    SampleBlock::ideal(
        places.iter().map(|p| p.0 as f32).collect(),
        places.iter().map(|p| p.1 as f32).collect(),
        electrons.unwrap_or(1.0) as f32,
        vec![Signal::Scalar(
            places.iter().map(|p| value(p, random)).collect(),
        )],
    )
}

struct Options {
    fraction: f64,
    electrons: Option<f64>,
    counts: Option<f64>,
    estimators: Vec<Estimator>,
    crop: usize,
    threads: usize,
    seed: u64,
    dirs: Vec<String>,
    live: bool,
}

fn options() -> Options {
    let mut o = Options {
        fraction: 0.1,
        electrons: None,
        counts: None,
        estimators: vec![Estimator::Auto],
        crop: usize::MAX,
        threads: 2,
        seed: 1,
        dirs: vec![],
        live: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            args.next()
                .and_then(|v| v.parse::<f64>().ok())
                .expect("a number")
        };
        match arg.as_str() {
            "--fraction" => o.fraction = number(),
            "--electrons" => o.electrons = Some(number()),
            "--counts" => o.counts = Some(number()),
            "--crop" => o.crop = number() as usize,
            "--threads" => o.threads = number() as usize,
            "--live" => o.live = true,
            "--seed" => o.seed = number() as u64,
            "--estimators" => {
                let names = args.next().expect("names of estimators");
                o.estimators = names
                    .split(',')
                    .map(|n| Estimator::from_name(n).expect("a known estimator"))
                    .collect();
            }
            dir => o.dirs.push(dir.into()),
        }
    }
    o
}

fn cpu() -> f64 {
    let mut sum = 0.0;
    for task in std::fs::read_dir("/proc/self/task")
        .expect("proc")
        .flatten()
    {
        if let Ok(s) = std::fs::read_to_string(task.path().join("schedstat")) {
            sum += s
                .split_whitespace()
                .next()
                .and_then(|v| v.parse::<f64>().ok())
                .unwrap_or(0.0);
        }
    }
    sum * 1e-6
}

fn main() {
    let o = options();
    println!(
        "{:<26} {:<8} {:>6} {:>6} {:>7} {:>6} {:>6} {:>6} {:>8}",
        "specimen", "method", "psnr", "ssim", "frc", "cover", "recall", "rms", "ms"
    );
    for dir in &o.dirs {
        let image = load(Path::new(dir), o.crop);
        for &estimator in &o.estimators {
            row(&o, Path::new(dir), &image, estimator);
        }
    }
}

fn row(o: &Options, dir: &Path, image: &Image, estimator: Estimator) {
    let mean = image.values.iter().map(|&v| f64::from(v)).sum::<f64>() / image.values.len() as f64;
    let electrons = o.electrons.or(o.counts.map(|c| c / mean));
    let mut random = Random(o.seed);
    let places = jittered(image.rows, image.cols, o.fraction, &mut random);
    let block = block(image, &places, electrons, &mut random);
    let grid = Grid::new(image.rows as u32, image.cols as u32).expect("a grid");
    let setup = Setup {
        grid,
        detectors: vec![DetectorSetup {
            name: DetectorName::new("signal").expect("a name"),
            rise_ns: 0.0,
            noise: if electrons.is_some() {
                Noise::Counting {
                    excess: 1.0,
                    read_noise: 0.0,
                }
            } else {
                Noise::None
            },
        }],
        estimator,
        n_threads: o.threads,
        kernel: Kernel::Native,
        seed: 7,
    };
    let mut recon = recon::new(&setup).expect("an estimator");
    let clock = MonotonicClock::new();
    let cpu0 = cpu();
    recon.absorb(&block);
    if o.live {
        live(recon.as_mut(), &block, &clock);
    }
    recon.finish();
    let _ = &clock;
    let ms = cpu() - cpu0;
    let estimate = recon.estimate();
    let detector = &estimate.detectors[0];
    let mut visited = vec![false; image.values.len()];
    for &(r, c) in &places {
        visited[r * image.cols + c] = true;
    }
    let full = visited.iter().all(|v| *v);
    let psnr = quality::psnr(grid, &image.values, &detector.mean).expect("psnr");
    let ssim = quality::ssim(grid, &image.values, &detector.mean).expect("ssim");
    let frc =
        quality::frc_to_truth(grid, Pitch::Unknown, &image.values, &detector.mean).expect("frc");
    let cover = quality::coverage(&image.values, &detector.mean, &detector.uncertainty, |i| {
        full || !visited[i]
    })
    .expect("cover");
    let score = columns(dir, image, grid, &detector.mean);
    println!(
        "{:<26} {:<8} {psnr:6.2} {ssim:6.3} {:7.4} {cover:6.3} {:>6} {:>6} {ms:8.1}{}",
        dir.file_name().map_or("?".into(), |n| n.to_string_lossy()),
        estimator.name(),
        frc.cycles_per_px,
        score.map_or("-".into(), |s| format!("{:.3}", s.recall)),
        score.map_or("-".into(), |s| format!("{:.2}", s.position_rms_px)),
        if detector.calibrated { "" } else { " uncal" },
    );
}

/// Prints what a live run costs: everything solved once more, and after 256 repeated samples, spread or in one place.
fn live(recon: &mut dyn recon::Reconstructor, block: &SampleBlock, clock: &MonotonicClock) {
    let mut timed = |what: &str, block: &SampleBlock| {
        recon.absorb(block);
        let (start, c0) = (clock.now(), cpu());
        recon.refine(recon::WorkQuota::ALL);
        println!(
            "    {what}: {:.1} ms, cpu {:.1}",
            (clock.now() - start).as_secs_f64() * 1e3,
            cpu() - c0
        );
    };
    timed("first, with learning", block);
    for _ in 0..std::env::var("RED")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(3)
    {
        timed("every tile", block);
    }
    let part = |keep: &dyn Fn(usize) -> bool| {
        let kept: Vec<usize> = (0..block.len()).filter(|&i| keep(i)).take(256).collect();
        let values = block.signals[0].scalar().expect("values");
        SampleBlock {
            row: kept.iter().map(|&i| block.row[i]).collect(),
            col: kept.iter().map(|&i| block.col[i]).collect(),
            signals: vec![Signal::Scalar(kept.iter().map(|&i| values[i]).collect())],
            ..block.clone()
        }
    };
    let every = (block.len() / 256).max(1);
    timed("256 spread", &part(&|i| i % every == 0));
    timed(
        "256 within 128²",
        &part(&|i| i % 6 == 0 && block.row[i] < 128.0 && block.col[i] < 128.0),
    );
}

fn columns(dir: &Path, image: &Image, grid: Grid, mean: &[f32]) -> Option<quality::ColumnScore> {
    let stem = dir.file_name()?.to_string_lossy().into_owned();
    let base = stem.rsplit_once('_')?.0.to_owned() + "_haadf";
    let path = dir.with_file_name(base).join("atoms.npy");
    let full = npy(&dir.join("data.npy")).0;
    if !path.exists() || full != [image.rows, image.cols] {
        return None;
    }
    let meta = std::fs::read_to_string(dir.join("meta.json")).ok()?;
    let pixel_nm = meta
        .split("\"pixel_nm\":")
        .nth(1)?
        .split(',')
        .next()?
        .trim()
        .parse()
        .ok()?;
    let atoms: Vec<[f32; 4]> = npy(&path)
        .1
        .chunks_exact(4)
        .map(|a| [a[0], a[1], a[2], a[3]])
        .collect();
    quality::columns(grid, pixel_nm, &image.values, mean, &atoms).ok()
}
