//! What happens without input: urgent packets, retries, pings, the search for lost outcomes.

use super::clock_fit::ClockFit;
use super::{
    HELLO_PERIOD, Link, PING_PERIOD, Phase, REPLAY_TRIES, RETRY_MAX, RETRY_MIN, Replay, Stage,
    UNACKNOWLEDGED_MAX,
};
use crate::Error;
use std::time::Duration;
use wire::Command;

/// Turns further apart than this: the host was away and did not listen, which is not the device's silence.
const TURN_MAX: Duration = Duration::from_millis(100);

impl Link {
    /// Puts the urgent packets that wait into the output, most urgent first.
    pub(super) fn prepare(&mut self, now: Duration) {
        if std::mem::take(&mut self.urgent.blank) {
            self.outgoing.preempt();
            self.push_urgent(&Command::Blank);
        }
        if self.outgoing.has_urgent() {
            return;
        }
        if std::mem::take(&mut self.urgent.hello) {
            self.push_urgent(&Command::Hello(wire::Hello {
                version_major: wire::VERSION_MAJOR,
                version_minor: wire::VERSION_MINOR,
                schema_hash: wire::SCHEMA_HASH,
            }));
        }
        if self.device.is_none() {
            return;
        }
        if std::mem::take(&mut self.urgent.abort) {
            self.push_urgent(&Command::Abort);
        }
        if let Some(minted) = self.urgent.heartbeat.take() {
            let watchdog = self
                .scan
                .as_ref()
                .map_or(Duration::from_secs(1), |s| s.watchdog);
            if now.saturating_sub(minted) <= watchdog / 2 {
                let seen = wire::Tick(self.status.map_or(0, |s| s.tick.0));
                self.push_urgent(&Command::Heartbeat(wire::Heartbeat { seen }));
            }
        }
        if std::mem::take(&mut self.urgent.replay) {
            let from_position = self.next_outcome;
            self.push_urgent(&Command::ReplaySamples(wire::ReplaySamples {
                from_position,
            }));
        }
        if std::mem::take(&mut self.urgent.ack) {
            let next_position = self.next_outcome;
            self.timers.acked_outcome = next_position;
            self.push_urgent(&Command::SampleAck(wire::SampleAck { next_position }));
        }
        if std::mem::take(&mut self.urgent.ping) {
            let token = now.as_nanos() as u64;
            self.push_urgent(&Command::Ping(wire::Ping { token }));
        }
        if std::mem::take(&mut self.urgent.query) {
            self.push_urgent(&Command::QueryStatus);
        }
    }

    fn push_urgent(&mut self, command: &Command<'_>) {
        let arming = self.arming();
        // The payload buffer holds the largest packet, so that a control message always fits.
        let n = command.write(&mut self.payload).unwrap_or(0);
        let pushed = self
            .outgoing
            .push_urgent(command.packet_type(), arming, &self.payload[..n]);
        debug_assert!(pushed.is_ok(), "urgent packets are small");
    }

    fn retry_after(&self, n_retries: u32) -> Duration {
        let round_trip = self.clock_fit.as_ref().and_then(ClockFit::round_trip);
        let base = round_trip.map_or(RETRY_MIN, |t| (8 * t).max(RETRY_MIN));
        (base * 2u32.pow(n_retries.min(5))).min(RETRY_MAX)
    }

    pub(super) fn run_timers(&mut self, now: Duration) -> Result<(), Error> {
        if self.phase == Phase::Lost {
            return Err(self.protocol("the session is over"));
        }
        let away = now
            .saturating_sub(self.timers.turned)
            .saturating_sub(TURN_MAX);
        self.timers.turned = now;
        self.timers.heard = (self.timers.heard + away).min(now);
        if now.saturating_sub(self.timers.heard) > self.setup.silence_max
            && self.phase != Phase::Greeting
        {
            return Err(Error::Link {
                address: self.address.clone(),
                source: std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "the controller has fallen silent",
                ),
            });
        }
        self.check_progress(now, away)?;
        if self.phase == Phase::Greeting {
            if now.saturating_sub(self.timers.hello) >= HELLO_PERIOD {
                self.timers.hello = now;
                self.urgent.blank = true;
                self.urgent.hello = true;
            }
            return Ok(());
        }
        if now.saturating_sub(self.timers.ping) >= PING_PERIOD {
            self.timers.ping = now;
            self.urgent.ping = true;
            self.urgent.query |= self.phase != Phase::Ready;
            self.urgent.ack |= self.scan.is_some();
            self.urgent.abort |= self
                .scan
                .as_ref()
                .is_some_and(|s| s.stage == Stage::Armed && s.is_refused);
        }
        if self
            .timers
            .blank
            .is_some_and(|at| now.saturating_sub(at) >= RETRY_MIN)
        {
            self.blank(now);
        }
        if self.outgoing.is_waiting()
            && now.saturating_sub(self.timers.window)
                >= self.retry_after(self.timers.window_retries)
        {
            self.timers.window = now;
            self.timers.window_retries += 1;
            self.outgoing.rewind();
        }
        self.check_tail(now)
    }

    /// Whether the device has acknowledged something lately, or had nothing to acknowledge.
    fn check_progress(&mut self, now: Duration, away: Duration) -> Result<(), Error> {
        if self.outgoing.is_acknowledged() {
            self.timers.stuck = None;
            return Ok(());
        }
        let since = self.timers.stuck.map_or(now, |at| (at + away).min(now));
        self.timers.stuck = Some(since);
        if now.saturating_sub(since) > UNACKNOWLEDGED_MAX {
            return Err(self.protocol("it answers, but acknowledges nothing: it was reset"));
        }
        Ok(())
    }

    /// Asks again for outcomes that the device has and that do not come.
    fn check_tail(&mut self, now: Duration) -> Result<(), Error> {
        let owes = self.device_owes_outcomes();
        if !owes {
            self.timers.outcome = now;
            self.replay = None;
            return Ok(());
        }
        let (since, n_tries) = match self.replay {
            Some(replay) if replay.from == self.next_outcome => (replay.at, replay.n_tries),
            _ => (self.timers.outcome, 0),
        };
        if now.saturating_sub(since) < self.retry_after(n_tries / 4) {
            return Ok(());
        }
        self.ask_replay(now)
    }

    pub(super) fn ask_replay(&mut self, now: Duration) -> Result<(), Error> {
        let n_tries = match self.replay {
            Some(replay) if replay.from == self.next_outcome => replay.n_tries + 1,
            _ => 1,
        };
        if n_tries > REPLAY_TRIES {
            return Err(self.protocol("samples that it holds are not sent again"));
        }
        self.replay = Some(Replay {
            from: self.next_outcome,
            at: now,
            n_tries,
        });
        self.urgent.replay = true;
        Ok(())
    }

    /// Whether the newest status tells of outcomes that have not arrived.
    fn device_owes_outcomes(&self) -> bool {
        let Some(scan) = &self.scan else {
            return false;
        };
        match scan.stage {
            Stage::Asked | Stage::Over => false,
            Stage::Ending { end, .. } => self.next_outcome < end,
            Stage::Armed => self
                .status
                .is_some_and(|s| s.arming == scan.arming && s.next_outcome > self.next_outcome),
        }
    }
}
