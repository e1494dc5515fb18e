//! A journal run again: the same state machine, policy and estimator on the recorded inputs.
//!
//! Everything that was decided, submitted, joined and estimated is made anew and compared bit for bit. On another kernel
//! variant than the recorded one estimates may differ in the last bits; [`Report::kernel_matches`] says so.

use crate::core::{Action, Ask, Core, Event, Settings, Totals};
use crate::parts::deciding::{Decider, digest};
use crate::parts::estimating::{self, Estimator};
use crate::parts::journal::{FINISH_BIT, device_event, part_of, raw_block, raw_gap_input};
use crate::parts::{recon_kernel, recording};
use crate::{AcquisitionId, Command, Decision, Error, Grant, LeaseEpoch, Prepared, RecorderState};
use domain::{BatchId, ColumnState, Current, Estimate, Gap, PositionBatch, SampleBlock};
use hal::{RawBlock, TripId};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::{JournalReader, Record};

/// Differences that are told in words.
const TOLD: usize = 16;
/// Estimates kept for a policy whose decisions saw an older one.
const KEPT: usize = 8;

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Records read.
    pub n_records: u64,
    /// Batches that were submitted again, equal in every bit.
    pub n_batches: u64,
    /// Blocks that were joined again, equal in every bit.
    pub n_blocks: u64,
    /// Gaps that were booked again.
    pub n_gaps: u64,
    /// Decisions that were made again.
    pub n_decisions: u64,
    /// Estimates that were made again.
    pub n_estimates: u64,
    /// Digests of the final estimate of each frame: recorded, made again.
    pub digests: Vec<(u64, u64)>,
    /// Whether the kernels are those of the recording.
    pub kernel_matches: bool,
    /// Whether the journal has its last record.
    pub is_finished: bool,
    /// Differences found.
    pub n_differences: u64,
    /// The first of them, in words.
    pub differences: Vec<String>,
}

impl Report {
    /// Whether everything is as recorded.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.n_differences == 0
    }

    fn differ(&mut self, what: impl FnOnce() -> String) {
        self.n_differences += 1;
        if self.differences.len() < TOLD {
            self.differences.push(what());
        }
    }
}

/// Replays the journal of the data set at `path` (the directory, or the journal itself).
pub fn replay(path: &Path) -> Result<Report, Error> {
    let failed = |e: store::Error| Error::Recording {
        cause: e.to_string(),
    };
    let file = if path.is_dir() {
        store::journal_path(path)
    } else {
        path.to_owned()
    };
    let mut reader = JournalReader::open(&file).map_err(failed)?;
    let header = reader.header().clone();
    let (mut prepared, settings, estimates) = recording::from_header(&header)?;
    let directory = file.parent().unwrap_or(Path::new("."));
    prepared.given = recording::given_of(&header, directory).map_err(failed)?;
    let mut again = Again::new(prepared, settings, estimates, &header.kernel)?;
    while let Some(record) = reader.next_record().map_err(failed)? {
        again.report.n_records += 1;
        again.record(record);
    }
    Ok(again.report)
}

struct Again {
    report: Report,
    core: Core,
    prepared: Arc<Prepared>,
    decider: Decider,
    estimator: Option<Estimator>,
    /// Blocks not yet absorbed.
    pending: VecDeque<Arc<SampleBlock>>,
    estimates: VecDeque<Estimate>,
    /// How many of them, at most.
    kept: usize,
    asks: Vec<Ask>,
    submitted: VecDeque<Arc<PositionBatch>>,
    joined: VecDeque<Arc<SampleBlock>>,
    gaps: VecDeque<Gap>,
    totals: Option<Totals>,
    /// Blocks that came as one, and how many are still to be read.
    merging: Option<(u64, Vec<store::BlockRecord>)>,
    begun: bool,
}

impl Again {
    fn new(
        prepared: Prepared,
        settings: Settings,
        estimates: bool,
        kernel: &str,
    ) -> Result<Self, Error> {
        let prepared = Arc::new(prepared);
        let kernel_used = recon_kernel(kernel);
        let estimator = if estimates {
            Estimator::new(&prepared, 1, kernel_used, u64::MAX, std::env::temp_dir())?
        } else {
            None
        };
        let report = Report {
            kernel_matches: kernel_used.variant() == kernel,
            ..Report::default()
        };
        Ok(Self {
            report,
            core: Core::new(settings),
            decider: Decider::new(&prepared)?,
            kept: if prepared.plan.pattern.is_policy() {
                KEPT
            } else {
                1
            },
            prepared,
            estimator,
            pending: VecDeque::new(),
            estimates: VecDeque::new(),
            asks: Vec::new(),
            submitted: VecDeque::new(),
            joined: VecDeque::new(),
            gaps: VecDeque::new(),
            totals: None,
            merging: None,
            begun: false,
        })
    }

    fn record(&mut self, record: Record) {
        let now = Duration::from_nanos(record.t_ns().unwrap_or(0));
        match record {
            Record::Batch(recorded) => match self.submitted.pop_front() {
                Some(made) if made == recorded.positions => self.report.n_batches += 1,
                made => self.report.differ(|| {
                    let first = recorded.positions.first_position;
                    let n = made.map_or(0, |m| m.len());
                    format!(
                        "batch at position {first}: {} positions recorded, {n} made",
                        recorded.positions.len()
                    )
                }),
            },
            Record::Block(recorded) => self.block(recorded, now),
            Record::Gap(recorded) => match self.gaps.pop_front() {
                Some(made) if made == recorded.gap => self.report.n_gaps += 1,
                made => self
                    .report
                    .differ(|| format!("gap {:?} recorded, {made:?} made", recorded.gap)),
            },
            Record::Event { event, .. } => self.event(event, now),
            Record::Finish { finish, .. } => {
                self.report.is_finished = true;
                let made = self.totals.as_ref().map(recording::finish_of);
                if made.as_ref() != Some(&finish) {
                    self.report
                        .differ(|| format!("{finish:?} recorded, {made:?} made"));
                }
            }
            Record::Unknown { code } => self
                .report
                .differ(|| format!("record of unknown type {code}")),
        }
    }

    fn block(&mut self, recorded: store::BlockRecord, now: Duration) {
        self.pending.push_back(recorded.block.clone());
        let sequence = recorded.block.sequence;
        let parts = match &mut self.merging {
            Some((left, parts)) => {
                parts.push(recorded);
                *left -= 1;
                if *left > 0 {
                    return;
                }
                self.merging
                    .take()
                    .map_or_else(Vec::new, |(_, parts)| parts)
            }
            None => vec![recorded],
        };
        let mut raw = merged(&parts);
        // The device's clock began anew with the arming.
        raw.t0_ns = raw.t0_ns.saturating_sub(self.core.armed_ns());
        self.feed(Event::Device(hal::Event::Samples(raw)), now);
        let made: Vec<_> = self.joined.drain(..).collect();
        if made.len() == parts.len() && made.iter().zip(&parts).all(|(m, p)| *m == p.block) {
            self.report.n_blocks += made.len() as u64;
        } else {
            self.report
                .differ(|| format!("block {sequence} is joined differently"));
        }
    }

    fn feed(&mut self, event: Event, now: Duration) {
        let mut actions = Vec::new();
        self.core.on(event, now, &mut actions);
        for action in actions {
            match action {
                Action::Submit { positions, .. } => self.submitted.push_back(positions),
                Action::Block { block, .. } => self.joined.push_back(block),
                Action::Gap { gap, .. } => self.gaps.push_back(gap),
                Action::Decide(ask) => self.asks.push(ask),
                Action::Close(totals) => self.totals = Some(totals),
                _ => {}
            }
        }
    }

    fn command(&mut self, command: Command, epoch: u64, now: Duration) {
        let event = Event::Command {
            command,
            epoch: LeaseEpoch(epoch),
            ticket: 0,
        };
        self.feed(event, now);
    }

    /// The command that opened the acquisition is the first record.
    fn begin(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.begun, true) {
            self.command(Command::Create(self.prepared.clone()), 0, now);
        }
    }

    fn event(&mut self, event: store::Event, now: Duration) {
        let id = self.prepared.id.clone();
        match event {
            store::Event::Tick => self.feed(Event::Tick, now),
            store::Event::Command {
                command,
                lease_epoch,
                ..
            } => {
                self.begin(now);
                let command = match command {
                    store::Command::Start => Command::Start(id),
                    store::Command::Pause => Command::Pause(id),
                    store::Command::Resume => Command::Resume(id),
                    store::Command::Abort => Command::Abort(id),
                    store::Command::Blank => Command::Blank,
                    store::Command::ClearTrip(trip) => Command::ClearTrip(TripId(trip)),
                };
                self.command(command, lease_epoch, now);
            }
            store::Event::Estimate {
                revision,
                blocks,
                quota,
                left,
            } => self.estimate(revision, blocks, quota, left),
            store::Event::Input { name, values, text } => self.input(&name, &values, text, now, id),
            // Notes and states are for people.
            other => {
                if let Some(event) = device_event(&other) {
                    self.feed(Event::Device(event), now);
                }
            }
        }
    }

    fn compare_estimate(&mut self, frame: u64, recorded: u64) {
        let made = self.estimates.back().map_or(0, estimating::digest);
        self.report.digests.push((recorded, made));
        if made != recorded && self.report.kernel_matches {
            self.report
                .differ(|| format!("the final estimate of frame {frame} differs"));
        }
    }

    fn input(
        &mut self,
        name: &str,
        values: &[u64],
        text: String,
        now: Duration,
        id: AcquisitionId,
    ) {
        let value = |i: usize| values.get(i).copied().unwrap_or(0);
        match name {
            "arm" => {
                self.begin(now);
                self.command(Command::Arm(id), value(0), now);
            }
            // Nobody's lease is asked: a command of its own among the inputs.
            "shutdown" => {
                self.begin(now);
                self.command(Command::Shutdown, 0, now);
            }
            "grant" => {
                let grant = grant(values);
                self.command(Command::Grant(grant), 0, now);
            }
            "column" => {
                let column = column(values);
                self.command(Command::Column(column), 0, now);
            }
            "answer" => {
                let decision = answer(id, values);
                self.command(Command::Decide(decision), value(3), now);
            }
            "opened" => self.feed(Event::Opened(Ok(())), now),
            "link_down" => self.feed(Event::LinkDown { reason: text }, now),
            "link_up" => self.feed(Event::LinkUp, now),
            "unsent" => {
                let first_position = value(0);
                self.feed(Event::Unsent { first_position }, now);
            }
            "estimated" => {
                let judged = values.iter().skip(1);
                let event = Event::Estimated {
                    n_visited: 0,
                    revision: value(0),
                    achieved: judged.map(|bits| f64::from_bits(*bits)).collect(),
                };
                self.feed(event, now);
            }
            "recorder" => {
                let state = match value(0) {
                    0 => RecorderState::Off,
                    1 => RecorderState::Alive,
                    2 => RecorderState::Stalled,
                    _ => RecorderState::Failed { cause: text },
                };
                self.feed(Event::Recorder(state), now);
            }
            "panicked" => {
                let part = part_of(&text);
                self.feed(Event::Panicked { part }, now);
            }
            "gap" => self.feed(Event::Device(hal::Event::Gap(raw_gap_input(values))), now),
            "slip" => self.feed(Event::Device(hal::Event::Samples(slipped(values))), now),
            "split" => self.merging = Some((value(0), Vec::new())),
            "decided" => self.decided(values, now),
            "estimate_digest" => self.compare_estimate(value(0), value(1)),
            other => self
                .report
                .differ(|| format!("input of unknown name {other}")),
        }
    }

    fn decided(&mut self, values: &[u64], now: Duration) {
        let [batch, n, revision, recorded] = *values else {
            self.report
                .differ(|| "a decision without its digest".into());
            return;
        };
        let Some(at) = self.asks.iter().position(|a| a.batch == BatchId(batch)) else {
            self.report
                .differ(|| format!("decision {batch} was recorded but not asked for"));
            return;
        };
        let ask = self.asks.remove(at);
        let estimate = self.estimates.iter().find(|e| e.revision == revision);
        let positions = self.decider.decide(&ask, estimate);
        if positions.len() as u64 == n && digest(&positions) == recorded {
            self.report.n_decisions += 1;
        } else {
            self.report
                .differ(|| format!("decision {batch} is made differently"));
        }
        self.feed(
            Event::Decided {
                batch: BatchId(batch),
                positions,
            },
            now,
        );
    }

    fn estimate(&mut self, revision: u64, blocks: u64, quota: u64, left: u64) {
        let Some(estimator) = &mut self.estimator else {
            return;
        };
        while self.pending.front().is_some_and(|b| b.sequence < blocks) {
            let Some(block) = self.pending.pop_front() else {
                break;
            };
            if estimator.ends_frame(&block) && estimator.next_frame(block.frame).is_err() {
                self.report
                    .differ(|| format!("no estimator for frame {}", block.frame));
                return;
            }
            estimator.absorb(&block);
        }
        let (op, estimate) = estimator.work(quota, revision > 0);
        if op.revision != revision || op.left != left {
            self.report.differ(|| {
                format!(
                    "estimate {revision} (left {left}) recorded, {} (left {}) made",
                    op.revision, op.left
                )
            });
        }
        if let Some(estimate) = estimate {
            self.report.n_estimates += 1;
            while self.estimates.len() >= self.kept {
                self.estimates.pop_front();
            }
            self.estimates.push_back(estimate);
        }
    }
}

/// Blocks that came back as one.
fn merged(parts: &[store::BlockRecord]) -> RawBlock {
    let mut raws = parts.iter().map(raw_block);
    let Some(mut whole) = raws.next() else {
        return slipped(&[]);
    };
    for raw in raws {
        let n = whole.n_positions as usize;
        let mut flags: Vec<_> = whole.flags.iter(n).collect();
        flags.extend(raw.flags.iter(raw.n_positions as usize));
        whole.flags = domain::PerPosition::from_slice(&flags);
        whole.n_positions += raw.n_positions;
        whole.unblanked_outside_ns += raw.unblanked_outside_ns;
        for (all, more) in whole.signals.iter_mut().zip(raw.signals) {
            append(all, more);
        }
    }
    whole
}

fn append(all: &mut domain::Signal, more: domain::Signal) {
    use domain::Signal::{Pattern, Scalar, Spectrum};
    match (all, more) {
        (Scalar(a), Scalar(b)) => a.extend(b),
        (Spectrum { values: a, .. }, Spectrum { values: b, .. })
        | (Pattern { values: a, .. }, Pattern { values: b, .. }) => a.extend(b),
        _ => {}
    }
}

fn slipped(values: &[u64]) -> RawBlock {
    let value = |i: usize| values.get(i).copied().unwrap_or(0);
    RawBlock {
        arming: hal::Arming {
            session: value(0) as u32,
            counter: value(1) as u32,
        },
        first_position: value(2),
        n_positions: value(3) as u32,
        t0_ns: 0,
        unblanked_outside_ns: 0,
        flags: domain::PerPosition::Uniform(domain::SampleFlags::default()),
        // None: it does not fit, whatever was wrong with it.
        signals: Vec::new(),
    }
}

fn grant(values: &[u64]) -> Grant {
    let value = |i: usize| values.get(i).copied().unwrap_or(0);
    match value(0) {
        0 => Grant::Open,
        1 => Grant::Lease {
            epoch: LeaseEpoch(value(1)),
            until: Duration::from_nanos(value(2)),
        },
        _ => Grant::Nobody {
            after: LeaseEpoch(value(1)),
        },
    }
}

fn column(values: &[u64]) -> ColumnState {
    let value = |i: usize| values.get(i).copied().unwrap_or(0);
    ColumnState {
        probe_current: Current::from_picoamperes(f64::from_bits(value(0))).ok(),
        valves_open: match value(1) {
            2 => None,
            open => Some(open == 1),
        },
        ..ColumnState::default()
    }
}

fn answer(acquisition: AcquisitionId, values: &[u64]) -> Decision {
    let value = |i: usize| values.get(i).copied().unwrap_or(0);
    let mut positions = PositionBatch {
        revision: value(2),
        ..PositionBatch::default()
    };
    for pair in values.get(4..).unwrap_or_default().chunks_exact(2) {
        let place = |bits: u64| f32::from_bits(bits as u32);
        positions.push(
            place(pair[0] >> 32),
            place(pair[0]),
            (pair[1] >> 32) as u32,
            pair[1] as u32,
        );
    }
    Decision {
        acquisition,
        batch: BatchId(value(0)),
        positions,
        finish: value(1) >> FINISH_BIT != 0,
    }
}
