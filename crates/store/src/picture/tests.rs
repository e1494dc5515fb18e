//! What pictures promise.

use super::*;
use domain::{Nanometres, Pitch};

/// Relative luminance, roughly.
fn lightness(colour: [u8; 3]) -> f32 {
    let [r, g, b] = colour.map(|v| (f32::from(v) / 255.0).powf(2.2));
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

#[test]
fn every_colour_map_gets_lighter_all_the_way() {
    for map in ColourMap::ALL {
        let steps: Vec<f32> = (0..=64)
            .map(|i| lightness(map.colour(i as f32 / 64.0)))
            .collect();
        assert!(steps.windows(2).all(|w| w[1] > w[0]), "{}", map.name());
        assert_eq!(ColourMap::from_name(map.name()).unwrap(), map);
        assert_ne!(map.colour(f32::NAN), map.colour(0.0));
    }
    assert!(
        ColourMap::from_name("jet")
            .unwrap_err()
            .allowed
            .contains("cividis")
    );
}

#[test]
fn colour_maps_have_their_published_ends() {
    // The first and last entries of the published tables, 8 bits.
    assert_eq!(ColourMap::Viridis.colour(0.0), [68, 1, 84]);
    assert_eq!(ColourMap::Viridis.colour(1.0), [253, 231, 37]);
    assert_eq!(ColourMap::Magma.colour(0.0), [0, 0, 4]);
    assert_eq!(ColourMap::Magma.colour(1.0), [252, 253, 191]);
    assert_eq!(ColourMap::Cividis.colour(1.0), [254, 232, 56]);
}

#[test]
fn a_display_range_leaves_out_what_it_should() {
    let mut values: Vec<f32> = (0..1000).map(|v| v as f32).collect();
    values[0] = -1e9;
    values[1] = f32::NAN;
    let range = DisplayRange::of(&values, 0.01);
    assert!(
        (5.0..15.0).contains(&range.low) && (985.0..995.0).contains(&range.high),
        "{range:?}"
    );
    assert_eq!(DisplayRange::of(&[3.0; 5], 0.01).position(3.0), 0.0);
    assert_eq!(
        DisplayRange::of(&[], 0.0),
        DisplayRange {
            low: 0.0,
            high: 1.0
        }
    );
}

#[test]
fn resampling_averages_and_repeats() {
    let values: Vec<f32> = (0..16).map(|v| v as f32).collect();
    let plane = Plane::new(4, 4, &values).unwrap();
    assert_eq!(plane.resampled(2, 2), [2.5, 4.5, 10.5, 12.5]);
    assert_eq!(plane.resampled(4, 4), values);
    assert_eq!(plane.resampled(8, 8)[..4], [0.0, 0.0, 1.0, 1.0]);
    assert!(Plane::new(4, 5, &values).is_err());
    assert!(Plane::new(0, 0, &[]).is_err());
}

#[test]
fn png_files_hold_what_was_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let plane = Plane::new(3, 4, &values).unwrap();
    let range = DisplayRange {
        low: 0.0,
        high: 11.0,
    };
    let picture = Picture::of(&plane, ColourMap::Viridis, range);
    let path = dir.path().join("a.png");
    write_png(&path, &picture).unwrap();
    let read = |path: &std::path::Path| {
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        (info.width, info.height, bytes)
    };
    assert_eq!(read(&path), (4, 3, picture.rgb().to_vec()));
    write_png_gray16(&path, &plane, range).unwrap();
    let (_, _, bytes) = read(&path);
    assert_eq!(bytes[..4], [0, 0, 0x17, 0x46]);
    assert_eq!(bytes[22..], [255, 255]);
    assert!(write_png(std::path::Path::new("/nonexistent/a.png"), &picture).is_err());
}

#[test]
fn tiff_files_hold_the_values_and_the_pixel_size() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..12).map(|v| v as f32 * 0.1).collect();
    let plane = Plane::new(3, 4, &values).unwrap();
    let pitch = Pitch::Nanometres(Nanometres::new(0.02).unwrap());
    let path = dir.path().join("a.tiff");
    write_tiff_f32(&path, &plane, pitch).unwrap();
    let open = || {
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        tiff::decoder::Decoder::new(file).unwrap()
    };
    let mut decoder = open();
    assert_eq!(decoder.dimensions().unwrap(), (4, 3));
    let tags = tiff::tags::Tag::XResolution;
    let resolution = decoder.get_tag(tags).unwrap();
    let tiff::decoder::ifd::Value::Rational(n, d) = resolution else {
        panic!("{resolution:?}")
    };
    assert!(
        (f64::from(n) / f64::from(d) / 5e8 - 1.0).abs() < 1e-6,
        "pixels per cm"
    );
    match decoder.read_image().unwrap() {
        tiff::decoder::DecodingResult::F32(read) => assert_eq!(read, values),
        other => panic!("{other:?}"),
    }
    let range = DisplayRange {
        low: 0.0,
        high: 1.1,
    };
    write_tiff_u16(&path, &plane, range, Pitch::Unknown).unwrap();
    match open().read_image().unwrap() {
        tiff::decoder::DecodingResult::U16(read) => assert_eq!((read[0], read[11]), (0, 65_535)),
        other => panic!("{other:?}"),
    }
    write_tiff_u8(&path, &plane, range, pitch).unwrap();
    match open().read_image().unwrap() {
        tiff::decoder::DecodingResult::U8(read) => assert_eq!((read[0], read[11]), (0, 255)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_figure_shows_every_panel_in_its_place() {
    let (dark, bright) = (vec![0.0; 100 * 80], vec![1.0; 100 * 80]);
    let panel = |label: &str, values| Panel {
        label: label.to_owned(),
        plane: Plane::new(100, 80, values).unwrap(),
        map: ColourMap::Gray,
        range: Some(DisplayRange {
            low: 0.0,
            high: 1.0,
        }),
    };
    let figure = Figure {
        panels: vec![
            panel("truth", &dark),
            panel("visited", &bright),
            panel("estimate", &bright),
            panel("uncertainty", &dark),
        ],
        pitch: Pitch::Nanometres(Nanometres::new(0.02).unwrap()),
        caption: "10 % of the pixels".into(),
    };
    let picture = figure.draw(256);
    let cell = (picture.width() / 2, (picture.height() - 40) / 2);
    let at = |x: usize, y: usize| picture.rgb()[3 * (y * picture.width() + x)];
    let centre = |i: usize, j: usize| at(cell.0 * j + 90, cell.1 * i + 120);
    assert_eq!(
        [centre(0, 0), centre(0, 1), centre(1, 0), centre(1, 1)],
        [0, 255, 255, 0]
    );
}

#[test]
fn the_terminal_picture_has_the_width_asked_for() {
    let values: Vec<f32> = (0..64 * 64).map(|v| (v % 64) as f32).collect();
    let plane = Plane::new(64, 64, &values).unwrap();
    let range = DisplayRange {
        low: 0.0,
        high: 63.0,
    };
    let ansi = ansi_picture(&plane, ColourMap::Viridis, range, 40);
    assert_eq!(ansi.lines().count(), 20);
    assert!(
        ansi.lines()
            .all(|l| l.matches('▀').count() == 40 && l.ends_with("\x1b[0m"))
    );
    let plain = plain_picture(&plane, range, 32);
    assert_eq!(plain.lines().count(), 16);
    assert!(
        plain
            .lines()
            .all(|l| l.len() == 32 && l.starts_with(' ') && l.ends_with('@'))
    );
}
