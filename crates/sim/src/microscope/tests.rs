//! The whole way from codes to counts, against closed forms.

use super::*;
use crate::instrument::{Coil, Deflection};
use wire::Points;

fn microscope(change: impl FnOnce(&mut Instrument), specimen: Specimen) -> Microscope {
    let mut instrument = Instrument::ideal();
    change(&mut instrument);
    Microscope::new(&instrument, specimen, 5).unwrap()
}

fn bytes(points: &[[u16; 2]]) -> Vec<u8> {
    points
        .iter()
        .flatten()
        .flat_map(|&c| wire::whitened(c))
        .collect()
}

fn run(
    microscope: &mut Microscope,
    points: &[[u16; 2]],
    timing: Timing,
    start: u64,
    is_on: bool,
) -> Vec<u16> {
    let bytes = bytes(points);
    let mut samples = vec![0; points.len() * microscope.n_detectors()];
    let run = Run {
        start: Tick(start),
        timing,
        points: Points::read(&bytes).unwrap(),
        is_beam_on: is_on,
    };
    microscope.expose_run(&run, &mut samples);
    samples
}

const fn timing(settle_ticks: u32, dwell_ticks: u32, flags: PositionFlags) -> Timing {
    Timing {
        settle_ticks,
        dwell_ticks,
        flags,
    }
}

/// Codes of pixel `[column, row]` by the host's belief.
fn code(microscope: &Microscope, place: [f64; 2]) -> [u16; 2] {
    let image = microscope.specimen().image().unwrap();
    let unit = image.pixel_units();
    let centre = [image.n_cols, image.n_rows].map(|n| (f64::from(n) - 1.0) / 2.0);
    let nm = [0, 1].map(|i| (place[i] - centre[i]) * unit);
    microscope
        .nominal_dac_from_field()
        .apply(nm)
        .map(|c| c.round() as u16)
}

#[test]
fn noiseless_samples_are_the_pixels_themselves() {
    let mut m = microscope(|i| i.probe.noiseless = true, Specimen::bundled());
    let places: Vec<[f64; 2]> = (0..512)
        .map(|i| [f64::from(i), f64::from((i * 37) % 512)])
        .collect();
    let points: Vec<[u16; 2]> = places.iter().map(|&p| code(&m, p)).collect();
    let samples = run(
        &mut m,
        &points,
        timing(0, 777, PositionFlags::NONE),
        0,
        false,
    );
    let Specimen::Image(image) = Specimen::bundled() else {
        panic!()
    };
    for (sample, place) in samples.chunks_exact(2).zip(places) {
        for (d, &counts) in sample.iter().enumerate() {
            let got = f64::from(counts) / m.detectors()[d].gain;
            let want =
                f64::from(image.planes[d].values[place[1] as usize * 512 + place[0] as usize]);
            // Half a code of the ADC.
            assert!((got - want).abs() <= 0.5001 / m.detectors()[d].gain);
        }
    }
}

#[test]
fn counts_are_poisson_with_the_current_and_dwell() {
    let mut m = microscope(|i| i.detector.gain = 1.0, Specimen::letter_f());
    // The stem of the F: 0.5. 10 pA for 2 µs are 124.83 electrons.
    let point = code(&m, [47.0, 60.0]);
    let n = 100_000;
    let samples = run(
        &mut m,
        &vec![point; n],
        timing(0, 2000, PositionFlags::NONE),
        0,
        false,
    );
    let lambda = 0.5 * 10e-12 / 1.602_176_634e-19 * 2e-6;
    let mean = samples.iter().map(|&s| f64::from(s)).sum::<f64>() / n as f64;
    let var = samples
        .iter()
        .map(|&s| (f64::from(s) - mean).powi(2))
        .sum::<f64>()
        / n as f64;
    assert!(
        (mean - lambda).abs() < 5.0 * (lambda / n as f64).sqrt(),
        "{mean} against {lambda}"
    );
    assert!(
        (var / lambda - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(),
        "{var} against {lambda}"
    );
}

#[test]
fn detectors_count_independently() {
    let mut m = microscope(|i| i.detector.gain = 1.0, Specimen::bundled());
    let point = code(&m, [200.0, 300.0]);
    let n = 50_000;
    let samples = run(
        &mut m,
        &vec![point; n],
        timing(0, 20_000, PositionFlags::NONE),
        0,
        false,
    );
    let column = |d: usize| {
        samples
            .iter()
            .skip(d)
            .step_by(2)
            .map(|&s| f64::from(s))
            .collect::<Vec<_>>()
    };
    let (a, b) = (column(0), column(1));
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let cov = a
        .iter()
        .zip(&b)
        .map(|(x, y)| (x - ma) * (y - mb))
        .sum::<f64>()
        / n as f64;
    assert!((cov / (ma * mb).sqrt()).abs() < 5.0 / (n as f64).sqrt());
}

#[test]
fn how_positions_are_batched_changes_nothing() {
    let everything = |i: &mut Instrument| {
        *i = Instrument::stem();
        i.damage.critical_dose_e_per_a2 = 1e4;
        i.detector.latency_ns = 130.0;
    };
    let points: Vec<[u16; 2]> = (0..600u32)
        .map(|i| {
            [
                30_000 + (i * 7919 % 5000) as u16,
                31_000 + (i * 104_729 % 4000) as u16,
            ]
        })
        .collect();
    let t = timing(700, 1300, PositionFlags::NONE);
    let mut whole = microscope(everything, Specimen::bundled());
    let all = run(&mut whole, &points, t, 50, false);
    let mut parts = microscope(everything, Specimen::bundled());
    let mut got = Vec::new();
    let mut start = 50;
    for part in points.chunks(7) {
        got.extend(run(&mut parts, part, t, start, start > 50));
        start += 2000 * part.len() as u64;
    }
    assert_eq!(got, all);
    // And one by one, as the state machine drives hardware without batches.
    struct OneByOne(Microscope);
    impl Hardware for OneByOne {
        fn n_detectors(&self) -> usize {
            self.0.n_detectors()
        }
        fn configure(&mut self, c: &Configuration) {
            self.0.configure(c);
        }
        fn set_beam(&mut self, is_on: bool, at: Tick) {
            self.0.set_beam(is_on, at);
        }
        fn move_to(&mut self, point: DacPoint, at: Tick) {
            self.0.move_to(point, at);
        }
        fn start_integration(&mut self, at: Tick) {
            self.0.start_integration(at);
        }
        fn finish_integration(&mut self, at: Tick, s: &mut [u16]) {
            self.0.finish_integration(at, s);
        }
        fn abandon_integration(&mut self, at: Tick) {
            self.0.abandon_integration(at);
        }
        fn set_external_scan(&mut self, is_on: bool, at: Tick) {
            self.0.set_external_scan(is_on, at);
        }
    }
    let mut single = OneByOne(microscope(everything, Specimen::bundled()));
    let bytes = bytes(&points);
    let mut samples = vec![0; all.len()];
    let whole_run = Run {
        start: Tick(50),
        timing: t,
        points: Points::read(&bytes).unwrap(),
        is_beam_on: false,
    };
    single.expose_run(&whole_run, &mut samples);
    assert_eq!(samples, all);
}

#[test]
fn another_seed_gives_other_counts() {
    let counts = |seed| {
        let mut m = Microscope::new(&Instrument::ideal(), Specimen::bundled(), seed).unwrap();
        run(
            &mut m,
            &[[32_768; 2]; 50],
            timing(0, 1000, PositionFlags::NONE),
            0,
            false,
        )
    };
    assert_eq!(counts(1), counts(1));
    assert_ne!(counts(1), counts(2));
}

#[test]
fn the_letter_f_stands_upright_where_the_host_believes_and_falls_where_it_does_not() {
    let bright = |change: fn(&mut Deflection), place: [f64; 2]| {
        let with = |i: &mut Instrument| {
            i.probe.noiseless = true;
            change(&mut i.deflection);
        };
        let mut m = microscope(with, Specimen::letter_f());
        let point = code(&m, place);
        let sample = run(
            &mut m,
            &[point],
            timing(0, 100, PositionFlags::NONE),
            0,
            false,
        );
        f64::from(sample[0]) / m.detectors()[0].gain > 0.25
    };
    // Right end of the top arm (column 90, row 30), and its mirror images.
    let places = [[90.0, 30.0], [37.0, 30.0], [90.0, 97.0], [37.0, 97.0]];
    let seen = |change: fn(&mut Deflection)| places.map(|p| bright(change, p));
    assert_eq!(seen(|_| ()), [true, false, false, false]);
    assert_eq!(seen(|d| d.flip_x = true), [false, true, false, false]);
    assert_eq!(seen(|d| d.flip_y = true), [false, false, true, false]);
    assert_eq!(
        seen(|d| d.rotation_rad = std::f64::consts::PI),
        [false, false, false, true]
    );
    // The foot of the stem (column 47, row 95): swapped axes put it at (95, 47), which is dark.
    assert!(bright(|_| (), [47.0, 95.0]) && !bright(|_| (), [95.0, 47.0]));
    assert!(
        !bright(|d| d.swap_xy = true, [47.0, 95.0]) && bright(|d| d.swap_xy = true, [95.0, 47.0])
    );
}

#[test]
fn the_code_specimen_returns_codes_and_exposure_numbers() {
    let mut m = Microscope::new(&Instrument::stem(), Specimen::Code, 1).unwrap();
    let points: Vec<[u16; 2]> = (0..70_000u32)
        .map(|i| [(i * 31) as u16, (i * 17) as u16])
        .collect();
    let samples = run(
        &mut m,
        &points,
        timing(0, 100, PositionFlags::NONE),
        0,
        false,
    );
    for (i, (sample, point)) in samples.chunks_exact(4).zip(&points).enumerate() {
        assert_eq!(sample, [point[0], point[1], i as u16, (i >> 16) as u16]);
    }
}

#[test]
fn truth_books_every_electron_in_the_dwell_or_outside_it() {
    let with = |i: &mut Instrument| {
        i.blanker.closing_ns = 400.0;
        i.blanker.opening_ns = 200.0;
    };
    let mut m = microscope(with, Specimen::bundled());
    m.record_truth(true);
    // Beam on while settling: 62.415 e/µs.
    run(
        &mut m,
        &[[32_768; 2]; 3],
        timing(1000, 2000, PositionFlags::NONE),
        0,
        false,
    );
    m.set_beam(false, Tick(9000));
    m.set_beam(true, Tick(20_000));
    m.set_beam(false, Tick(20_000));
    let truth = m.take_truth();
    let rate = 10e-12 / 1.602_176_634e-19 * 1e-9;
    let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} against {want}");
    near(truth.electrons[0], 2000.0 * rate);
    // Opening costs half its time.
    near(truth.electrons_outside[0], 900.0 * rate);
    near(truth.electrons_outside[2], 1000.0 * rate);
    // Closing lets half its time through.
    near(
        m.incident_electrons(),
        (900.0 + 2000.0 + 2.0 * 3000.0 + 200.0) * rate,
    );
    assert_eq!(truth.place.len(), 3);
    assert!((truth.place[1][0] - 255.5).abs() < 1e-3);
}

#[test]
fn blanked_exposures_read_the_dark_level_and_cost_nothing() {
    let with = |i: &mut Instrument| (i.detector.dark, i.detector.read_noise) = (321.0, 0.0);
    let mut m = microscope(with, Specimen::bundled());
    let samples = run(
        &mut m,
        &[[32_768; 2]; 5],
        timing(0, 5000, PositionFlags::BLANKED),
        0,
        false,
    );
    assert_eq!(samples, [321; 10]);
    assert_eq!(m.incident_electrons(), 0.0);
}

#[test]
fn a_lagging_coil_smears_and_displaces_the_dwell() {
    let with = |i: &mut Instrument| {
        i.coil.x = Coil {
            f0_khz: 60.0,
            ..Coil::OFF
        };
        i.coil.y = i.coil.x;
    };
    let mut m = microscope(with, Specimen::bundled());
    m.record_truth(true);
    // Steps of 1 px per µs along x: beyond the transient the beam is 2ζ/ω0 = 3.71 µs behind.
    let points: Vec<[u16; 2]> = (0..60)
        .map(|i| code(&m, [100.0 + f64::from(i), 200.0]))
        .collect();
    m.move_to(DacPoint::new(points[0][0], points[0][1]), Tick(0));
    run(
        &mut m,
        &points,
        timing(0, 1000, PositionFlags::NONE),
        1_000_000,
        false,
    );
    let truth = m.take_truth();
    let lag = 159.0 + 0.5 - f64::from(truth.place[59][0]) - 0.5;
    // The mean over the dwell lies half a step before its end, the hold puts the command half a step ahead.
    assert!(
        (lag + 0.5 - 0.5 - 2.0 * 0.7 / (std::f64::consts::TAU * 0.06)).abs() < 0.02,
        "{lag}"
    );
    assert!((f64::from(truth.place[59][1]) - 200.0).abs() < 1e-3);
}

#[test]
fn drift_and_mains_move_the_specimen_under_the_probe() {
    let with = |i: &mut Instrument| i.drift.velocity_nm_per_s = [1000.0, 0.0];
    let mut m = microscope(with, Specimen::letter_f());
    m.record_truth(true);
    let middle = code(&m, [64.0, 64.0]);
    run(
        &mut m,
        &[middle],
        timing(0, 1000, PositionFlags::NONE),
        1_000_000,
        false,
    );
    // 1000 nm/s for 1 ms are 1 nm or 10 px: the probe sees what was 10 px to the left.
    assert!((m.take_truth().place[0][0] - 54.0).abs() < 0.01);
    let with = |i: &mut Instrument| i.line_noise.amplitude_px = [4.0, 0.0];
    let mut m = microscope(with, Specimen::letter_f());
    m.record_truth(true);
    // A quarter period of 50 Hz later the sine is 1: 4/512 of the field or 1 px.
    let middle = code(&m, [64.0, 64.0]);
    run(
        &mut m,
        &[middle],
        timing(0, 1000, PositionFlags::NONE),
        5_000_000,
        false,
    );
    assert!((m.take_truth().place[0][0] - 65.0).abs() < 0.01);
}

#[test]
fn the_current_drifts() {
    let mut m = microscope(|i| i.probe.drift_per_hour = 0.5, Specimen::bundled());
    m.record_truth(true);
    run(
        &mut m,
        &[[32_768; 2]],
        timing(0, 1000, PositionFlags::NONE),
        3_600_000_000_000,
        false,
    );
    let rate = 10e-12 / 1.602_176_634e-19 * 1e-9;
    assert!((m.take_truth().electrons[0] / (1500.0 * rate) - 1.0).abs() < 1e-6);
}

#[test]
fn detectors_that_the_specimen_lacks_are_refused() {
    let mut instrument = Instrument::ideal();
    instrument
        .detectors
        .insert("eels".into(), toml::Table::new());
    let error = Microscope::new(&instrument, Specimen::bundled(), 1).unwrap_err();
    assert!(error.allowed.contains("haadf, abf"));
    let mut instrument = Instrument::ideal();
    instrument.damage.critical_dose_e_per_a2 = 10.0;
    let Specimen::Image(mut image) = Specimen::letter_f() else {
        panic!()
    };
    image.pixel_nm = None;
    assert!(Microscope::new(&instrument, Specimen::Image(image), 1).is_err());
}
