//! Positions between `submit` and their outcome: converted once, packed when there is credit, kept until the samples are back.
//!
//! A batch keeps its DAC codes until they are packed and its times until every position has its outcome: the times say how long
//! a run of samples took (so that a pause is seen), and what a lost sample cost in beam time. Batches are recycled.

use crate::{PositionTransform, TickScale};
use domain::{Invalid, PerPosition, PositionBatch, SampleFlags};
use std::collections::VecDeque;
use wire::{DacPoint, PositionFlags, PositionRecord, PositionRecords, Timing, UniformPositions};

/// A run of equal times at least so long is packed as such: 4 bytes a position instead of 14, for a packet of its own.
const UNIFORM_RUN_MIN: usize = 32;

/// Batches of equal times grow together up to so many positions.
const MERGED_MAX: usize = 16_384;

/// Settle and dwell ticks of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Uniform { settle: u32, dwell: u32 },
    Each,
}

#[derive(Debug)]
struct Batch {
    first: u64,
    flags: PositionFlags,
    times: Times,
    points: Vec<DacPoint>,
    /// Ticks, one per position if `times` is `Each`.
    settle: Vec<u32>,
    dwell: Vec<u32>,
}

/// Sums over consecutive positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// Settle and dwell ticks.
    pub(super) ticks: u64,
    /// Ticks that the beam is commanded on, settling and dwelling.
    pub(super) unblanked_ticks: u64,
}

/// The ranges of an arming's times, ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    pub(super) dwell: [u32; 2],
    pub(super) settle_max: u32,
}

/// All positions of an arming that were submitted and have no outcome yet.
#[derive(Debug, Default)]
pub(super) struct Staging {
    batches: VecDeque<Batch>,
    /// Index of the next position that will be submitted.
    end: u64,
    /// Index of the next position that will be packed.
    next: u64,
    /// Index in `batches` of the one that `next` lies in.
    cursor: usize,
    pool: Vec<Batch>,
    records: Vec<PositionRecord>,
}

impl Staging {
    /// Forgets everything; the next position has index `first`.
    pub(super) fn restart(&mut self, first: u64) {
        self.pool.extend(self.batches.drain(..));
        self.pool.truncate(64);
        (self.end, self.next, self.cursor) = (first, first, 0);
    }

    /// Index of the next position that will be submitted.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Index of the next position that will be packed.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Positions that wait to be packed.
    pub(super) fn n_waiting(&self) -> u64 {
        self.end - self.next
    }

    /// Counts positions that will never be packed, because the arming has ended.
    pub(super) fn skip(&mut self, n: u64) {
        self.end += n;
    }

    /// Converts a batch and takes it in; refuses all of it if one position or time is out of range.
    pub(super) fn push(
        &mut self,
        batch: &PositionBatch,
        transform: &PositionTransform,
        scale: &TickScale,
        limits: TimeLimits,
    ) -> Result<(), Invalid> {
        let n = batch.len();
        for (field, len) in [
            ("positions.col", batch.col.len()),
            ("positions.dwell_ns", batch.dwell_ns.len(n)),
            ("positions.settle_ns", batch.settle_ns.len(n)),
        ] {
            if len != n {
                return Err(Invalid::new(
                    field,
                    len,
                    format!("{n} values, as many as rows"),
                ));
            }
        }
        if batch.first_position != self.end {
            let allowed = format!("{}, where the batch before ended", self.end);
            return Err(Invalid::new(
                "positions.first_position",
                batch.first_position,
                allowed,
            ));
        }
        if n == 0 {
            return Ok(());
        }
        let flags = wire_flags(batch.flags);
        let times = match (batch.settle_ns.uniform(), batch.dwell_ns.uniform()) {
            (Some(settle), Some(dwell)) => Some(uniform_times(settle, dwell, scale, limits)?),
            _ => None,
        };
        if let Some(last) = self.growing(times, flags, n) {
            let n_before = last.len();
            last.points.resize(n_before + n, DacPoint::default());
            let result = transform.convert(&batch.row, &batch.col, &mut last.points[n_before..]);
            if result.is_err() {
                last.points.truncate(n_before);
            }
            result?;
        } else {
            let mut staged = self.pool.pop().unwrap_or_else(Batch::empty);
            (staged.first, staged.flags) = (self.end, flags);
            if let Err(refusal) = staged.fill(batch, times, transform, scale, limits) {
                self.pool.push(staged);
                return Err(refusal);
            }
            self.batches.push_back(staged);
        }
        self.end += n as u64;
        Ok(())
    }

    /// The last batch, if `n` positions of these times and flags may be appended: small batches share packets.
    fn growing(
        &mut self,
        times: Option<Times>,
        flags: PositionFlags,
        n: usize,
    ) -> Option<&mut Batch> {
        let is_packed = self.cursor >= self.batches.len();
        self.batches.back_mut().filter(|last| {
            !is_packed
                && Some(last.times) == times
                && last.flags == flags
                && last.len() + n <= MERGED_MAX
        })
    }

    /// The most positions that the next packet can hold, and bytes each: 0 if nothing waits.
    pub(super) fn next_run(&self) -> Option<Run> {
        let batch = self.batches.get(self.cursor)?;
        let at = (self.next - batch.first) as usize;
        let n_left = batch.len() - at;
        let (is_uniform, n) = match batch.times {
            Times::Uniform { .. } => (true, n_left),
            Times::Each => {
                let n = batch.run_len(at, n_left.min(UniformPositions::MAX));
                if n >= UNIFORM_RUN_MIN.min(n_left) && n > 1 {
                    (true, n)
                } else {
                    (
                        false,
                        batch.records_len(at, n_left.min(PositionRecords::MAX)),
                    )
                }
            }
        };
        Some(Run { is_uniform, n })
    }

    /// Writes the payload of a packet with the next `n` positions of a run; returns its length.
    pub(super) fn pack(
        &mut self,
        run: Run,
        payload: &mut [u8],
    ) -> Result<usize, wire::EncodeError> {
        let batch = &self.batches[self.cursor];
        let at = (self.next - batch.first) as usize;
        let points = &batch.points[at..at + run.n];
        let n_bytes = if run.is_uniform {
            UniformPositions::write(self.next, batch.timing(at), points, payload)?
        } else {
            self.records.clear();
            self.records
                .extend(points.iter().enumerate().map(|(i, &point)| {
                    let timing = batch.timing(at + i);
                    PositionRecord {
                        point,
                        settle_ticks: timing.settle_ticks,
                        dwell_ticks: timing.dwell_ticks,
                        flags: timing.flags,
                    }
                }));
            PositionRecords::write(self.next, &self.records, payload)?
        };
        self.next += run.n as u64;
        if at + run.n == batch.len() {
            self.cursor += 1;
        }
        Ok(n_bytes)
    }

    /// Sums over positions `first..first + n`, which were submitted and have no outcome yet.
    pub(super) fn span(&self, first: u64, n: u64) -> Span {
        let mut span = Span::default();
        let end = first + n;
        let begin = self.batches.partition_point(|b| b.end() <= first);
        for batch in self.batches.range(begin..).take_while(|b| b.first < end) {
            let from = first.max(batch.first) - batch.first;
            let to = end.min(batch.end()) - batch.first;
            batch.add_to(&mut span, from as usize, to as usize);
        }
        span
    }

    /// What all samples of positions `first..first + n` have in common, if they are all alike in that.
    pub(super) fn sample_flags(&self, first: u64) -> SampleFlags {
        let begin = self.batches.partition_point(|b| b.end() <= first);
        match self.batches.get(begin) {
            Some(batch) if batch.flags.contains(PositionFlags::BLANKED) => SampleFlags::DARK,
            _ => SampleFlags::default(),
        }
    }

    /// End of the stretch of equal sample flags that `first` lies in.
    pub(super) fn same_flags_end(&self, first: u64) -> u64 {
        let flags = self.sample_flags(first);
        let begin = self.batches.partition_point(|b| b.end() <= first);
        let is_same = |b: &Batch| {
            b.flags.contains(PositionFlags::BLANKED) == flags.contains(SampleFlags::DARK)
        };
        self.batches
            .range(begin..)
            .take_while(|b| is_same(b))
            .last()
            .map_or(u64::MAX, Batch::end)
    }

    /// Positions before `next_outcome` have their outcome: their batches are recycled.
    pub(super) fn release(&mut self, next_outcome: u64) {
        while self.cursor > 0
            && self
                .batches
                .front()
                .is_some_and(|b| b.end() <= next_outcome)
        {
            if let Some(batch) = self.batches.pop_front() {
                if self.pool.len() < 64 {
                    self.pool.push(batch);
                }
                self.cursor -= 1;
            }
        }
    }
}

/// What goes into one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) is_uniform: bool,
    pub(super) n: usize,
}

impl Run {
    /// Bytes of the payload before the positions, and per position.
    pub(super) const fn sizes(self) -> (usize, usize) {
        if self.is_uniform {
            (UniformPositions::HEAD_LEN, wire::Points::POINT_LEN)
        } else {
            (PositionRecords::HEAD_LEN, PositionRecord::LEN)
        }
    }

    /// The longest beginning of the run whose payload has at most `n_payload` bytes.
    pub(super) fn within(self, n_payload: usize) -> Self {
        let (head, each) = self.sizes();
        let max = if self.is_uniform {
            UniformPositions::MAX
        } else {
            PositionRecords::MAX
        };
        Self {
            n: self.n.min(max).min(n_payload.saturating_sub(head) / each),
            ..self
        }
    }

    pub(super) const fn payload_len(self) -> usize {
        let (head, each) = self.sizes();
        head + self.n * each
    }
}

impl Batch {
    fn empty() -> Self {
        Self {
            first: 0,
            flags: PositionFlags::NONE,
            times: Times::Each,
            points: Vec::new(),
            settle: Vec::new(),
            dwell: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.points.len()
    }

    fn end(&self) -> u64 {
        self.first + self.len() as u64
    }

    fn fill(
        &mut self,
        batch: &PositionBatch,
        times: Option<Times>,
        transform: &PositionTransform,
        scale: &TickScale,
        limits: TimeLimits,
    ) -> Result<(), Invalid> {
        self.times = times.unwrap_or(Times::Each);
        if times.is_none() {
            self.settle.resize(batch.len(), 0);
            self.dwell.resize(batch.len(), 0);
            fill_settle(&batch.settle_ns, scale, limits, &mut self.settle)?;
            fill_dwell(&batch.dwell_ns, scale, limits, &mut self.dwell)?;
        }
        self.points.resize(batch.len(), DacPoint::default());
        transform.convert(&batch.row, &batch.col, &mut self.points)
    }

    fn timing(&self, i: usize) -> Timing {
        let (settle_ticks, dwell_ticks) = match self.times {
            Times::Uniform { settle, dwell } => (settle, dwell),
            Times::Each => (self.settle[i], self.dwell[i]),
        };
        Timing {
            settle_ticks,
            dwell_ticks,
            flags: self.flags,
        }
    }

    /// Positions from `at` with the times of the one at `at`, at most `n_max`.
    fn run_len(&self, at: usize, n_max: usize) -> usize {
        let (settle, dwell) = (&self.settle[at..at + n_max], &self.dwell[at..at + n_max]);
        let same = |(s, d): (&u32, &u32)| *s == settle[0] && *d == dwell[0];
        settle
            .iter()
            .zip(dwell)
            .take_while(|&times| same(times))
            .count()
    }

    /// Positions from `at` up to where a run worth a packet of its own begins, at most `n_max`.
    fn records_len(&self, at: usize, n_max: usize) -> usize {
        let mut run_start = at;
        for i in at + 1..at + n_max {
            if self.settle[i] != self.settle[run_start] || self.dwell[i] != self.dwell[run_start] {
                run_start = i;
            } else if i + 1 - run_start == UNIFORM_RUN_MIN && run_start > at {
                return run_start - at;
            }
        }
        n_max
    }

    fn add_to(&self, span: &mut Span, from: usize, to: usize) {
        let (settle, dwell) = match self.times {
            Times::Uniform { settle, dwell } => {
                let n = (to - from) as u64;
                (n * u64::from(settle), n * u64::from(dwell))
            }
            Times::Each => {
                let sum = |ticks: &[u32]| ticks.iter().map(|&t| u64::from(t)).sum::<u64>();
                (sum(&self.settle[from..to]), sum(&self.dwell[from..to]))
            }
        };
        span.ticks += settle + dwell;
        span.unblanked_ticks += if self.flags.contains(PositionFlags::BLANKED) {
            0
        } else if self.flags.contains(PositionFlags::BLANK_SETTLING) {
            dwell
        } else {
            settle + dwell
        };
    }
}

fn uniform_times(
    settle_ns: u32,
    dwell_ns: u32,
    scale: &TickScale,
    limits: TimeLimits,
) -> Result<Times, Invalid> {
    let (mut settle, mut dwell) = ([0], [0]);
    fill_settle(&PerPosition::Uniform(settle_ns), scale, limits, &mut settle)?;
    fill_dwell(&PerPosition::Uniform(dwell_ns), scale, limits, &mut dwell)?;
    Ok(Times::Uniform {
        settle: settle[0],
        dwell: dwell[0],
    })
}

fn fill_settle(
    ns: &PerPosition<u32>,
    scale: &TickScale,
    limits: TimeLimits,
    out: &mut [u32],
) -> Result<(), Invalid> {
    fill("settle_ns", ns, scale, [0, limits.settle_max], out)
}

fn fill_dwell(
    ns: &PerPosition<u32>,
    scale: &TickScale,
    limits: TimeLimits,
    out: &mut [u32],
) -> Result<(), Invalid> {
    fill("dwell_ns", ns, scale, limits.dwell, out)
}

fn fill(
    field: &str,
    ns: &PerPosition<u32>,
    scale: &TickScale,
    range: [u32; 2],
    out: &mut [u32],
) -> Result<(), Invalid> {
    let is_good = match ns {
        PerPosition::Each(values) => scale.fill(values, range, out),
        PerPosition::Uniform(value) => {
            let mut ticks = [0];
            let is_good = scale.fill(&[*value], range, &mut ticks);
            out.fill(ticks[0]);
            is_good
        }
    };
    if is_good {
        return Ok(());
    }
    let is_bad = |value: u32| !scale.fill(&[value], range, &mut [0]);
    let idx = ns.iter(out.len()).position(is_bad).unwrap_or(0);
    let [min, max] = range.map(|ticks| scale.ns(u64::from(ticks)));
    Err(Invalid::new(
        format!("positions[{idx}].{field}"),
        ns.at(idx),
        format!("{min} to {max} ns on this controller"),
    ))
}

fn wire_flags(flags: domain::PositionFlags) -> PositionFlags {
    let pick = |is_set, flag| if is_set { flag } else { PositionFlags::NONE };
    pick(flags.blank_settle, PositionFlags::BLANK_SETTLING)
        .with(pick(
            flags.integrate_settle,
            PositionFlags::INTEGRATE_SETTLING,
        ))
        .with(pick(flags.dark, PositionFlags::BLANKED))
}

#[cfg(test)]
mod tests;
