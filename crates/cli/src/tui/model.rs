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
    /// Whether the view itself holds control.
    Control(bool),
    /// What starting would take, to be confirmed.
    Predicted(String),
    /// A command did what it should.
    Done(String),
    /// A command did not.
    Refused(String),
}

/// What a key asks of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Blank,
    /// Control that nobody holds.
    Take,
    /// From who holds it: asked for, or by force.
    TakeOver {
        force: bool,
    },
    GiveBack,
    /// What starting would take.
    Predict,
    Start,
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
            Self::Take | Self::TakeOver { .. } => "control is taken",
            Self::GiveBack => "control is given back; the beam is blanked",
            Self::Predict => "predicted",
            Self::Start => "started",
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

/// What the next key answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    Abort,
    /// Who holds control.
    TakeOver(String),
    GiveBack,
    Leave,
    /// What it would take.
    Start(String),
}

impl Question {
    /// What is done where it is answered with yes.
    const fn yes(&self) -> Command {
        match self {
            Self::Abort => Command::Abort,
            Self::TakeOver(_) => Command::TakeOver { force: false },
            Self::GiveBack | Self::Leave => Command::GiveBack,
            Self::Start(_) => Command::Start,
        }
    }

    /// As the operator reads it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Abort => {
                "Abort? y ends the scan and keeps what was recorded; any other key goes on.".to_owned()
            }
            Self::TakeOver(holder) => format!(
                "{holder} has control. y asks for it, which may be declined for 10 s; f takes it by force (admins); any other key leaves it."
            ),
            Self::GiveBack => {
                "Give control back? y blanks the beam, and the scan waits for whoever takes control; any other key goes on.".to_owned()
            }
            Self::Leave => {
                "Leave? y gives control back: the beam is blanked, the scan waits for whoever takes control; any other key stays.".to_owned()
            }
            Self::Start(what) => format!("Start? {what}. y starts, any other key does not."),
        }
    }
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
    /// Whether the view itself holds control.
    pub(super) holds: bool,
    pub(super) asked: Option<Question>,
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
            holds: false,
            asked: None,
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
            News::Control(holds) => self.holds = holds,
            // Another question stays: its answer must not start anything.
            News::Predicted(text) if self.asked.is_none() => {
                self.asked = Some(Question::Start(text));
            }
            News::Predicted(_) => {}
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
                self.asked.take_if(|asked| *asked == Question::Abort);
            }
        }
        self.acquisition = Some(told);
    }

    /// What a key means. Blank is the same key whatever is on the screen.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Deed> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Deed::Leave);
        }
        let asked = self.asked.take();
        let command = match (key.code, asked) {
            (KeyCode::Char('b' | 'B') | KeyCode::Esc, _) => Command::Blank,
            (KeyCode::Char('y'), Some(Question::Leave)) => return Some(Deed::Leave),
            (KeyCode::Char('y'), Some(question)) => question.yes(),
            (KeyCode::Char('f'), Some(Question::TakeOver(_))) => Command::TakeOver { force: true },
            (KeyCode::Char('q'), _) if self.holds && self.is_under_way() => {
                return self.ask(Question::Leave);
            }
            (KeyCode::Char('q'), _) => return Some(Deed::Leave),
            (KeyCode::Char('t'), _) => match self.other_holder() {
                Some(holder) => return self.ask(Question::TakeOver(holder)),
                None => Command::Take,
            },
            (KeyCode::Char('g'), _) if self.holds && self.is_under_way() => {
                return self.ask(Question::GiveBack);
            }
            (KeyCode::Char('g'), _) => Command::GiveBack,
            (KeyCode::Char('s'), _) => Command::Predict,
            (KeyCode::Char('p'), _) => Command::Pause,
            (KeyCode::Char('r'), _) => Command::Resume,
            (KeyCode::Char('c'), _) => {
                Command::ClearTrip(self.status.as_ref()?.trip.as_ref()?.cause_id)
            }
            (KeyCode::Char('a'), _) if self.is_under_way() => return self.ask(Question::Abort),
            _ => return None,
        };
        self.said = None;
        Some(Deed::Send(command))
    }

    fn ask(&mut self, question: Question) -> Option<Deed> {
        self.asked = Some(question);
        None
    }

    /// Whether there is an acquisition that has not ended.
    fn is_under_way(&self) -> bool {
        let acquisition = self.acquisition.as_ref();
        acquisition.is_some_and(|a| !a.state.is_final())
    }

    /// Who else holds control.
    fn other_holder(&self) -> Option<String> {
        let lease = &self.status.as_ref()?.lease;
        (lease.held && !self.holds).then(|| lease.holder.clone())
    }

    /// How old the picture is at `now`.
    pub(super) fn picture_age(&self, now: Duration) -> Option<Duration> {
        let (picture, came) = self.picture.as_ref()?;
        Some(now.saturating_sub(*came) + Duration::from_micros(picture.age_us))
    }
}
