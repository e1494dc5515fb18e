//! Reading a journal while it grows.
//!
//! A stream of samples is served from the journal alone: from its beginning until it has caught up, then as it
//! grows. Each stream has a thread and a file of its own, so a slow client skips nothing and slows nobody, and
//! what is served is what was recorded, bit for bit.

use domain::{Detector, Invalid};
use engine::{Handle, Slot, Status as EngineStatus};
use proto::v1::stream_samples_response::Event;
use proto::{ChunkOptions, Gathering, proto_from_gap, v1};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::{JournalReader, Record};

/// Read ahead of the records. What is longer, as a block of samples, is read to where it is decoded, without a stop here.
const BUFFER_BYTES: usize = 1 << 13;
/// Longest wait without looking whether the reader is still wanted.
const TURN: Duration = Duration::from_millis(100);

/// Where a journal is, and whether it still grows.
#[derive(Clone)]
pub(crate) struct Source {
    /// Id of the acquisition.
    pub(crate) id: String,
    /// Its journal; where it will be, for an acquisition that is not armed yet.
    pub(crate) journal: PathBuf,
    /// The engine, where the acquisition is of this session.
    pub(crate) engine: Option<Handle>,
}

/// What ends a wait.
#[derive(Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the reading at its next wait.
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Source {
    /// Whether more may be written.
    pub(crate) fn is_live(&self) -> bool {
        let Some(engine) = &self.engine else {
            return false;
        };
        engine
            .acquisition(&self.id)
            .is_ok_and(|acquisition| !acquisition.state.is_final())
    }

    /// Length of the journal so far, bytes.
    fn n_bytes(&self) -> u64 {
        std::fs::metadata(&self.journal).map_or(0, |file| file.len())
    }

    /// Opens the journal; waits for it where the acquisition is not armed yet. `None`: it ended without one, or the
    /// wait was cancelled. `stored_only`: does not wait for more than there is.
    pub(crate) fn open(
        &self,
        stored_only: bool,
        cancel: &Cancel,
    ) -> Result<Option<JournalReader<BufReader<Following>>>, store::Error> {
        let slot = self.engine.as_ref().map(Handle::status_slot);
        let mut version = 0;
        loop {
            let live = !stored_only && self.is_live();
            match self.try_open(stored_only, cancel) {
                Ok(reader) => return Ok(Some(reader)),
                Err(error) if !live && !self.journal.exists() => {
                    return match self.engine {
                        Some(_) => Ok(None),
                        None => Err(error),
                    };
                }
                Err(error) if !live => return Err(error),
                Err(_) if cancel.is_cancelled() => return Ok(None),
                Err(_) => wait(slot.as_ref(), &mut version),
            }
        }
    }

    fn try_open(
        &self,
        stored_only: bool,
        cancel: &Cancel,
    ) -> Result<JournalReader<BufReader<Following>>, store::Error> {
        let file = File::open(&self.journal).map_err(|source| store::Error::Io {
            path: self.journal.clone(),
            source,
        })?;
        let following = Following {
            file,
            source: self.clone(),
            stored_only,
            cancel: cancel.clone(),
            slot: self.engine.as_ref().map(Handle::status_slot),
            version: 0,
        };
        let buffered = BufReader::with_capacity(BUFFER_BYTES, following);
        JournalReader::new(buffered, u64::MAX, &self.journal)
    }
}

/// A file whose end is reached only when nobody writes to it any more.
pub(crate) struct Following {
    file: File,
    source: Source,
    stored_only: bool,
    cancel: Cancel,
    slot: Option<Slot<EngineStatus>>,
    version: u64,
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let n = self.file.read(buffer)?;
            if n > 0 || self.stored_only || self.cancel.is_cancelled() {
                return Ok(n);
            }
            if !self.source.is_live() {
                // What was written between that reading and the end.
                return self.file.read(buffer);
            }
            wait(self.slot.as_ref(), &mut self.version);
        }
    }
}

fn wait(slot: Option<&Slot<EngineStatus>>, version: &mut u64) {
    if let Some(latest) = slot.and_then(|slot| slot.wait(*version, TURN)) {
        *version = latest.version;
    }
}

/// Which samples are wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// First sequence number.
    pub(crate) from: u64,
    /// Sequence number after the last.
    pub(crate) to: u64,
    /// Detectors by name; empty: all.
    pub(crate) detectors: Vec<String>,
    /// No actual places and no path covariance.
    pub(crate) omit_paths: bool,
    /// Ends when caught up.
    pub(crate) stored_only: bool,
}

/// Sends what is wanted of the journal to `send`, which blocks and answers whether anybody still listens.
///
/// Recorded blocks are gathered into messages for as long as the next record is there already: nothing that is
/// recorded waits for what is not.
pub(crate) fn stream(
    source: &Source,
    wanted: &Wanted,
    cancel: &Cancel,
    send: impl FnMut(Event) -> bool,
) -> Result<(), store::Error> {
    let mut sending = Sending {
        send,
        journal: &source.journal,
        next: wanted.from,
        is_heard: true,
    };
    let mut is_finished = false;
    if let Some(mut reader) = source.open(wanted.stored_only, cancel)? {
        let mut gathering = Gathering::new(options_of(&reader, wanted)?);
        let (mut read_to, mut n_bytes) = (wanted.from, 0);
        let is_wanted = |read_to: u64| read_to < wanted.to && !cancel.is_cancelled();
        while sending.is_heard && !is_finished && is_wanted(read_to) {
            let record = match reader.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    sending.all(gathering.take().map(Event::Samples))?;
                    return Err(error);
                }
            };
            match record {
                Record::Block(record) => {
                    let block = &record.block;
                    read_to = block.first_position + block.len() as u64;
                    let full = gathering.add(block, wanted.from..wanted.to);
                    sending.all(full.into_iter().map(Event::Samples))?;
                }
                Record::Gap(record) => {
                    read_to = record.gap.first_position + record.gap.n_positions;
                    let gap = cut_gap(&record.gap, wanted.from, wanted.to);
                    sending.all(gathering.take().map(Event::Samples))?;
                    sending.all(gap.map(|gap| Event::Gap(proto_from_gap(&gap))))?;
                }
                // The files of the data set may still be made; of samples there will be no more.
                Record::Finish { .. } => is_finished = true,
                _ => {}
            }
            if n_bytes <= reader.position() {
                n_bytes = source.n_bytes();
            }
            if n_bytes <= reader.position() {
                sending.all(gathering.take().map(Event::Samples))?;
            }
        }
        sending.all(gathering.take().map(Event::Samples))?;
    }
    let end = v1::SampleEnd {
        next_sequence: sending.next,
        acquisition_ended: is_finished || !source.is_live(),
    };
    sending.all([Event::End(end)])
}

/// What has been sent of a stream.
struct Sending<'a, S> {
    send: S,
    journal: &'a Path,
    next: u64,
    is_heard: bool,
}

impl<S: FnMut(Event) -> bool> Sending<'_, S> {
    /// Sends events that follow each other; refuses holes.
    fn all(&mut self, events: impl IntoIterator<Item = Event>) -> Result<(), store::Error> {
        for event in events {
            let (first, n) = extent(&event);
            if first != self.next {
                return Err(hole(self.journal, self.next, first));
            }
            self.next = first + n;
            self.is_heard = self.is_heard && (self.send)(event);
        }
        Ok(())
    }
}

/// Where the detector of that name stands, and it.
fn found(detectors: &[Detector], name: &str) -> Result<(usize, Detector), Invalid> {
    let at = detectors.iter().position(|d| d.name.as_str() == name);
    let at = at.ok_or_else(|| {
        let known: Vec<&str> = detectors.iter().map(|d| d.name.as_str()).collect();
        Invalid::new("detector", format!("{name:.64?}"), known.join(", "))
    })?;
    Ok((at, detectors[at].clone()))
}

/// The sum of the read-outs of one detector at the commanded pixels of a rectangle, from what is recorded so far.
pub(crate) fn signal_at(
    source: &Source,
    request: &v1::GetSignalRequest,
) -> Result<v1::GetSignalResponse, tonic::Status> {
    use crate::refuse::{invalid, of_store, refuse};
    let rect = request.rect.unwrap_or_default();
    let rect = proto::rect_from_proto(rect).map_err(|e| invalid(e.within("rect")))?;
    let cancel = Cancel::default();
    let Some(mut reader) = source.open(true, &cancel).map_err(of_store)? else {
        return Err(refuse(v1::ErrorReason::NotFound, "nothing is recorded yet"));
    };
    let detectors = &reader.header().detectors;
    let (index, detector) = found(detectors, &request.detector).map_err(invalid)?;
    if detector.signal == domain::SignalKind::Scalar {
        let text = "this detector delivers one value per position; see the pictures";
        return Err(refuse(v1::ErrorReason::Unsupported, text));
    }
    let mut sum = vec![0.0_f64; detector.signal.n_values()];
    let (mut n_positions, mut electrons) = (0, 0.0);
    while let Some(record) = reader.next_record().map_err(of_store)? {
        let Record::Block(record) = record else {
            continue;
        };
        let block = &record.block;
        let values = match &block.signals[index] {
            domain::Signal::Scalar(values) => values,
            domain::Signal::Spectrum { values, .. } | domain::Signal::Pattern { values, .. } => {
                values
            }
        };
        for (i, read_out) in values.chunks_exact(sum.len()).enumerate() {
            let (row, col) = (block.row[i].round(), block.col[i].round());
            if row >= 0.0 && col >= 0.0 && rect.contains(row as u32, col as u32) {
                sum.iter_mut()
                    .zip(read_out)
                    .for_each(|(s, v)| *s += f64::from(*v));
                n_positions += 1;
                electrons += f64::from(block.electrons.at(i));
            }
        }
    }
    let message = proto::proto_from_detector(&detector);
    let shape = message.axes.iter().map(|axis| axis.size as u32).collect();
    let values: Vec<f32> = sum.iter().map(|&v| v as f32).collect();
    Ok(v1::GetSignalResponse {
        kind: message.signal,
        axes: message.axes,
        signal: Some(v1::SignalArray {
            detector: request.detector.clone(),
            value_type: v1::ValueType::F32 as i32,
            shape,
            values: proto::bytes_of_f32s(&values),
            unit: detector.unit().to_owned(),
            position_idx: bytes::Bytes::new(),
        }),
        n_positions,
        electrons,
    })
}

/// Detectors of the journal and which of them are wanted; refuses names that it does not have.
fn options_of<R: Read>(
    reader: &JournalReader<R>,
    wanted: &Wanted,
) -> Result<ChunkOptions, store::Error> {
    let header = reader.header();
    let detectors: Vec<_> = header
        .detectors
        .iter()
        .map(|detector| (detector.name.clone(), detector.unit()))
        .collect();
    let index_of = |(i, name): (usize, &String)| {
        let found = detectors
            .iter()
            .position(|(known, _)| known.as_str() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = detectors.iter().map(|(name, _)| name.as_str()).collect();
            domain::Invalid::new(format!("detectors[{i}]"), name, known.join(", "))
        })
    };
    let indices = if wanted.detectors.is_empty() {
        (0..detectors.len()).collect()
    } else {
        let found = wanted.detectors.iter().enumerate().map(index_of);
        found.collect::<Result<_, _>>()?
    };
    Ok(ChunkOptions {
        detectors,
        wanted: indices,
        omit_paths: wanted.omit_paths,
    })
}

/// The part of a gap within `from..to`, with its share of the electrons.
fn cut_gap(gap: &domain::Gap, from: u64, to: u64) -> Option<domain::Gap> {
    let first = gap.first_position.max(from);
    let end = (gap.first_position + gap.n_positions).min(to);
    let n_positions = end.checked_sub(first).filter(|n| *n > 0)?;
    Some(domain::Gap {
        first_position: first,
        n_positions,
        cause: gap.cause,
        electrons: gap.electrons * n_positions as f64 / gap.n_positions as f64,
    })
}

fn extent(event: &Event) -> (u64, u64) {
    match event {
        Event::Samples(chunk) => (chunk.first_sequence, chunk.n_positions.into()),
        Event::Gap(gap) => (gap.first_sequence, gap.n_positions),
        Event::End(end) => (end.next_sequence, 0),
    }
}

fn hole(path: &Path, expected: u64, found: u64) -> store::Error {
    store::Error::Format {
        path: path.to_owned(),
        field: "position",
        found: format!("{found} after {expected} positions"),
        expected: "every position once, in order",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Gap, GapCause};

    #[test]
    fn a_gap_is_cut_with_its_share_of_the_electrons() {
        let gap = Gap {
            first_position: 10,
            n_positions: 10,
            cause: GapCause::Tripped,
            electrons: 5.0,
        };
        let cut = cut_gap(&gap, 14, 18).unwrap();
        assert_eq!(
            (cut.first_position, cut.n_positions, cut.electrons),
            (14, 4, 2.0)
        );
        assert_eq!(cut_gap(&gap, 0, u64::MAX), Some(gap));
        assert_eq!(cut_gap(&gap, 20, u64::MAX), None);
        assert_eq!(cut_gap(&gap, 0, 10), None);
    }
}
