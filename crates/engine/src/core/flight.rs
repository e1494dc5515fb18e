//! Positions on their way: from submission until each has ended as a sample or in a gap.
//!
//! The controller answers in order, each position exactly once. Anything else is a slip.

use super::ledger::{Edges, Ledger};
use domain::{PerPosition, PositionBatch, PositionFlags, SampleBlock, SampleFlags, Signal};
use hal::{Arming, RawBlock};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug)]
struct Entry {
    batch: Arc<PositionBatch>,
    done: usize,
}

/// A run of positions that ended together, of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) batch: Arc<PositionBatch>,
    pub(crate) range: Range<usize>,
}

impl Ended {
    /// Settle and dwell time of all its positions, ns.
    pub(crate) fn work_ns(&self) -> u64 {
        self.batch.work_ns(self.range.clone())
    }

    /// Dwell time with the beam on, ns.
    pub(crate) fn lit_ns(&self) -> u64 {
        match self.batch.flags.dark {
            true => 0,
            false => self.batch.dwell_ns.sum(self.range.clone()),
        }
    }
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
        self.arming = Some(arming);
        if self.entries.is_empty() {
            self.next = batch.first_position;
        }
        self.n += batch.len() as u64;
        self.work_ns += batch.work_ns(0..batch.len());
        self.entries.push_back(Entry { batch, done: 0 });
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
        dwell_ns: batch.dwell_ns.slice(range.clone()),
        settle_ns: batch.settle_ns.slice(range),
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

/// Where the beam time outside the dwells was spent: by what is expected of each position, which is also how it was
/// limited; evenly where nothing is.
#[derive(Debug, Clone, Copy)]
struct Shares {
    edges: Edges,
    /// Beam time that the device counted outside dwells, ns.
    whole_ns: u64,
    /// What was expected of all positions, ns.
    expected_ns: u64,
    /// Positions.
    n: u64,
}

/// Beam time that is expected of the runs outside their dwells, ns.
fn expected_ns(runs: &[Ended], edges: Edges) -> u64 {
    runs.iter()
        .map(|run| edges.sum(&run.batch, run.range.clone()).outside_ns)
        .sum()
}

impl Shares {
    fn of(raw: &RawBlock, runs: &[Ended], edges: Edges) -> Self {
        Self {
            edges,
            whole_ns: raw.unblanked_outside_ns,
            expected_ns: expected_ns(runs, edges),
            n: raw.n_positions.into(),
        }
    }

    /// What fell to `n` positions of which `expected_ns` were expected, ns.
    fn ns(&self, expected_ns: u64, n: u64) -> u64 {
        let (part, of) = match self.expected_ns {
            0 => (n, self.n),
            all => (expected_ns, all),
        };
        (u128::from(self.whole_ns) * u128::from(part) / u128::from(of)) as u64
    }

    /// Books the runs, each with what fell to it.
    fn book(&self, runs: &[Ended], ledger: &mut Ledger) {
        let (mut booked, mut expected, mut at) = (0, 0, 0);
        for run in runs {
            at += run.range.len() as u64;
            expected += expected_ns(std::slice::from_ref(run), self.edges);
            let until = self.ns(expected, at);
            ledger.book(&run.batch, run.range.clone(), until - booked);
            booked = until;
        }
    }

    /// What fell to one position that settled for `settle_ns`, ns.
    fn one_ns(&self, settle_ns: u32, flags: PositionFlags) -> f64 {
        match self.expected_ns {
            0 => self.whole_ns as f64 / self.n as f64,
            all => {
                let expected = self.edges.cost(0, settle_ns, flags).outside_ns;
                self.whole_ns as f64 * expected as f64 / all as f64
            }
        }
    }
}

/// Cuts what came back where a frame ends, so that every part is a block of its own.
pub(crate) fn by_frame(
    raw: RawBlock,
    ended: Vec<Ended>,
    edges: Edges,
) -> Vec<(RawBlock, Vec<Ended>)> {
    if ended
        .windows(2)
        .all(|w| w[0].batch.frame == w[1].batch.frame)
    {
        return vec![(raw, ended)];
    }
    let n = raw.n_positions as usize;
    let shares = Shares::of(&raw, &ended, edges);
    let (mut at, mut t_ns, mut expected, mut spent) = (0, raw.t0_ns, 0, 0);
    let mut parts = Vec::new();
    for runs in ended.chunk_by(|a, b| a.batch.frame == b.batch.frame) {
        let len: usize = runs.iter().map(|r| r.range.len()).sum();
        let range = at..at + len;
        let flags: Vec<_> = range.clone().map(|i| raw.flags.at(i)).collect();
        expected += expected_ns(runs, edges);
        let until = shares.ns(expected, range.end as u64);
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
    let edges = ledger.edges();
    let shares = Shares::of(&raw, runs, edges);
    shares.book(runs, ledger);
    let comes_on = |run: &Ended| {
        let flags = run.batch.flags;
        flags.blank_settle && !flags.dark && counted != Counted::One
    };
    let outside = |run: &Ended, settle_ns: u32| {
        let ns = || shares.one_ns(settle_ns, run.batch.flags);
        match counted {
            Counted::Rate(rate) if comes_on(run) => ((ns() + edges.tail_ns()) * rate) as f32,
            Counted::Rate(rate) => (ns() * rate) as f32,
            Counted::One => 0.0,
        }
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
            |run| run.batch.dwell_ns.uniform().map(|ns| electrons(run, ns)),
            |run, i| electrons(run, run.batch.dwell_ns.at(i)),
        ),
        dwell_ns: times(runs, |b| &b.dwell_ns),
        settle_ns: times(runs, |b| &b.settle_ns),
        electrons_outside: per_position(
            runs,
            |run| run.batch.settle_ns.uniform().map(|ns| outside(run, ns)),
            |run, i| outside(run, run.batch.settle_ns.at(i)),
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

fn times(runs: &[Ended], of: fn(&PositionBatch) -> &PerPosition<u32>) -> PerPosition<u32> {
    match runs {
        [one] => of(&one.batch).slice(one.range.clone()),
        _ => match per_position(
            runs,
            |run| of(&run.batch).uniform(),
            |run, i| of(&run.batch).at(i),
        ) {
            PerPosition::Each(values) => PerPosition::from_slice(&values),
            same @ PerPosition::Uniform(_) => same,
        },
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
