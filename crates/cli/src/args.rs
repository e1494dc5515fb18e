//! The command line: verbs and their options. Values are checked by the domain, not here.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Scan control for electron microscopes: sparse, adaptive, dose-aware.
#[derive(Debug, Parser)]
#[command(name = "beamwright", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// Print one JSON document as the last line of stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The main job in one go: a sparse scan on a simulated microscope through the real service
    #[cfg(feature = "serve")]
    Demo(DemoArgs),
    /// Run the service
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// The same acquisition offline, on virtual time, without a server
    #[cfg(feature = "serve")]
    Simulate(SimulateArgs),
    /// Reconstruct a data set again with another estimator
    #[cfg(feature = "serve")]
    Reconstruct(ReconstructArgs),
    /// Run a recorded acquisition again and compare every decision
    #[cfg(feature = "serve")]
    Replay(PathArg),
    /// Finish the data set of an acquisition that was cut short
    #[cfg(feature = "serve")]
    Recover(PathArg),
    /// Write the pictures and arrays of a data set to files
    #[cfg(feature = "serve")]
    Export(ExportArgs),
    /// Measure this machine
    #[cfg(feature = "serve")]
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Certificates of a laboratory: for a service that is reached over the network
    #[cfg(feature = "serve")]
    Certs {
        #[command(subcommand)]
        what: Certs,
    },
    /// What this machine can keep: rights, clock, link, disk, and a verdict
    #[cfg(feature = "serve")]
    Doctor(DoctorArgs),
    /// How late this machine is
    #[cfg(feature = "serve")]
    LatencyTest(LatencyArgs),
    /// The log of who commanded what
    #[cfg(feature = "serve")]
    Audit {
        #[command(subcommand)]
        what: Audit,
    },
    /// Tokens: who may call on the loopback port of the service on this machine
    #[cfg(feature = "serve")]
    Token {
        #[command(subcommand)]
        what: Token,
    },
    /// Acquire, and follow the acquisition until it ends
    Acquire(AcquireArgs),
    /// Endless fast low-dose frames for finding and focusing; Ctrl-C ends them
    View(ViewArgs),
    /// Follow an acquisition
    Watch(IdArgs),
    /// Live view in the terminal: picture, progress and dose, with keys for control, start, pause, blank and abort
    Tui(TuiArgs),
    /// What the instrument is doing
    Status(ServerArgs),
    /// Acquisitions on the server
    List(ServerArgs),
    /// One acquisition in full
    Show(IdArgs),
    /// Stop submitting; the beam is blanked once what the controller holds is exposed
    Pause(IdArgs),
    /// Go on after a pause or a cleared trip; follows it to its end where no other terminal of this user holds control
    Resume(IdArgs),
    /// Blank and end the acquisition; what was recorded is kept
    Abort(IdArgs),
    /// Blank the beam now, whoever is scanning
    Blank(ServerArgs),
    /// Clear a latched trip, named by its id
    ClearTrip(ClearTripArgs),
    /// Take or release control of the instrument
    Control {
        #[command(subcommand)]
        what: Control,
    },
    /// Scan controller, detectors and column
    Devices(ServerArgs),
    /// Measure a calibration
    Calibrate {
        #[command(subcommand)]
        what: Calibrate,
    },
}

/// Where `serve` listens, too, without a configuration.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:7410";

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Server: http://HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(
        long,
        env = "BEAMWRIGHT_SERVER",
        default_value = DEFAULT_SERVER
    )]
    pub(crate) server: String,
    /// Token that says who calls
    #[arg(
        long,
        env = "BEAMWRIGHT_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub(crate) token: Option<String>,
    /// File that holds the token
    #[arg(long, env = "BEAMWRIGHT_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate of the authority of an https server, PEM
    #[arg(long, env = "BEAMWRIGHT_CA", requires = "cert")]
    pub(crate) ca: Option<PathBuf>,
    /// Certificate of this client, PEM
    #[arg(long, env = "BEAMWRIGHT_CERT", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, env = "BEAMWRIGHT_KEY", requires = "ca")]
    pub(crate) key: Option<PathBuf>,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Folder on the disk that data sets are written to
    #[arg(long, default_value = ".")]
    pub(crate) directory: PathBuf,
    /// The controller's watchdog, ms, 5 to 1000
    #[arg(long, default_value_t = 100)]
    pub(crate) watchdog_ms: u32,
    /// Work held by the controller, ms, 1 to 1000
    #[arg(long, default_value_t = 20)]
    pub(crate) lead_ms: u32,
    /// Time to measure, s
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u32,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Time to measure, s
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u32,
}

#[cfg(feature = "serve")]
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Verify that no line was changed, moved or left out; names the first that was
    Verify {
        /// The store's directory, or one file of the log
        path: PathBuf,
    },
}

#[cfg(feature = "serve")]
#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Make an authority, and the certificate of the service
    Init {
        /// Folder, made if missing
        directory: PathBuf,
        /// Name or address under which clients reach the service; may be repeated
        #[arg(long, required = true)]
        host: Vec<String>,
    },
    /// Issue the certificate of a client
    Issue {
        /// Folder that `init` made
        directory: PathBuf,
        /// Name of the client, as in access.identities
        name: String,
    },
}

#[cfg(feature = "serve")]
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, this once; a running service knows it at once
    Add {
        /// Who it stands for
        name: String,
        /// What they may do: observer, operator, admin
        #[arg(long)]
        role: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Remove a token; a running service refuses it at once
    Remove {
        /// Who it stands for
        name: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Names and roles
    List(ConfigArg),
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct ConfigArg {
    /// Configuration of the service; without one that of a `serve` without configuration
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// Acquisition id; if left out, the one that has the beam, else the newest
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ClearTripArgs {
    /// Id of the trip, as `status` shows it
    pub(crate) trip: u32,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Control {
    /// Take the control lease and hold it until Ctrl-C
    Take(ServerArgs),
    /// Release the lease that `take` of this user holds
    Release(ServerArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Calibrate {
    /// Lengths: one frame of a crystal lattice of known spacing, corrects pitch, aspect and shear
    Field {
        /// The lattice: A, A:ANGLE, AxB or AxB:ANGLE; spacings in nm and angle in degrees (left out: 90 or 60, as the image shows).
        /// The bundled MoS2 of the simulated microscope is 0.316:60
        #[arg(long, allow_hyphen_values = true)]
        lattice: String,
        /// Detector that sees the lattice (default: the instrument's default)
        #[arg(long)]
        detector: Option<String>,
        /// Direction of the lattice's first vector where it is known, degrees from +x (right) towards +y (down): tells of a turned
        /// or mirrored scan (default: as the calibration in force found it, if on the same lattice)
        #[arg(long, allow_negative_numbers = true)]
        direction: Option<f64>,
        #[command(flatten)]
        args: CalibrateArgs,
    },
    /// Dark level (one frame blanked) and gain (photon transfer on pairs of frames) of detectors
    Detector {
        /// Detectors, comma-separated (default: all)
        #[arg(long, value_delimiter = ',')]
        detector: Vec<String>,
        /// Pairs of frames, 1 to 64
        #[arg(long, default_value_t = 4)]
        pairs: u32,
        /// Excess noise factor of the detector, 1 to 100; `measure`: by counting empty reads, which needs a faint beam
        /// (default: that of the calibration in force)
        #[arg(long, allow_hyphen_values = true)]
        excess: Option<String>,
        #[command(flatten)]
        args: CalibrateArgs,
    },
    /// Dynamics of the scan coils, by jumping onto places with contrast and counting while the beam arrives: acquisitions are
    /// then placed where the coils carried the beam, and need not wait for them. The places get all of the beam time
    Coil {
        /// Detector that counts (default: the instrument's default)
        #[arg(long)]
        detector: Option<String>,
        /// Beam time per axis, ms, 50 to 1000
        #[arg(long, default_value_t = 1000)]
        beam_ms: u32,
        #[command(flatten)]
        args: RunArgs,
    },
}

/// How any calibration is run.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Most electrons it may spend (default: a tenth over what it needs)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) max_electrons: Option<f64>,
    /// Store the result without putting it in force
    #[arg(long)]
    pub(crate) store_only: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// How a calibration of whole frames is run.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// Dwell, µs (default: 1)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) dwell_us: Option<f64>,
    /// Grid over the default field, N or ROWSxCOLUMNS (default: 512 for a field, 256 for a detector)
    #[arg(long)]
    pub(crate) pixels: Option<String>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What is scanned and how; the same for `acquire`, `simulate` and `view`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Pattern or policy: raster, serpentine, interleaved, random, jittered, poisson-disc, line-hop, spiral, list, adaptive, …
    #[arg(long, default_value = "jittered")]
    pub(crate) pattern: String,
    /// Positions for `--pattern list`: CSV `row,col[,dwell_us]` or .npy
    #[arg(long)]
    pub(crate) list: Option<PathBuf>,
    /// Exposures ÷ pixels, above 0, at most 1
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) fraction: f64,
    /// Order of visiting
    #[arg(long, value_enum, default_value_t = OrderArg::Default)]
    pub(crate) order: OrderArg,
    /// Frames of a series
    #[arg(long, default_value_t = 1)]
    pub(crate) frames: u32,
    /// Average the frames into one estimate
    #[arg(long)]
    pub(crate) average: bool,
    /// Dwell per position, µs (default 1)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) dwell_us: Option<f64>,
    /// Electrons per position; sets the dwell
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) electrons_per_position: Option<f64>,
    /// Mean dose over the field, everything unblanked included, e/Å²; sets the dwell
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) dose_e_per_a2: Option<f64>,
    /// Detectors, comma-separated
    #[arg(long, value_delimiter = ',')]
    pub(crate) detector: Vec<String>,
    /// Estimator: nearest, natural, kernel, kriging, gmm, gp, bpfa, auto
    #[arg(long, default_value = "auto")]
    pub(crate) estimator: String,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Blanking between positions: auto, never, always, or a jump length in px
    #[arg(long, default_value = "auto")]
    pub(crate) blank_travel: String,
    /// Settle times as JUMP_PX:SETTLE_US pairs, comma-separated, e.g. 1:5,10:15,100:36
    #[arg(long)]
    pub(crate) settle: Option<String>,
    /// Flyback of a dense raster, µs
    #[arg(long, default_value_t = 30.0, allow_negative_numbers = true)]
    pub(crate) flyback_us: f64,
    /// Never spend more electrons than this on the whole acquisition
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) max_electrons: Option<f64>,
    /// Never exceed this mean dose, e/Å²
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) max_dose_e_per_a2: Option<f64>,
    /// Never exceed this dose in any disc, as DOSE_E_PER_A2:RADIUS_NM
    #[arg(long)]
    pub(crate) max_area_dose: Option<String>,
    /// Never spend more electrons than this on one pixel
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) max_position_electrons: Option<f64>,
    /// Stop after so much scan time, s
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) until_s: Option<f64>,
    /// Stop when two halves of the samples agree down to this period, nm
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) until_resolution_nm: Option<f64>,
    /// Stop when the standard deviation is below this share of the mean signal everywhere, e.g. 0.02
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) until_precision: Option<f64>,
    /// Work held by the controller, ms (default 20; `simulate` with a policy: 1, as deciding takes no virtual time)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) lead_ms: Option<f64>,
    /// Positions per decision, 64 to 4096 (default 1024, for policies 256)
    #[arg(long)]
    pub(crate) batch: Option<u32>,
    /// Title, operator, specimen and notes of the data set
    #[arg(long, default_value = "")]
    pub(crate) title: String,
    /// Operator
    #[arg(long, default_value = "")]
    pub(crate) operator: String,
    /// Specimen
    #[arg(long, default_value = "")]
    pub(crate) sample: String,
    /// Notes
    #[arg(long, default_value = "")]
    pub(crate) notes: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    /// Interleaved bands for sparse patterns, as given for dense ones
    Default,
    /// As the pattern generates it
    AsGiven,
    /// Bands of rows
    Bands,
    /// Bands in four interleaved passes
    InterleavedBands,
    /// A short tour
    ShortTour,
}

/// What `simulate` does about lagging coils.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CoilsArg {
    /// Wait after every jump (or as --settle says)
    Wait,
    /// Spend up to a second of beam per axis on jumps, then wait for nothing and place every sample by the model found
    Identify,
    /// Wait for nothing (or as --settle says) and believe every command
    Ignore,
}

/// Which part of the specimen, for scans on a server.
#[derive(Debug, Args)]
pub(crate) struct FieldArgs {
    /// Pixels: N or ROWSxCOLUMNS (the instrument's default if left out)
    #[arg(long)]
    pub(crate) pixels: Option<String>,
    /// Field of view along x, nm (the instrument's default if left out)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) fov_nm: Option<f64>,
    /// Centre of the field, X,Y in nm
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) centre_nm: Option<String>,
    /// Scan rotation, degrees; positive turns +x towards +y
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) rotation_deg: f64,
    /// Only this rectangle of the field: X0,Y0,X1,Y1 in nm
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) region_nm: Option<String>,
    /// Only these pixels of an earlier acquisition: ID:ROW,COL,ROWS,COLUMNS
    #[arg(long)]
    pub(crate) region_of: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AcquireArgs {
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Only validate and predict time, dose and storage
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go on without this client, for at most so many seconds, within --max-electrons or --max-dose-e-per-a2
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) detach_s: Option<f64>,
    /// After the watchdog tripped, clear and go on by itself so often a minute, 1 to 3, where the service allows it
    #[arg(long)]
    pub(crate) resume_after_trip: Option<u32>,
    /// Start from what another has learned, if that predicts better: an acquisition ID, a data set, or the file `model` in one
    #[arg(long, value_name = "FILE|ID")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// What the key `s` starts is planned as for `acquire`.
#[derive(Debug, Args)]
pub(crate) struct TuiArgs {
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Dwell per position, µs
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) dwell_us: f64,
    /// Exposures ÷ pixels per frame
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) fraction: f64,
    /// Largest mean dose rate, e/Å²/s (default: 100 where the pixel size is known)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) max_dose_rate: Option<f64>,
    /// End before more electrons than this are spent; bounds a view where the pixel size is unknown
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) max_electrons: Option<f64>,
    /// End after so much scan time, s; bounds a view where the probe current is unknown
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) until_s: Option<f64>,
    /// Detector
    #[arg(long)]
    pub(crate) detector: Option<String>,
    /// End after so many frames (0: until Ctrl-C)
    #[arg(long, default_value_t = 0)]
    pub(crate) frames: u32,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder for the data set and the picture
    #[arg(long, default_value = ".")]
    pub(crate) out: PathBuf,
    /// Exposures ÷ pixels
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) fraction: f64,
    /// Pattern
    #[arg(long, default_value = "jittered")]
    pub(crate) pattern: String,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// HOST:PORT instead of what the configuration says; port 0 takes any free one
    #[arg(long)]
    pub(crate) listen: Option<String>,
    /// Serve the web page from this directory instead of from the binary, for whoever works on it
    #[arg(long)]
    pub(crate) web_dir: Option<PathBuf>,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Folder with meta.json + data.npy, or a .npy, PNG or TIFF file
    pub(crate) specimen: PathBuf,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Probe current, pA (default 10)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) current_pa: Option<f64>,
    /// Expected values instead of counts; `electrons` = 1
    #[arg(long)]
    pub(crate) noiseless: bool,
    /// Preset `ideal`: every imperfection off, counting noise stays
    #[arg(long, conflicts_with = "instrument")]
    pub(crate) ideal: bool,
    /// stem, sem, electrostatic, ideal, or a TOML file
    #[arg(long)]
    pub(crate) instrument: Option<String>,
    /// Coils that lag: wait until they have settled, identify them first and predict where every sample was, or ignore it
    #[arg(long, value_enum, default_value_t = CoilsArg::Wait)]
    pub(crate) coils: CoilsArg,
    /// Pixel size of a bare file, nm
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) pixel_nm: Option<f64>,
    /// Mean that grey values of real images are scaled to, detected per incident electron
    #[arg(long, default_value_t = 0.05, allow_negative_numbers = true)]
    pub(crate) real_mean: f64,
    /// Start from what an earlier acquisition has learned, where that predicts this one better: a data set, or the file
    /// `model` in one
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Data set to write
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct ReconstructArgs {
    /// Data set
    pub(crate) dataset: PathBuf,
    /// Estimator
    #[arg(long)]
    pub(crate) estimator: String,
    /// Start from what another acquisition has learned, where that predicts this one better: a data set, or the file
    /// `model` in one
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Data set to write
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct PathArg {
    /// Data set
    pub(crate) path: PathBuf,
}

#[cfg(feature = "serve")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Pictures, 8 bit
    Png,
    /// Planes, 32-bit float
    Tiff,
    /// Planes, and every column of the samples, as NumPy arrays
    Npy,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Data set
    pub(crate) dataset: PathBuf,
    /// Format
    #[arg(long, value_enum)]
    pub(crate) format: ExportFormat,
    /// Folder to write to (beside the data set if left out)
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[cfg(feature = "serve")]
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Positions per second: firmware-sim over TCP, HAL, engine, journal
    Stream {
        /// Positions per run
        #[arg(long, default_value_t = 20_000_000)]
        positions: u64,
        /// Runs; the best is reported
        #[arg(long, default_value_t = 3)]
        runs: u32,
        /// The simulated controller's executable (beside this one if left out)
        #[arg(long)]
        firmware_sim: Option<PathBuf>,
    },
    /// The same through the service to a gRPC client, which proves that every sample arrives once, in its place
    Grpc {
        /// Positions
        #[arg(long, default_value_t = 10_000_000)]
        positions: u64,
        /// The simulated controller's executable (beside this one if left out)
        #[arg(long)]
        firmware_sim: Option<PathBuf>,
    },
    /// Decisions while the beam scans: idle time, latency and round trips of the built-in policy and of a client
    Loop(BenchLoopArgs),
    /// Quality and cost of estimators on specimens: folders or files as `simulate` takes them
    Recon(BenchReconArgs),
    /// A policy against the jittered frame of the same scan time, on a simulated instrument
    Time(BenchTimeArgs),
    /// Sparse scans against the best denoised full scan of the same incident dose, on an ideal instrument
    Dose(BenchDoseArgs),
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct BenchTimeArgs {
    /// Specimens
    #[arg(required = true)]
    pub(crate) specimens: Vec<PathBuf>,
    /// Policy
    #[arg(long, default_value = "adaptive")]
    pub(crate) pattern: String,
    /// Instruments, comma-separated
    #[arg(long = "instrument", default_value = "stem,sem", value_delimiter = ',')]
    pub(crate) instruments: Vec<String>,
    /// Dwells, µs, comma-separated
    #[arg(
        long = "dwell-us",
        default_value = "2,5,20",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub(crate) dwells: Vec<f64>,
    /// Positions ÷ pixels of the jittered frame
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) fraction: f64,
    /// Probe current, pA
    #[arg(long, default_value_t = 100.0, allow_negative_numbers = true)]
    pub(crate) current_pa: f64,
    /// What is done about coils that lag
    #[arg(long, value_enum, default_value_t = CoilsArg::Wait)]
    pub(crate) coils: CoilsArg,
    /// Seeds, from 1
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: u64,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct BenchDoseArgs {
    /// Specimens
    #[arg(required = true)]
    pub(crate) specimens: Vec<PathBuf>,
    /// Sparse patterns and policies, comma-separated
    #[arg(
        long = "pattern",
        default_value = "jittered,adaptive,revisit",
        value_delimiter = ','
    )]
    pub(crate) patterns: Vec<String>,
    /// Estimators that denoise the full scan, comma-separated; the best of them counts
    #[arg(long, default_value = "auto,kriging,gp", value_delimiter = ',')]
    pub(crate) estimators: Vec<String>,
    /// Events per pixel of the full scan, comma-separated
    #[arg(
        long,
        default_value = "0.3,1,3,10",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub(crate) counts: Vec<f64>,
    /// Positions ÷ pixels of the sparse scans
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) fraction: f64,
    /// Seed of patterns and counts
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct BenchLoopArgs {
    /// Runs of each kind, whose medians are told
    #[arg(long, default_value_t = 10)]
    pub(crate) runs: u32,
    /// Leads, ms, comma-separated
    #[arg(
        long,
        default_value = "5,10,20,50",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub(crate) leads: Vec<f64>,
    /// Positions per decision of the client, comma-separated
    #[arg(long, default_value = "64,256", value_delimiter = ',')]
    pub(crate) batches: Vec<u32>,
    /// Dwell, µs
    #[arg(long, default_value_t = 5.0, allow_negative_numbers = true)]
    pub(crate) dwell_us: f64,
    /// Positions ÷ pixels
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) fraction: f64,
    /// The simulated controller's executable (beside this one if left out)
    #[arg(long)]
    pub(crate) firmware_sim: Option<PathBuf>,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct BenchReconArgs {
    /// Specimens
    #[arg(required = true)]
    pub(crate) specimens: Vec<PathBuf>,
    /// Estimators, comma-separated
    #[arg(long, default_value = "kriging,auto", value_delimiter = ',')]
    pub(crate) estimators: Vec<String>,
    /// Positions ÷ pixels, jittered; 1 is a whole raster
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) fraction: f64,
    /// Events per visited pixel on average (noiseless if left out)
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) counts: Option<f64>,
    /// Only the middle N×N pixels
    #[arg(long)]
    pub(crate) crop: Option<u32>,
    /// Seed of pattern and counts
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Threads of the estimator
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Live steps to time (0: none)
    #[arg(long, default_value_t = 0)]
    pub(crate) live: u32,
    /// Folder for truth, samples, mean and uncertainty of each specimen and estimator, as NumPy arrays
    #[arg(long)]
    pub(crate) export: Option<PathBuf>,
}
