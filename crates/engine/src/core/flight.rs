//! Positions on their way: from submission until each has ended as a sample or in a gap.
//!
//! The controller answers in order, each position exactly once. Anything else is a slip.

use super::ledger::Ledger;
use domain::{PerPosition, PositionBatch, SampleBlock, SampleFlags, Signal};
use hal::{Arming, RawBlock};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug)]
struct Entry {
    batch: Arc<PositionBatch>,
    done: usize,
    /// The dwell and settle time of all positions, where they share one.
    dwell: Option<u32>,
    settle: Option<u32>,
}

/// A run of positions that ended together, of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) batch: Arc<PositionBatch>,
    pub(crate) range: Range<usize>,
    dwell: Option<u32>,
    settle: Option<u32>,
}

impl Ended {
    /// Settle and dwell time of all its positions, ns.
    pub(crate) fn work_ns(&self) -> u64 {
        work_ns(&self.batch, self.range.clone(), self.dwell, self.settle)
    }
}

fn work_ns(
    batch: &PositionBatch,
    range: Range<usize>,
    dwell: Option<u32>,
    settle: Option<u32>,
) -> u64 {
    let sum = |values: &[u32], uniform: Option<u32>| match uniform {
        Some(value) => u64::from(value) * range.len() as u64,
        None => values[range.clone()]
            .iter()
            .fold(0, |sum: u64, &v| sum.wrapping_add(u64::from(v))),
    };
    sum(&batch.dwell_ns, dwell) + sum(&batch.settle_ns, settle)
}

/// The value that all share.
pub(crate) fn uniform(values: &[u32]) -> Option<u32> {
    let first = *values.first()?;
    // Several at a time, which stopping at the first other value would forbid.
    let all_alike = |part: &[u32]| part.iter().fold(0, |other, &v| other | (v ^ first)) == 0;
    values.chunks(1024).all(all_alike).then_some(first)
}

/// What is in flight.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    arming: Option<Arming>,
    entries: VecDeque<Entry>,
    n: u64,
    work_ns: u64,
    next: u64,
}

impl Flight {
    pub(crate) const fn n(&self) -> u64 {
        self.n
    }

    pub(crate) const fn work_ns(&self) -> u64 {
        self.work_ns
    }

    /// The arming that the positions were submitted under.
    pub(crate) const fn arming(&self) -> Option<Arming> {
        self.arming
    }

    /// The position that ends next.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn submit(&mut self, arming: Arming, batch: Arc<PositionBatch>) {
        let (dwell, settle) = (uniform(&batch.dwell_ns), uniform(&batch.settle_ns));
        self.arming = Some(arming);
        if self.entries.is_empty() {
            self.next = batch.first_position;
        }
        self.n += batch.len() as u64;
        self.work_ns += work_ns(&batch, 0..batch.len(), dwell, settle);
        self.entries.push_back(Entry {
            batch,
            done: 0,
            dwell,
            settle,
        });
    }

    /// Takes the oldest `n` positions out; the caller has checked that there are as many.
    pub(crate) fn end(&mut self, n: u64) -> Vec<Ended> {
        let mut left = n as usize;
        let mut ended = Vec::with_capacity(2);
        while left > 0 {
            let entry = self.entries.front_mut().expect("at least n are in flight");
            let take = left.min(entry.batch.len() - entry.done);
            let run = Ended {
                batch: entry.batch.clone(),
                range: entry.done..entry.done + take,
                dwell: entry.dwell,
                settle: entry.settle,
            };
            entry.done += take;
            if entry.done == entry.batch.len() {
                self.entries.pop_front();
            }
            self.work_ns -= run.work_ns();
            left -= take;
            ended.push(run);
        }
        self.n -= n;
        self.next += n;
        ended
    }

    /// Takes every position from `first` on out, newest end; they never reached the controller.
    pub(crate) fn unsend(&mut self, first: u64) -> Vec<Ended> {
        let mut ended = Vec::new();
        while let Some(entry) = self.entries.back() {
            let begins = entry.batch.first_position;
            let keep = (first.saturating_sub(begins) as usize).clamp(entry.done, entry.batch.len());
            if keep == entry.batch.len() {
                break;
            }
            let run = Ended {
                batch: entry.batch.clone(),
                range: keep..entry.batch.len(),
                dwell: entry.dwell,
                settle: entry.settle,
            };
            self.n -= run.range.len() as u64;
            self.work_ns -= run.work_ns();
            let entry = self.entries.pop_back().expect("it was there");
            if keep > entry.done {
                self.put_back(entry, keep);
                ended.push(run);
                break;
            }
            ended.push(run);
        }
        ended.reverse();
        ended
    }

    fn put_back(&mut self, entry: Entry, keep: usize) {
        let batch = slice(&entry.batch, 0..keep);
        self.entries.push_back(Entry {
            dwell: uniform(&batch.dwell_ns),
            settle: uniform(&batch.settle_ns),
            batch: Arc::new(batch),
            ..entry
        });
    }
}

/// Positions `range` of `batch` as a batch of their own.
pub(crate) fn slice(batch: &PositionBatch, range: Range<usize>) -> PositionBatch {
    PositionBatch {
        first_position: batch.first_position + range.start as u64,
        frame: batch.frame,
        revision: batch.revision,
        row: batch.row[range.clone()].to_vec(),
        col: batch.col[range.clone()].to_vec(),
        dwell_ns: batch.dwell_ns[range.clone()].to_vec(),
        settle_ns: batch.settle_ns[range].to_vec(),
        flags: batch.flags,
    }
}

/// Whether the signals hold `n` positions of `n_detectors` detectors.
pub(crate) fn fits(raw: &RawBlock, n_detectors: usize) -> bool {
    let n = raw.n_positions as usize;
    let values = |signal: &Signal| match signal {
        Signal::Scalar(v) => v.len() == n,
        Signal::Spectrum { n_channels, values } => values.len() == n * *n_channels as usize,
        Signal::Pattern { n_ky, n_kx, values } => {
            values.len() == n * *n_ky as usize * *n_kx as usize
        }
    };
    let flags = match &raw.flags {
        PerPosition::Uniform(_) => true,
        PerPosition::Each(each) => each.len() == n,
    };
    n > 0 && flags && raw.signals.len() == n_detectors && raw.signals.iter().all(values)
}

/// How the electrons of a sample are stated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Counted {
    /// By the current, electrons per ns.
    Rate(f64),
    /// 1 for every sample: noiseless, or the current is unknown.
    One,
}

/// Cuts what came back where a frame ends, so that every part is a block of its own.
pub(crate) fn by_frame(raw: RawBlock, ended: Vec<Ended>) -> Vec<(RawBlock, Vec<Ended>)> {
    if ended
        .windows(2)
        .all(|w| w[0].batch.frame == w[1].batch.frame)
    {
        return vec![(raw, ended)];
    }
    let n = raw.n_positions as usize;
    let (mut at, mut t_ns, mut spent) = (0, raw.t0_ns, 0);
    let mut parts = Vec::new();
    for runs in ended.chunk_by(|a, b| a.batch.frame == b.batch.frame) {
        let len: usize = runs.iter().map(|r| r.range.len()).sum();
        let range = at..at + len;
        let flags: Vec<_> = range.clone().map(|i| raw.flags.at(i)).collect();
        let until = (u128::from(raw.unblanked_outside_ns) * range.end as u128 / n as u128) as u64;
        let block = RawBlock {
            arming: raw.arming,
            first_position: raw.first_position + at as u64,
            n_positions: len as u32,
            t0_ns: t_ns,
            unblanked_outside_ns: until - spent,
            flags: PerPosition::from_slice(&flags),
            signals: raw
                .signals
                .iter()
                .map(|s| part(s, range.clone(), n))
                .collect(),
        };
        parts.push((block, runs.to_vec()));
        at = range.end;
        spent = until;
        t_ns += runs.iter().map(Ended::work_ns).sum::<u64>();
    }
    parts
}

/// Books the positions of `raw` and joins it with what was commanded. All of one frame.
pub(crate) fn join(
    raw: RawBlock,
    runs: &[Ended],
    ledger: &mut Ledger,
    counted: Counted,
    sequence: u64,
) -> SampleBlock {
    let n = raw.n_positions as usize;
    let whole = raw.unblanked_outside_ns;
    let (mut booked, mut at) = (0, 0);
    for run in runs {
        at += run.range.len();
        let until = (u128::from(whole) * at as u128 / n as u128) as u64;
        ledger.book(&run.batch, run.range.clone(), until - booked);
        booked = until;
    }
    let edges = ledger.edges();
    let comes_on = |run: &Ended| {
        let flags = run.batch.flags;
        flags.blank_settle && !flags.dark && counted != Counted::One
    };
    let outside = |run: &Ended| match counted {
        Counted::Rate(rate) if comes_on(run) => (whole as f64 / n as f64 + edges.tail_ns()) * rate,
        Counted::Rate(rate) => whole as f64 * rate / n as f64,
        Counted::One => 0.0,
    };
    let electrons = |run: &Ended, dwell_ns: u32| match counted {
        Counted::Rate(_) if run.batch.flags.dark => 0.0,
        Counted::Rate(rate) if comes_on(run) => edges.lit_ns(dwell_ns) * rate,
        Counted::Rate(rate) => f64::from(dwell_ns) * rate,
        Counted::One if run.batch.flags.dark => 0.0,
        Counted::One => 1.0,
    } as f32;
    let special = |run: &Ended| match comes_on(run) {
        true => SampleFlags::FROM_DARK,
        false => SampleFlags::default(),
    };
    SampleBlock {
        sequence,
        first_position: raw.first_position,
        frame: runs[0].batch.frame,
        t0_ns: raw.t0_ns,
        row: gather(runs, |b| &b.row),
        col: gather(runs, |b| &b.col),
        row_actual: Vec::new(),
        col_actual: Vec::new(),
        path_covariance: Vec::new(),
        electrons: per_position(
            runs,
            |run| run.dwell.map(|ns| electrons(run, ns)),
            |run, i| electrons(run, run.batch.dwell_ns[i]),
        ),
        dwell_ns: times(runs, |b| &b.dwell_ns, |r| r.dwell),
        settle_ns: times(runs, |b| &b.settle_ns, |r| r.settle),
        electrons_outside: per_position(
            runs,
            |run| Some(outside(run) as f32),
            |run, _| outside(run) as f32,
        ),
        flags: marked(
            raw.flags,
            &per_position(runs, |run| Some(special(run)), |run, _| special(run)),
            n,
        ),
        signals: raw.signals,
    }
}

/// The value that the runs share, or that of each position.
fn per_position<T: Copy + PartialEq>(
    runs: &[Ended],
    shared: impl Fn(&Ended) -> Option<T>,
    of: impl Fn(&Ended, usize) -> T,
) -> PerPosition<T> {
    match runs.first().and_then(&shared) {
        Some(value) if runs.iter().all(|run| shared(run) == Some(value)) => {
            PerPosition::Uniform(value)
        }
        _ => PerPosition::Each(
            runs.iter()
                .flat_map(|run| run.range.clone().map(|i| of(run, i)))
                .collect(),
        ),
    }
}

/// What the device says of `n` positions and what the host knows of them.
fn marked(
    said: PerPosition<SampleFlags>,
    known: &PerPosition<SampleFlags>,
    n: usize,
) -> PerPosition<SampleFlags> {
    match (&said, known) {
        (_, PerPosition::Uniform(none)) if *none == SampleFlags::default() => said,
        (PerPosition::Uniform(a), PerPosition::Uniform(b)) => PerPosition::Uniform(a.union(*b)),
        _ => PerPosition::Each((0..n).map(|i| said.at(i).union(known.at(i))).collect()),
    }
}

fn gather(runs: &[Ended], of: fn(&PositionBatch) -> &Vec<f32>) -> Vec<f32> {
    match runs {
        [one] => of(&one.batch)[one.range.clone()].to_vec(),
        _ => {
            let parts: Vec<&[f32]> = runs
                .iter()
                .map(|r| &of(&r.batch)[r.range.clone()])
                .collect();
            parts.concat()
        }
    }
}

fn times(
    runs: &[Ended],
    of: fn(&PositionBatch) -> &Vec<u32>,
    shared: fn(&Ended) -> Option<u32>,
) -> PerPosition<u32> {
    match runs {
        [one] => match shared(one) {
            Some(value) => PerPosition::Uniform(value),
            None => PerPosition::from_slice(&of(&one.batch)[one.range.clone()]),
        },
        _ => {
            let parts: Vec<&[u32]> = runs
                .iter()
                .map(|r| &of(&r.batch)[r.range.clone()])
                .collect();
            PerPosition::from_slice(&parts.concat())
        }
    }
}

fn part(signal: &Signal, range: Range<usize>, n: usize) -> Signal {
    let cut = |values: &[f32]| {
        let each = values.len() / n;
        values[range.start * each..range.end * each].to_vec()
    };
    match signal {
        Signal::Scalar(values) => Signal::Scalar(cut(values)),
        Signal::Spectrum { n_channels, values } => Signal::Spectrum {
            n_channels: *n_channels,
            values: cut(values),
        },
        Signal::Pattern { n_ky, n_kx, values } => Signal::Pattern {
            n_ky: *n_ky,
            n_kx: *n_kx,
            values: cut(values),
        },
    }
}
