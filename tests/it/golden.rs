//! Golden signs, from the specimen through a real controller, the service and the files: a letter F stands upright and
//! unmirrored in data set, preview and exported picture, whatever the wiring; and any one sign that is wrong overturns it.

use crate::api_server::Server;
use crate::process::{Bench, Firmware};
use client::PreviewOptions;
use daemon::Config;
use domain::{
    Angle, DwellTime, Estimator, Exposure, Grid, Nanometres, Pattern, Pitch, Plan, ScanField,
};
use std::path::Path;
use std::time::Duration;

/// Pixels of the F, 0.1 nm each.
const SIDE: usize = 128;

/// How controller and column are wired, or believed to be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wiring {
    pub(crate) swap_xy: bool,
    pub(crate) flip_x: bool,
    pub(crate) flip_y: bool,
    /// By which the column turns the scan, from +x towards +y.
    pub(crate) rotation_deg: f64,
}

impl Wiring {
    /// The physics of a simulated controller, written beside the service's own configuration.
    pub(crate) fn instrument(&self, bench: &Bench) -> String {
        let path = bench.path("instrument.toml");
        let text = format!(
            "preset = \"ideal\"\n[deflection]\nswap_xy = {}\nflip_x = {}\nflip_y = {}\nrotation_rad = {:?}\n",
            self.swap_xy,
            self.flip_x,
            self.flip_y,
            self.rotation_deg.to_radians()
        );
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A controller so wired, over the letter F.
    pub(crate) fn firmware(&self, bench: &Bench) -> Firmware {
        let instrument = self.instrument(bench);
        let specimen = ["--specimen", "f", "--noiseless"];
        let pace = ["--speed", "max", "--instrument", &instrument];
        Firmware::start(&[&specimen[..], &pace].concat())
    }

    /// What an operator would state of it to the service: full deflection is twice the field.
    pub(crate) fn config(&self, bench: &Bench, controller: &str) -> Config {
        let text = format!(
            "[service]\nlisten = \"127.0.0.1:0\"\nunix_socket = \"{socket}\"\n[store]\ndirectory = \"{data}\"\n\
             [controller]\nuri = \"{controller}\"\nsilence_max_ms = 20000\n[engine]\nwatchdog_ms = 1000\n\
             [access]\nwithout_token = \"admin\"\n\
             [wiring]\nswap_xy = {}\nflip_x = {}\nflip_y = {}\n\
             [field]\nn_rows = {SIDE}\nn_cols = {SIDE}\npitch_nm = 0.1\n\
             [[calibrations]]\nid = \"stated\"\nwidth_nm = 25.6\nrotation_deg = {:?}\n",
            self.swap_xy,
            self.flip_x,
            self.flip_y,
            self.rotation_deg,
            socket = bench.path("api.sock").display(),
            data = bench.path("data").display(),
        );
        Config::parse(&text).unwrap()
    }
}

/// Every pixel of the F's field, in a scan turned by `degrees`.
pub(crate) fn whole_field(degrees: f64) -> Plan {
    let grid = Grid::new(SIDE as u32, SIDE as u32).unwrap();
    let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
    let mut field = ScanField::centred(grid, pitch);
    field.rotation = Angle::from_radians(degrees.to_radians()).unwrap();
    let dwell = Exposure::Dwell(DwellTime::from_nanoseconds(500).unwrap());
    let haadf = domain::DetectorName::new("haadf").unwrap();
    Plan {
        pattern: Pattern::Raster,
        estimator: Estimator::Nearest,
        ..Plan::new(field, vec![haadf], dwell)
    }
}

/// The F as it should be seen, drawn once more by hand: stem on the left, arms on top, the lower one shorter.
fn letter(row: usize, col: usize) -> f32 {
    let stem = (24..104).contains(&row) && (40..56).contains(&col);
    let top = (24..40).contains(&row) && (40..96).contains(&col);
    let middle = (56..72).contains(&row) && (40..80).contains(&col);
    f32::from(u8::from(stem || top || middle))
}

type Lies = fn(usize, usize) -> [usize; 2];

/// The eight ways in which a square picture can lie: `[row, column]` of the F that is seen at `[row, column]`.
const WAYS: [(&str, Lies); 8] = [
    ("upright", |r, c| [r, c]),
    ("mirrored left to right", |r, c| [r, LAST - c]),
    ("mirrored top to bottom", |r, c| [LAST - r, c]),
    ("turned by 180°", |r, c| [LAST - r, LAST - c]),
    ("mirrored along the diagonal", |r, c| [c, r]),
    ("turned to the left", |r, c| [c, LAST - r]),
    ("turned to the right", |r, c| [LAST - c, r]),
    ("mirrored along the other diagonal", |r, c| {
        [LAST - c, LAST - r]
    }),
];
const LAST: usize = SIDE - 1;

/// Pearson's correlation.
fn likeness(a: &[f32], b: &[f32]) -> f64 {
    let n = a.len() as f64;
    let mean = |v: &[f32]| v.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a) - ma, f64::from(*b) - mb);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    ab / (aa * bb).sqrt()
}

/// Which way a picture of the F lies; panics where it lies in none.
fn way(picture: &[f32]) -> &'static str {
    assert_eq!(picture.len(), SIDE * SIDE);
    let seen = |lies: Lies| -> Vec<f32> {
        let value = |i: usize| {
            let [row, col] = lies(i / SIDE, i % SIDE);
            letter(row, col)
        };
        (0..SIDE * SIDE).map(value).collect()
    };
    let all = WAYS.map(|(name, lies)| (likeness(picture, &seen(lies)), name));
    let best = all.iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert!(best.0 > 0.97, "no F: {all:?}");
    best.1
}

/// The same field as data set, preview and exported picture.
struct Seen {
    data_set: Vec<f32>,
    preview: Vec<f32>,
    png: Vec<f32>,
}

/// Scans the F with a controller wired as `truly` by a service that believes in `believed`.
async fn seen(truly: Wiring, believed: Wiring, degrees: f64) -> Seen {
    let bench = Bench::new();
    let firmware = truly.firmware(&bench);
    let server = Server::start_with(believed.config(&bench, &firmware.address)).await;
    let ttl = Duration::from_secs(10);
    let lease = server.client.acquire_lease("test", ttl).await.unwrap();
    let request = whole_field(degrees).into();
    let ended = server
        .client
        .acquire(&lease, &request, |_| ())
        .await
        .unwrap();
    assert_eq!(ended.state, client::AcquisitionState::Finished, "{ended:?}");
    let options = PreviewOptions::default();
    let mut preview = server.client.preview(&ended.id, &options).await.unwrap();
    let preview = preview.pictures.remove(0).values;
    crate::api_server::release(lease).await;
    assert!(server.stop().await);
    let path = bench.path(&format!("data/{}.zspy", ended.id));
    let data_set = estimate(&path);
    let name = path.display().to_string();
    let exporting = ["export", &name, "--format", "png", "--out", "png", "--json"];
    let exported = bench.run(&exporting);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    let files = exported.json()["files"].clone();
    let is_estimate = |file: &&serde_json::Value| file.as_str().unwrap().contains("estimate");
    let file = files
        .as_array()
        .unwrap()
        .iter()
        .find(is_estimate)
        .unwrap()
        .as_str()
        .unwrap();
    Seen {
        data_set,
        preview,
        png: grey(&bench.work().join(file)),
    }
}

fn estimate(path: &Path) -> Vec<f32> {
    let set = store::DataSet::open(path).unwrap();
    let maps = set.maps().unwrap();
    let map = maps
        .iter()
        .find(|m| m.name.starts_with("estimate"))
        .unwrap();
    set.read_map(&map.name, 0, set.header().plan.field.grid.rect())
        .unwrap()
}

/// Grey values of an RGB picture, `[row, column]`.
fn grey(path: &Path) -> Vec<f32> {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    let (pixels, rest) = bytes.as_chunks::<3>();
    assert!(rest.is_empty());
    pixels.iter().map(|[red, ..]| f32::from(*red)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_f_stands_upright_in_data_set_preview_and_picture_however_it_is_wired() {
    let all = [
        Wiring::default(),
        Wiring {
            swap_xy: true,
            flip_x: true,
            ..Wiring::default()
        },
        Wiring {
            swap_xy: true,
            flip_y: true,
            rotation_deg: 30.0,
            ..Wiring::default()
        },
        Wiring {
            flip_x: true,
            flip_y: true,
            rotation_deg: -75.0,
            ..Wiring::default()
        },
    ];
    for wiring in all {
        let seen = seen(wiring, wiring, 0.0).await;
        for (what, picture) in [
            ("data set", &seen.data_set),
            ("preview", &seen.preview),
            ("PNG", &seen.png),
        ] {
            assert_eq!(way(picture), "upright", "{what}, {wiring:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_sign_that_is_wrong_overturns_the_f_its_own_way() {
    let straight = Wiring::default();
    let wrong = [
        (
            Wiring {
                flip_x: true,
                ..straight
            },
            "mirrored left to right",
        ),
        (
            Wiring {
                flip_y: true,
                ..straight
            },
            "mirrored top to bottom",
        ),
        (
            Wiring {
                swap_xy: true,
                ..straight
            },
            "mirrored along the diagonal",
        ),
        // Where the scan lies turned to the right on the specimen, the picture of it is turned to the left.
        (
            Wiring {
                rotation_deg: 90.0,
                ..straight
            },
            "turned to the left",
        ),
    ];
    for (truly, expected) in wrong {
        assert_eq!(way(&seen(truly, straight, 0.0).await.data_set), expected);
    }
    // A rotation believed the wrong way round doubles instead of cancelling.
    let [truly, believed] = [45.0, -45.0].map(|rotation_deg| Wiring {
        rotation_deg,
        ..straight
    });
    assert_eq!(
        way(&seen(truly, believed, 0.0).await.data_set),
        "turned to the left"
    );
    // The same by request: a positive scan rotation turns +x towards +y.
    assert_eq!(
        way(&seen(straight, straight, 90.0).await.png),
        "turned to the left"
    );
}
