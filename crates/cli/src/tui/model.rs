//! What the view knows, and what a key means. No I/O, no clock: news and keys come in, a deed comes out.

use client::{Acquisition, Preview, Status};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;

/// What comes from the service.
#[derive(Debug)]
pub(super) enum News {
    Status(Status),
    /// In full, or an update that leaves the plan out.
    Acquisition(Acquisition),
    /// The newest picture of an acquisition, by id.
    Picture(String, Preview),
    /// The connection is lost, and why.
    Lost(String),
    /// A command did what it should.
    Done(String),
    /// A command did not.
    Refused(String),
}

/// What a key asks of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Blank,
    Pause,
    Resume,
    Abort,
    /// By the id of its cause.
    ClearTrip(u64),
}

impl Command {
    /// What has happened when it was answered.
    pub(super) const fn done(self) -> &'static str {
        match self {
            Self::Blank => "blanked",
            Self::Pause => {
                "pausing: what the controller holds is exposed, then the beam is blanked"
            }
            Self::Resume => "going on",
            Self::Abort => "aborted; what was recorded is kept",
            Self::ClearTrip(_) => "the trip is cleared: r resumes, a aborts",
        }
    }
}

/// What a key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Send(Command),
    Leave,
}

/// What was last said to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Good(String),
    Bad(String),
}

/// Everything that is drawn.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) server: String,
    pub(super) status: Option<Status>,
    pub(super) acquisition: Option<Acquisition>,
    /// The newest picture of it, and when it came.
    pub(super) picture: Option<(Preview, Duration)>,
    /// Why there is no connection.
    pub(super) lost: Option<String>,
    pub(super) said: Option<Said>,
    /// Whether the next key answers the question whether to abort.
    pub(super) asks_abort: bool,
}

impl Model {
    pub(super) fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            status: None,
            acquisition: None,
            picture: None,
            lost: None,
            said: None,
            asks_abort: false,
        }
    }

    /// The acquisition that commands are about.
    pub(super) fn acquisition_id(&self) -> Option<String> {
        self.acquisition.as_ref().map(|a| a.id.clone())
    }

    /// Takes news that came at `now`.
    pub(super) fn hear(&mut self, news: News, now: Duration) {
        match news {
            News::Status(status) => {
                self.lost = None;
                self.status = Some(status);
            }
            News::Acquisition(told) => self.take(told),
            News::Picture(id, picture) => {
                if self.acquisition_id() == Some(id) {
                    self.picture = Some((picture, now));
                }
            }
            News::Lost(cause) => self.lost = Some(cause),
            News::Done(text) => self.said = Some(Said::Good(text)),
            News::Refused(text) => self.said = Some(Said::Bad(text)),
        }
    }

    /// An update leaves out what does not change.
    fn take(&mut self, mut told: Acquisition) {
        match self.acquisition.take() {
            Some(known) if known.id == told.id => {
                if told.pattern.is_empty() {
                    told.pattern = known.pattern;
                    told.detectors = known.detectors;
                    told.allowed = known.allowed;
                }
                told.prediction = told.prediction.or(known.prediction);
                told.field = told.field.or(known.field);
            }
            _ => {
                self.picture = None;
                self.asks_abort = false;
            }
        }
        self.acquisition = Some(told);
    }

    /// What a key means. Blank is the same key whatever is on the screen.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Deed> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Deed::Leave);
        }
        let asked = std::mem::take(&mut self.asks_abort);
        let command = match key.code {
            KeyCode::Char('b' | 'B') | KeyCode::Esc => Command::Blank,
            KeyCode::Char('y') if asked => Command::Abort,
            KeyCode::Char('q') => return Some(Deed::Leave),
            KeyCode::Char('p') => Command::Pause,
            KeyCode::Char('r') => Command::Resume,
            KeyCode::Char('c') => Command::ClearTrip(self.status.as_ref()?.trip.as_ref()?.cause_id),
            KeyCode::Char('a') => {
                self.asks_abort = self
                    .acquisition
                    .as_ref()
                    .is_some_and(|a| !a.state.is_final());
                return None;
            }
            _ => return None,
        };
        self.said = None;
        Some(Deed::Send(command))
    }

    /// How old the picture is at `now`.
    pub(super) fn picture_age(&self, now: Duration) -> Option<Duration> {
        let (picture, came) = self.picture.as_ref()?;
        Some(now.saturating_sub(*came) + Duration::from_micros(picture.age_us))
    }
}
