//! The threads between engine and line: words up, commands down, through queues that may lag.

use super::{Notice, Send};
use crate::simulation::world::World;
use domain::PositionBatch;
use engine::core::{Core, Event, Settings};
use hal::Arm;

impl World {
    pub(super) fn host_reads(&mut self, bytes: &[u8]) {
        let now = self.time();
        let Some(host) = &mut self.host else { return };
        let mut words = Vec::new();
        let result = host.link.receive(bytes, now, &mut words);
        self.pass_on(words, result);
        self.write();
    }

    pub(super) fn link_turn(&mut self) {
        let now = self.time();
        let Some(host) = &mut self.host else { return };
        if host.link_free_at > self.now {
            return;
        }
        let mut words = Vec::new();
        let result = host.link.poll(now, &mut words);
        self.pass_on(words, result);
        self.write();
    }

    /// Hands the link's words to the engine, through the queue between the threads.
    pub(super) fn pass_on(&mut self, words: Vec<hal::Event>, result: Result<(), hal::Error>) {
        let Some(host) = &mut self.host else { return };
        let lag = host.engine_lag;
        if host.capabilities.is_none() {
            let ready = host
                .link
                .is_ready()
                .then(|| host.link.capabilities().cloned());
            if let Some(capabilities) = ready.flatten() {
                host.core = Core::new(Settings::new(&host.config, &capabilities));
                host.capabilities = Some(capabilities);
                self.later(0, Notice::Tick);
                self.welcome();
            } else if result.is_err() {
                // Nobody could connect: the service tries again.
                return self.replace_host();
            }
        }
        if !words.is_empty() {
            self.later(lag, Notice::Words(words));
        }
        if let Err(error) = result {
            self.go_down(error.to_string());
        }
    }

    /// The link is down for good, once.
    pub(super) fn go_down(&mut self, reason: String) {
        let Some(host) = &mut self.host else { return };
        if std::mem::replace(&mut host.is_down, true) {
            return;
        }
        let lag = host.engine_lag;
        self.host_broke();
        self.tell(|| format!("link down: {reason}"));
        self.later(lag, Notice::Part(Box::new(Event::LinkDown { reason })));
    }

    /// What the running acquisition costs is only an upper bound from here on.
    pub(in super::super) fn host_broke(&mut self) {
        if let Some((_, account)) = self.host.as_mut().and_then(|h| h.running.as_mut()) {
            account.is_broken = true;
        }
    }

    /// The connection was cut under the host.
    pub(in super::super) fn disconnected(&mut self) {
        let Some(host) = &mut self.host else { return };
        let mut words = Vec::new();
        host.link.connection_lost(&mut words);
        if host.capabilities.is_none() {
            return self.replace_host();
        }
        let lag = host.engine_lag;
        self.host_broke();
        self.later(lag, Notice::Words(words));
        self.go_down("the connection was cut".into());
    }

    pub(super) fn write(&mut self) {
        let now = self.time();
        while self.has_room() {
            let Some(host) = &mut self.host else { return };
            let out = host.link.output(now);
            if out.is_empty() {
                return;
            }
            // Sockets take what they like.
            let n = out.len().min(4096);
            let end = out[..n].iter().position(|&b| b == 0).map_or(n, |i| i + 1);
            let packet = out[..end].to_vec();
            host.link.wrote(end);
            self.carry(packet, true);
        }
    }

    pub(super) fn keep(&mut self, send: Send) {
        if let Some(host) = &mut self.host {
            host.kept.push_back(send);
        }
        self.wake_link();
    }

    pub(super) fn wake_link(&mut self) {
        let Some(host) = &self.host else { return };
        let at = (self.now + host.engine_lag / 2).max(host.link_free_at);
        self.later(at - self.now, Notice::Carry);
    }

    /// The link thread: blanks first, then everything in order.
    pub(super) fn carry_all(&mut self) {
        let now = self.time();
        let Some(host) = &mut self.host else { return };
        if host.link_free_at > self.now {
            return self.wake_link();
        }
        if host.link.is_lost() {
            host.kept.clear();
            host.n_blanks = 0;
            return;
        }
        for _ in 0..std::mem::take(&mut host.n_blanks) {
            host.link.blank(now);
        }
        let kept = std::mem::take(&mut host.kept);
        for send in kept {
            let Some(host) = &mut self.host else { return };
            let result = match send {
                Send::Arm(arm) => {
                    if !std::mem::replace(&mut host.begun, true) {
                        self.begin_beam();
                    }
                    self.arm(&arm)
                }
                Send::Submit(batch) => self.submit(&batch),
                Send::Heartbeat => {
                    host.link.heartbeat(now);
                    Ok(())
                }
                Send::ClearTrip(id) => {
                    let result = host.link.clear_trip(id);
                    self.told("clear_trip", result)
                }
                Send::Disarm => {
                    let result = host.link.disarm(now);
                    self.told("disarm", result)
                }
            };
            if let Err(error) = result {
                self.go_down(error.to_string());
            }
        }
        self.write();
    }

    pub(super) fn arm(&mut self, arm: &Arm) -> Result<(), hal::Error> {
        let now = self.time();
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        let result = host.link.arm(arm, now);
        self.told("arm", result)
    }

    /// What the link refuses is answered as if the device had refused it.
    pub(super) fn told(
        &mut self,
        command: &'static str,
        result: Result<(), hal::Error>,
    ) -> Result<(), hal::Error> {
        let lag = self.host.as_ref().map_or(0, |h| h.engine_lag);
        match result {
            Err(hal::Error::Invalid(invalid)) => {
                let word = hal::Event::Refused {
                    command,
                    reason: invalid.to_string(),
                };
                self.later(lag, Notice::Words(vec![word]));
                Ok(())
            }
            other => other,
        }
    }

    pub(super) fn submit(&mut self, batch: &PositionBatch) -> Result<(), hal::Error> {
        let now = self.time();
        let Some(host) = &mut self.host else {
            return Ok(());
        };
        let lag = host.engine_lag;
        match host.link.submit(batch, now) {
            Err(hal::Error::Invalid(_)) => {
                let first_position = batch.first_position;
                self.later(
                    lag,
                    Notice::Part(Box::new(Event::Unsent { first_position })),
                );
                Ok(())
            }
            other => other,
        }
    }

    /// The beam of a new acquisition: what was owed is settled first.
    pub(super) fn begin_beam(&mut self) {
        self.settle_owed();
        self.device.beam.begin_acquisition();
        if let Some((_, account)) = self.host.as_mut().and_then(|h| h.running.as_mut()) {
            account.has_begun = true;
        }
    }

    /// Checks the costs of an acquisition whose link broke, now that its beam is off for good.
    pub(in super::super) fn settle_owed(&mut self) {
        let Some(host) = &mut self.host else { return };
        if let Some((told, mut account)) = host.owed.take() {
            account.close(&told, &self.device.beam);
            if let Some(violation) = account.violation.take() {
                self.accuse(violation);
            }
        }
    }
}
