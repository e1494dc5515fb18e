//! The tables of the configuration, with their defaults.

use super::TlsPart;
use domain::{Grid, Invalid, Nanometres, Pitch, ScanField};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[service]`: where it listens, and what it is called.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicePart {
    /// Name shown to clients, at most 128 bytes.
    pub name: String,
    /// Address of gRPC, gRPC-Web, metrics and health; loopback, or any with `tls`. Port 0 is any free one. Empty: none.
    pub listen: String,
    /// Path of the unix socket (0660). Empty: none.
    pub unix_socket: PathBuf,
    /// Directory that the web page is served from, for whoever works on it. Empty: the page in the binary.
    pub web_directory: PathBuf,
    /// Mutual TLS on the TCP port. Left out: none.
    pub tls: Option<TlsPart>,
}

/// `[store]`: where data sets are kept.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorePart {
    /// Directory of data sets and calibrations; made if missing.
    pub directory: PathBuf,
    /// Plans that may need more storage than this are refused, GiB.
    pub max_dataset_gib: u32,
}

/// `[controller]`: the scan controller.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControllerPart {
    /// `sim:SPECIMEN?instrument=stem&seed=1&speed=1`, `tcp://HOST:PORT`, `unix:PATH`, `serial:/dev/ttyACM0?baud=3000000`, `pty:PATH`.
    pub uri: String,
    /// Longest wait for its first answer, ms, 1 to 60000.
    pub open_timeout_ms: u32,
    /// A link without a word for so long is broken, ms, 1 to 60000.
    pub silence_max_ms: u32,
    /// How often it tells its status, ms, 1 to 1000.
    pub status_period_ms: u32,
}

/// `[wiring]`: how the controller is wired to the microscope.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WiringPart {
    /// Volts of the x output at the lowest and the highest code.
    pub dac_x_range_v: [f64; 2],
    /// Volts of the y output at the lowest and the highest code.
    pub dac_y_range_v: [f64; 2],
    /// Volts at the column's x input that mean deflection −1 and +1.
    pub full_deflection_x_v: [f64; 2],
    /// Volts at the column's y input that mean deflection −1 and +1.
    pub full_deflection_y_v: [f64; 2],
    /// The x output stage negates.
    pub dac_x_inverted: bool,
    /// The y output stage negates.
    pub dac_y_inverted: bool,
    /// The column's x axis runs the other way.
    pub flip_x: bool,
    /// The column's y axis runs the other way.
    pub flip_y: bool,
    /// The two cables are crossed.
    pub swap_xy: bool,
    /// `none`, `slow` or `fast`.
    pub blanker: BlankerWord,
    /// Level of the blanker line that blanks.
    pub blanker_active: LevelWord,
    /// Deflection `[x, y]` where the beam waits, −1 to 1; without a blanker the place that burns.
    pub park: [f64; 2],
    /// Line that is high during every dwell, for cameras and spectrometers.
    pub dwell_line: Option<u8>,
    /// Line that pulses at the first position of a frame.
    pub frame_line: Option<u8>,
    /// Interlock input: the controller trips while it is low.
    pub interlock_line: Option<u8>,
    /// Line of the relay that gives the coils to external scan.
    pub relay_line: Option<u8>,
    /// Level of the relay line that means external scan.
    pub relay_active: LevelWord,
    /// Time for contacts and coils to come to rest, ms, 0 to 10000.
    pub relay_settle_ms: u32,
    /// Input that reads the relay back.
    pub relay_read_back_line: Option<u8>,
}

/// Kinds of blankers as the file names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlankerWord {
    /// The beam can only be parked.
    None,
    /// Mechanical or magnetic, ms.
    Slow,
    /// Electrostatic, ns to µs.
    Fast,
}

/// Levels of a line as the file names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LevelWord {
    /// High means on.
    High,
    /// Low means on.
    Low,
}

/// `[column]`: what is known of the column; what is left out is unknown.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnPart {
    /// Accelerating voltage, kV.
    pub high_tension_kv: Option<f64>,
    /// Magnification as the column displays it.
    pub magnification: Option<f64>,
    /// Probe current, pA. Unknown: budgets in electrons are refused.
    pub probe_current_pa: Option<f64>,
    /// Where the current comes from; needed with a current.
    pub probe_current_source: String,
    /// Relative standard uncertainty of the current, 0 to 1.
    pub probe_current_uncertainty: f64,
    /// Convergence semi-angle, mrad.
    pub convergence_mrad: Option<f64>,
    /// Camera length, mm.
    pub camera_length_mm: Option<f64>,
    /// Probe radius, nm: area limits with a smaller disc are refused.
    pub probe_radius_nm: Option<f64>,
}

/// `[field]`: the field of view taken when a plan states none.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FieldPart {
    /// Rows, 1 to 65536; with `controller.uri = "sim:"` the specimen's unless set.
    pub n_rows: Option<u32>,
    /// Columns, 1 to 65536; likewise.
    pub n_cols: Option<u32>,
    /// Pixel size, nm. Left out: the specimen's, or unknown.
    pub pitch_nm: Option<f64>,
    /// Detectors taken when a plan states none. Empty: the first.
    pub detectors: Vec<String>,
}

/// `[[calibrations]]`: a field calibration that is known from elsewhere.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationPart {
    /// Name, 1 to 64 characters.
    pub id: String,
    /// Field width that full deflection covers, nm.
    pub width_nm: f64,
    /// Angle by which the column turns the scan, from +x towards +y, degrees, −180 to 180: undone.
    #[serde(default)]
    pub rotation_deg: f64,
    /// High tension it belongs to, kV. Left out: any.
    pub high_tension_kv: Option<f64>,
    /// Magnification it belongs to. Left out: any.
    pub magnification: Option<f64>,
    /// Relative standard uncertainty of lengths.
    #[serde(default)]
    pub scale_uncertainty: f64,
}

/// `[[detectors]]`: what is known of a detector beyond what the controller says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorPart {
    /// Name, as the controller reports it.
    pub name: String,
    /// Delay from specimen to ADC, ns.
    #[serde(default)]
    pub latency_ns: f64,
    /// Decay time of the afterglow, ns; 0: none.
    #[serde(default)]
    pub afterglow_ns: f64,
    /// The signal is negative-going.
    #[serde(default)]
    pub inverted: bool,
    /// Inner and outer collection semi-angle, mrad, 0 to 1000; for records.
    pub collection_mrad: Option<[f64; 2]>,
    /// ADC counts with the beam blanked; with `gain_adc_per_event` a calibration.
    pub dark_adc: Option<f64>,
    /// ADC counts per event.
    pub gain_adc_per_event: Option<f64>,
    /// Excess noise factor, ≥ 1.
    #[serde(default = "one")]
    pub excess: f64,
    /// Standard deviation of the read-out, ADC counts.
    #[serde(default)]
    pub read_noise_adc: f64,
}

/// `[engine]`: the closed loop.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnginePart {
    /// The controller blanks after so long without a heartbeat, ms, 5 to 1000.
    pub watchdog_ms: u32,
    /// The controller trips after one unblanked stretch of this length, ms, 1 to 3600000.
    pub unblanked_stretch_ms: u32,
    /// Plans that may need more memory than this are refused, MiB.
    pub memory_limit_mib: u32,
    /// An acquisition with so many late decisions in a row is aborted.
    pub late_in_a_row: u32,
    /// Whether plans may ask to go on by themselves after the watchdog tripped. Simulated microscopes always may.
    pub resume_after_trip: bool,
}

/// `[limits]`: bounds of the service. What is beyond them is refused.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsPart {
    /// Size of a request, KiB, 64 to 16384.
    pub max_request_kib: u32,
    /// Connections open at once on TCP, 1 to 4096.
    pub max_connections: u32,
    /// Connections open at once on the unix socket, 1 to 4096.
    pub max_unix_connections: u32,
    /// Longest TLS handshake, ms, 100 to 60000.
    pub handshake_timeout_ms: u32,
    /// A connection that asks nothing for so long after it was made is closed, ms, 100 to 60000.
    pub request_timeout_ms: u32,
    /// Headers of a request together, KiB, 1 to 256.
    pub max_header_kib: u32,
    /// Calls worked on at once, 8 to 4096.
    pub max_calls: u32,
    /// Streams open at once, 1 to 512.
    pub max_streams: u32,
    /// Streams of one connection, 1 to 1024.
    pub max_streams_per_connection: u32,
    /// Memory of all uploads together, MiB, 0 to 4096.
    pub max_upload_mib: u32,
    /// Size of a file of the audit log, MiB, 1 to 1024.
    pub max_audit_mib: u32,
}

/// Every table and its keys, for the test of the deployed file.
#[cfg(test)]
pub(super) const KEYS: [(&str, &[&str]); 14] = [
    (
        "service",
        &["name", "listen", "unix_socket", "web_directory", "tls"],
    ),
    ("service.tls", &["cert", "key", "client_ca"]),
    (
        "access",
        &[
            "unix_role",
            "users",
            "without_token",
            "token_file",
            "identities",
            "hosts",
        ],
    ),
    ("access.users", &["uid", "role"]),
    ("access.identities", &["name", "role"]),
    ("store", &["directory", "max_dataset_gib"]),
    (
        "controller",
        &[
            "uri",
            "open_timeout_ms",
            "silence_max_ms",
            "status_period_ms",
        ],
    ),
    (
        "wiring",
        &[
            "dac_x_range_v",
            "dac_y_range_v",
            "full_deflection_x_v",
            "full_deflection_y_v",
            "dac_x_inverted",
            "dac_y_inverted",
            "flip_x",
            "flip_y",
            "swap_xy",
            "blanker",
            "blanker_active",
            "park",
            "dwell_line",
            "frame_line",
            "interlock_line",
            "relay_line",
            "relay_active",
            "relay_settle_ms",
            "relay_read_back_line",
        ],
    ),
    (
        "column",
        &[
            "high_tension_kv",
            "magnification",
            "probe_current_pa",
            "probe_current_source",
            "probe_current_uncertainty",
            "convergence_mrad",
            "camera_length_mm",
            "probe_radius_nm",
        ],
    ),
    ("field", &["n_rows", "n_cols", "pitch_nm", "detectors"]),
    (
        "calibrations",
        &[
            "id",
            "width_nm",
            "rotation_deg",
            "high_tension_kv",
            "magnification",
            "scale_uncertainty",
        ],
    ),
    (
        "detectors",
        &[
            "name",
            "latency_ns",
            "afterglow_ns",
            "inverted",
            "collection_mrad",
            "dark_adc",
            "gain_adc_per_event",
            "excess",
            "read_noise_adc",
        ],
    ),
    (
        "engine",
        &[
            "watchdog_ms",
            "unblanked_stretch_ms",
            "memory_limit_mib",
            "late_in_a_row",
            "resume_after_trip",
        ],
    ),
    (
        "limits",
        &[
            "max_request_kib",
            "max_connections",
            "max_unix_connections",
            "handshake_timeout_ms",
            "request_timeout_ms",
            "max_header_kib",
            "max_calls",
            "max_streams",
            "max_streams_per_connection",
            "max_upload_mib",
            "max_audit_mib",
        ],
    ),
];

fn one() -> f64 {
    1.0
}

impl Default for ServicePart {
    fn default() -> Self {
        Self {
            name: "beamwright".into(),
            listen: "127.0.0.1:7410".into(),
            unix_socket: PathBuf::new(),
            web_directory: PathBuf::new(),
            tls: None,
        }
    }
}

impl Default for StorePart {
    fn default() -> Self {
        Self {
            directory: "/var/lib/beamwright".into(),
            max_dataset_gib: 1024,
        }
    }
}

impl Default for ControllerPart {
    fn default() -> Self {
        Self {
            uri: "sim:".into(),
            open_timeout_ms: 3000,
            silence_max_ms: 1000,
            status_period_ms: 20,
        }
    }
}

impl Default for WiringPart {
    fn default() -> Self {
        Self {
            dac_x_range_v: [-10.0, 10.0],
            dac_y_range_v: [-10.0, 10.0],
            full_deflection_x_v: [-10.0, 10.0],
            full_deflection_y_v: [-10.0, 10.0],
            dac_x_inverted: false,
            dac_y_inverted: false,
            flip_x: false,
            flip_y: false,
            swap_xy: false,
            blanker: BlankerWord::Fast,
            blanker_active: LevelWord::High,
            park: [-1.0, -1.0],
            dwell_line: None,
            frame_line: None,
            interlock_line: None,
            relay_line: None,
            relay_active: LevelWord::High,
            relay_settle_ms: 20,
            relay_read_back_line: None,
        }
    }
}

impl Default for EnginePart {
    fn default() -> Self {
        Self {
            watchdog_ms: 100,
            unblanked_stretch_ms: 60_000,
            memory_limit_mib: 1024,
            late_in_a_row: 16,
            resume_after_trip: false,
        }
    }
}

impl Default for LimitsPart {
    fn default() -> Self {
        Self {
            max_request_kib: 2048,
            max_connections: 256,
            max_unix_connections: 64,
            handshake_timeout_ms: 3000,
            request_timeout_ms: 5000,
            max_header_kib: 16,
            max_calls: 256,
            max_streams: 256,
            max_streams_per_connection: 64,
            max_upload_mib: 256,
            max_audit_mib: 16,
        }
    }
}

impl ServicePart {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.name.is_empty() || self.name.len() > 128 {
            let value = format!("{} bytes", self.name.len());
            return Err(Invalid::new("service.name", value, "1 to 128 bytes"));
        }
        if self.listen.is_empty() && self.unix_socket.as_os_str().is_empty() {
            return Err(Invalid::new(
                "service.listen",
                "empty",
                "an address, or service.unix_socket",
            ));
        }
        self.address().map(|_| ())
    }

    /// Where it listens; `None` where it does not listen on TCP.
    pub(crate) fn address(&self) -> Result<Option<SocketAddr>, Invalid> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let allowed = "a loopback address and port, such as 127.0.0.1:7410 or [::1]:7410; with [service.tls] any \
                       address: without it whoever is on the network could move the beam";
        match self.listen.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() || self.tls.is_some() => Ok(Some(address)),
            _ => Err(Invalid::new(
                "service.listen",
                format!("{:?}", self.listen),
                allowed,
            )),
        }
    }
}

impl FieldPart {
    /// Side of the default grid where neither file nor specimen say one.
    const SIDE: u32 = 512;

    /// The default field; what the file leaves out is that of `specimen`.
    pub(crate) fn scan_field(&self, specimen: Option<&ScanField>) -> Result<ScanField, Invalid> {
        let default = |of: fn(Grid) -> u32| specimen.map_or(Self::SIDE, |field| of(field.grid));
        let grid = Grid::new(
            self.n_rows.unwrap_or_else(|| default(Grid::n_rows)),
            self.n_cols.unwrap_or_else(|| default(Grid::n_cols)),
        )
        .map_err(|e| e.within("field"))?;
        let pitch = match self.pitch_nm {
            Some(nm) => {
                Pitch::Nanometres(Nanometres::new(nm).map_err(|e| e.named("field.pitch_nm"))?)
            }
            None => specimen.map_or(Pitch::Unknown, |field| field.pitch),
        };
        Ok(ScanField::centred(grid, pitch))
    }
}

impl LimitsPart {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let bounds = [
            ("limits.max_request_kib", self.max_request_kib, 64, 16_384),
            ("limits.max_connections", self.max_connections, 1, 4096),
            (
                "limits.max_unix_connections",
                self.max_unix_connections,
                1,
                4096,
            ),
            (
                "limits.handshake_timeout_ms",
                self.handshake_timeout_ms,
                100,
                60_000,
            ),
            (
                "limits.request_timeout_ms",
                self.request_timeout_ms,
                100,
                60_000,
            ),
            ("limits.max_header_kib", self.max_header_kib, 1, 256),
            ("limits.max_calls", self.max_calls, 8, 4096),
            ("limits.max_streams", self.max_streams, 1, 512),
            (
                "limits.max_streams_per_connection",
                self.max_streams_per_connection,
                1,
                1024,
            ),
            ("limits.max_upload_mib", self.max_upload_mib, 0, 4096),
            ("limits.max_audit_mib", self.max_audit_mib, 1, 1024),
        ];
        for (field, value, min, max) in bounds {
            if !(min..=max).contains(&value) {
                return Err(Invalid::new(field, value, format!("{min} to {max}")));
            }
        }
        Ok(())
    }
}
