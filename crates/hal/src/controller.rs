//! The scan controller as the engine sees it: capabilities, a transmit half and a receive half.
//!
//! The halves run on threads of their own. Time on the device is nanoseconds since arming.

use crate::{Error, FieldCalibration, Reach};
use domain::{
    Detector, DetectorCalibration, GapCause, PerPosition, PositionBatch, SampleFlags, ScanField,
    Signal,
};
use std::time::Duration;

/// How the beam is blanked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlankerKind {
    /// Not at all: the beam can only be parked.
    None,
    /// Mechanical or slow magnetic (ms).
    Slow,
    /// Electrostatic (ns to µs).
    Fast,
}

/// What the controller is, and what it cannot promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    /// URI it was opened by.
    pub address: String,
    /// Maker, model and firmware, for the record.
    pub model: String,
    /// Serial number; identifies the device.
    pub serial: String,
    /// Shortest dwell, ns.
    pub dwell_min_ns: u32,
    /// Longest dwell, ns.
    pub dwell_max_ns: u32,
    /// Longest settle time, ns.
    pub settle_max_ns: u32,
    /// Length of a tick, ns: times are quantised to it.
    pub tick_ns: f64,
    /// Resolution of the deflection DACs.
    pub dac_bits: u8,
    /// Deflection `[x, y]` where the parked probe rests.
    pub park: [f64; 2],
    /// Deflections that may be commanded; with a calibration it bounds the field of view.
    pub reach: Reach,
    /// Field calibrations that came with the setup (a simulated instrument brings its own), in any order. The engine
    /// chooses by [`FieldCalibration::select`] and may add newer ones of its own.
    pub calibrations: Vec<FieldCalibration>,
    /// Detectors, in the order of [`ArmedDetector::index`].
    pub detectors: Vec<Detector>,
    /// Blanker.
    pub blanker: BlankerKind,
    /// Time from the command to the beam being off, ns.
    pub blanker_closing_ns: f64,
    /// Time from the command to the beam being on, ns.
    pub blanker_opening_ns: f64,
    /// Positions with a time of their own that the controller can hold; runs of equal times take less room.
    pub queue_positions: u32,
    /// Samples kept for replay.
    pub return_samples: u32,
    /// Whether a watchdog in the device blanks when the host falls silent.
    pub has_watchdog: bool,
    /// Whether the device counts dose by itself.
    pub has_dose_counter: bool,
    /// What the hardware cannot promise, one sentence each, for `status` and before arming.
    pub cannot: Vec<String>,
}

/// Identity of one arming: a new one for every arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Arming {
    /// Nonce of the session with the device.
    pub session: u32,
    /// Counter within the session.
    pub counter: u32,
}

/// A detector that an arming reads.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmedDetector {
    /// Index into [`Capabilities::detectors`].
    pub index: usize,
    /// Calibration to apply; `None`: samples are ADC counts (as calibration runs want them).
    pub calibration: Option<DetectorCalibration>,
}

/// What the device needs to know before positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Grid, pitch, rotation and centre of the scan; px of the batches are px of this grid.
    pub field: ScanField,
    /// How field coordinates become deflection. Checked against the column by the engine, fixed for the arming, so that no
    /// calibration changes under a scan.
    pub calibration: FieldCalibration,
    /// Detectors in the order of the plan.
    pub detectors: Vec<ArmedDetector>,
    /// Index of the first position that will be submitted.
    pub first_position: u64,
    /// The device trips when the beam was unblanked for so long in this arming, ns (the hard dose limit).
    pub unblanked_limit_ns: u64,
    /// The device trips when the beam is unblanked without a break for so long, ns.
    pub unblanked_stretch_ns: u64,
    /// The device trips when it has had no heartbeat for so long. 5 to 1000 ms.
    pub watchdog: Duration,
}

/// Number of a latched trip; a clear must name the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TripId(pub u32);

/// Why the device tripped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TripCause {
    /// No heartbeat.
    Watchdog,
    /// Unblanked time reached the limit of the arming.
    Dose,
    /// Unblanked too long without a break.
    UnblankedStretch,
    /// Abort.
    Abort,
    /// Blank request.
    Blank,
    /// The session of the arming ended, or another one began.
    SessionEnded,
    /// The device was reset.
    Reset,
    /// A fault of the device or an interlock input.
    Fault,
}

impl std::fmt::Display for TripCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Watchdog => "the host fell silent for longer than the watchdog",
            Self::Dose => "the dose limit of the arming was reached",
            Self::UnblankedStretch => "the beam was on without a break for longer than allowed",
            Self::Abort => "the acquisition was aborted",
            Self::Blank => "a blank was requested",
            Self::SessionEnded => "the session of the arming ended",
            Self::Reset => "the controller was reset",
            Self::Fault => "the controller or an interlock reports a fault",
        })
    }
}

/// The newest state of the device.
#[derive(Debug, Clone, PartialEq)]
pub struct ControllerStatus {
    /// Arming in force, if armed.
    pub arming: Option<Arming>,
    /// Whether the blanker is commanded open.
    pub beam_on: bool,
    /// Whether this controller drives the scan coils (always, where no relay is wired).
    pub external_scan: bool,
    /// Whether it waits for positions or credit, blanked.
    pub holding: bool,
    /// Latched trip.
    pub trip: Option<(TripId, TripCause)>,
    /// Device time, ns since arming.
    pub t_ns: u64,
    /// Next position the device will finish.
    pub next_position: u64,
    /// Unblanked time in this arming, ns.
    pub unblanked_ns: u64,
    /// Times that the queue ran empty within a run of positions.
    pub underruns: u64,
    /// Longest of them, ns.
    pub longest_underrun_ns: u64,
    /// Packets refused for their checksum, both directions.
    pub crc_errors: u64,
    /// Packets sent again, both directions.
    pub retransmits: u64,
    /// The device's clock against the host's, parts per million; `None` before it is known, and for devices whose time may
    /// stretch.
    pub drift_ppm: Option<f64>,
}

/// Consecutive samples as the device returned them; the engine joins them with what it commanded.
#[derive(Debug, Clone, PartialEq)]
pub struct RawBlock {
    /// Arming the positions belong to.
    pub arming: Arming,
    /// Index of the first position in the acquisition.
    pub first_position: u64,
    /// Positions.
    pub n_positions: u32,
    /// Start of the first position's settle time, ns since arming.
    pub t0_ns: u64,
    /// Unblanked time outside the dwells, ns, all positions of the block.
    pub unblanked_outside_ns: u64,
    /// What is special.
    pub flags: PerPosition<SampleFlags>,
    /// One per armed detector: events, or ADC counts where the gain is unknown.
    pub signals: Vec<Signal>,
}

/// Positions that ended without samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawGap {
    /// Arming the positions belong to.
    pub arming: Arming,
    /// Index of the first position in the acquisition.
    pub first_position: u64,
    /// Positions.
    pub n_positions: u64,
    /// Why.
    pub cause: GapCause,
    /// Unblanked time all the same, ns.
    pub unblanked_ns: u64,
}

/// What comes back from a device. Samples and gaps come in order of position and cover each exactly once.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Samples.
    Samples(RawBlock),
    /// Positions without samples.
    Gap(RawGap),
    /// Newest status.
    Status(ControllerStatus),
    /// The arm request took effect; the beam is blanked until positions arrive.
    Armed(Arming),
    /// The beam is blanked and the arming ended, by request ([`Transmit::blank`], [`Transmit::disarm`]). After a blank of an
    /// armed device a trip is latched too.
    Blanked,
    /// The device tripped by itself.
    Tripped {
        /// Number to clear it by.
        id: TripId,
        /// Why.
        cause: TripCause,
    },
    /// The trip is cleared; arm to go on.
    TripCleared,
    /// Everything submitted before the barrier has been exposed.
    BarrierReached(u64),
    /// The device refused a command; the arming is over.
    Refused {
        /// Which.
        command: &'static str,
        /// Why.
        reason: String,
    },
    /// The device restarted or the link was replaced: nothing of the old session is valid.
    SessionLost,
}

/// Commands to the device. No call blocks for longer than the link's own buffers; none waits for an answer.
pub trait Transmit: Send {
    /// Asks to arm; answered by [`Event::Armed`] or [`Event::Refused`]. Refuses a plan out of reach before sending. The
    /// device refuses to arm without a heartbeat younger than the watchdog: mint one first.
    fn arm(&mut self, arm: &Arm) -> Result<(), Error>;
    /// Queues positions, which go on where the last batch ended. The driver keeps within the device's credits and holds back
    /// what it has no credit for, at most [`Capabilities::queue_positions`]. A batch with one position or time out of range,
    /// or beyond that bound, is refused as a whole before anything of it is sent.
    fn submit(&mut self, batch: &PositionBatch) -> Result<(), Error>;
    /// Proof of life, minted by the engine.
    fn heartbeat(&mut self) -> Result<(), Error>;
    /// Blanks at once, ahead of everything queued; answered by [`Event::Blanked`].
    fn blank(&mut self) -> Result<(), Error>;
    /// Asks for [`Event::BarrierReached`] when everything submitted has been exposed.
    fn barrier(&mut self, id: u64) -> Result<(), Error>;
    /// Clears the latched trip `id`.
    fn clear_trip(&mut self, id: TripId) -> Result<(), Error>;
    /// Ends the arming after what is queued, parks the beam; answered by [`Event::Blanked`].
    fn disarm(&mut self) -> Result<(), Error>;
    /// For shutdown: blanks, and where a relay is wired parks the probe and gives the coils back to the vendor's scan. Answered
    /// by [`Event::Blanked`] when all of it is done, or by [`Event::Refused`]. Without a relay it is a blank.
    fn release(&mut self) -> Result<(), Error> {
        self.blank()
    }
    /// Gives the driver a turn when there is nothing to send (retransmits, pings). Called at least every 5 ms.
    fn poll(&mut self) -> Result<(), Error>;
}

/// Answers of the device.
pub trait Receive: Send {
    /// Waits up to `timeout` and appends what arrived. An error ends the session for good; it comes after the events that close
    /// every position ([`Event::SessionLost`] the last).
    fn receive(&mut self, timeout: Duration, events: &mut Vec<Event>) -> Result<(), Error>;
}

/// An open controller. Its first bytes to the device were Blank.
pub trait ScanController: Send {
    /// What it is.
    fn capabilities(&self) -> &Capabilities;
    /// The two halves, for two threads.
    fn split(self: Box<Self>) -> (Box<dyn Transmit>, Box<dyn Receive>);
}
