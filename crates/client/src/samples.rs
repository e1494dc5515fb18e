//! Samples, lossless: a broken stream is resumed by sequence number.

use crate::{Client, Error};
use domain::{DetectorName, Gap, Invalid, SampleBlock};
use proto::{ACQUISITIONS, name_of_id, v1};
use std::collections::VecDeque;
use std::time::Duration;
use tonic::Streaming;
use v1::stream_samples_response::Event;

/// Attempts to resume without a message between them, a quarter of a second apart.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// What a stream of samples yields, in order of position.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleEvent {
    /// Samples of consecutive positions of one recorded block; signals in the order of `detectors`.
    Block {
        /// The samples.
        block: SampleBlock,
        /// Detectors of its signals.
        detectors: Vec<DetectorName>,
    },
    /// Positions without samples.
    Gap(Gap),
    /// No more will come.
    End {
        /// Sequence number after the last one.
        next_sequence: u64,
        /// Whether the acquisition has ended.
        acquisition_ended: bool,
    },
}

/// A stream of samples that resumes by itself.
#[derive(Debug)]
pub struct SampleStream {
    client: Client,
    request: v1::StreamSamplesRequest,
    stream: Option<Streaming<v1::StreamSamplesResponse>>,
    /// Further blocks of the newest message; bounded by its size.
    waiting: VecDeque<SampleEvent>,
    failures: u32,
    ended: bool,
}

impl Client {
    /// Samples and gaps of acquisition `id` from sequence number `from_sequence` on, until it has ended.
    /// `stored_only`: ends when caught up.
    #[must_use]
    pub fn samples(&self, id: &str, from_sequence: u64, stored_only: bool) -> SampleStream {
        SampleStream {
            client: self.clone(),
            request: v1::StreamSamplesRequest {
                name: name_of_id(ACQUISITIONS, id),
                from_sequence,
                stored_only,
                ..Default::default()
            },
            stream: None,
            waiting: VecDeque::new(),
            failures: 0,
            ended: false,
        }
    }
}

impl SampleStream {
    /// Sequence number of the next sample expected: where another stream would go on.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        match self.waiting.front() {
            Some(SampleEvent::Block { block, .. }) => block.first_position,
            _ => self.request.from_sequence,
        }
    }

    /// The next event; `None` after the end. Goes on by itself after a lost connection, for about 5 s.
    pub async fn next(&mut self) -> Result<Option<SampleEvent>, Error> {
        if let Some(event) = self.waiting.pop_front() {
            return Ok(Some(event));
        }
        if self.ended {
            return Ok(None);
        }
        loop {
            match self.message().await {
                Ok(event) => {
                    self.failures = 0;
                    return self.accept(event).map(Some);
                }
                Err(error @ Error::Unreachable { .. }) => {
                    self.stream = None;
                    self.failures += 1;
                    if self.failures >= ATTEMPTS {
                        return Err(error);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn message(&mut self) -> Result<Event, Error> {
        if self.stream.is_none() {
            let mut service = self.client.samples_service();
            let opened = service.stream_samples(self.request.clone()).await;
            self.stream = Some(self.client.answer(opened)?);
        }
        let Some(stream) = &mut self.stream else {
            return Err(Error::missing("stream"));
        };
        match stream.message().await {
            Ok(Some(message)) => message.event.ok_or_else(|| Error::missing("event")),
            // Only an end message ends the stream; a clean end without one is a lost connection.
            Ok(None) => Err(Error::Unreachable {
                server: self.client.server().to_owned(),
                cause: "the stream ended without an end message".to_owned(),
            }),
            Err(status) => Err(self.client.error(&status)),
        }
    }

    fn accept(&mut self, event: Event) -> Result<SampleEvent, Error> {
        match event {
            Event::Samples(chunk) => {
                self.advance(chunk.first_sequence, chunk.n_positions.into())?;
                let (blocks, detectors) =
                    proto::blocks_from_chunk(&chunk).map_err(Error::Broken)?;
                let event = |block| SampleEvent::Block {
                    block,
                    detectors: detectors.clone(),
                };
                self.waiting.extend(blocks.into_iter().map(event));
                let first = self.waiting.pop_front();
                first.ok_or_else(|| Error::missing("n_positions"))
            }
            Event::Gap(gap) => {
                self.advance(gap.first_sequence, gap.n_positions)?;
                let gap = proto::gap_from_proto(&gap).map_err(Error::Broken)?;
                Ok(SampleEvent::Gap(gap))
            }
            Event::End(end) => {
                self.ended = true;
                Ok(SampleEvent::End {
                    next_sequence: end.next_sequence,
                    acquisition_ended: end.acquisition_ended,
                })
            }
        }
    }

    /// Every position comes once, in order.
    fn advance(&mut self, first: u64, n: u64) -> Result<(), Error> {
        if first != self.request.from_sequence {
            return Err(Error::Broken(Invalid::new(
                "first_sequence",
                first,
                format!("{}", self.request.from_sequence),
            )));
        }
        self.request.from_sequence = first.saturating_add(n);
        Ok(())
    }
}
