//! Every way to name a specimen, and every way to get it wrong.

use super::*;

fn write_folder(parent: &Path, name: &str, meta: &str, shape: &[usize], values: &[f32]) -> PathBuf {
    let folder = parent.join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("meta.json"), meta).unwrap();
    fs::write(
        folder.join("data.npy"),
        NpyArray::from_f32(shape, values).unwrap(),
    )
    .unwrap();
    folder
}

fn meta(name: &str, kind: &str, detector: &str) -> String {
    format!(r#"{{"name": "{name}", "kind": "{kind}", "detector": "{detector}", "pixel_nm": 0.1}}"#)
}

fn image(path: &Path) -> Result<Image, Error> {
    load(path, &LoadOptions::default())
}

fn refusal(path: &Path) -> Invalid {
    match image(path).unwrap_err() {
        Error::Invalid(invalid) => invalid,
        other => panic!("{other}"),
    }
}

#[test]
fn the_bundled_specimen_has_two_detectors_and_a_pixel_size() {
    let Specimen::Image(image) = Specimen::open("", &LoadOptions::default()).unwrap() else {
        panic!("an image");
    };
    let names: Vec<&str> = image.planes.iter().map(|p| p.detector.as_str()).collect();
    assert_eq!(names, ["haadf", "abf"]);
    assert_eq!((image.n_rows, image.n_cols), (512, 512));
    assert!((image.pixel_nm.unwrap() - 0.024_983_692).abs() < 1e-8);
    // The largest values that the data set states, to the quantisation of 1/60000.
    assert!((image.max(0) / 0.017_628_377 - 1.0).abs() < 1e-4);
    assert!((image.max(1) / 0.718_912_07 - 1.0).abs() < 1e-4);
    let column = image.column;
    assert_eq!(column.high_tension.map(|v| v.kilovolts()), Some(80.0));
    assert_eq!(column.convergence_mrad, Some(30.0));
    let angles = [("haadf".into(), 80.0, 200.0), ("abf".into(), 15.0, 30.0)];
    assert_eq!(column.collection_mrad, angles);
}

#[test]
fn angles_that_no_column_has_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (sim, field)) in [
        (r#""haadf_mrad": [60]"#, "specimen.meta.sim.haadf_mrad"),
        (
            r#""haadf_mrad": [60, 50]"#,
            "specimen.meta.column.collection_mrad.haadf",
        ),
        (
            r#""convergence_mrad": -1"#,
            "specimen.meta.column.convergence_mrad",
        ),
        (r#""energy_eV": -1"#, "specimen.meta.sim.energy_eV"),
    ]
    .into_iter()
    .enumerate()
    {
        let text = meta("x", "image2d", "haadf");
        let text = format!("{}, \"sim\": {{{sim}}}}}", text.trim_end_matches('}'));
        let folder = write_folder(dir.path(), &i.to_string(), &text, &[2, 2], &[0.0; 4]);
        assert_eq!(refusal(&folder).field, field);
    }
}

#[test]
fn siblings_of_one_stem_are_the_other_detectors() {
    let dir = tempfile::tempdir().unwrap();
    let values = [0.1, 0.2, 0.3, 0.4];
    let haadf = write_folder(
        dir.path(),
        "a",
        &meta("img_x_haadf", "image2d", "haadf"),
        &[2, 2],
        &values,
    );
    write_folder(
        dir.path(),
        "b",
        &meta("img_x_bf", "image2d", "bf"),
        &[2, 2],
        &values,
    );
    write_folder(
        dir.path(),
        "c",
        &meta("img_y_abf", "image2d", "abf"),
        &[2, 2],
        &values,
    );
    write_folder(
        dir.path(),
        "d",
        &meta("img_x_si", "4dstem", "si"),
        &[2, 2],
        &values,
    );
    let image = image(&haadf).unwrap();
    let names: Vec<&str> = image.planes.iter().map(|p| p.detector.as_str()).collect();
    assert_eq!(names, ["haadf", "bf"]);
}

#[test]
fn a_sibling_of_another_shape_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let haadf = write_folder(
        dir.path(),
        "a",
        &meta("x_haadf", "image2d", "haadf"),
        &[2, 2],
        &[0.1; 4],
    );
    write_folder(
        dir.path(),
        "b",
        &meta("x_bf", "image2d", "bf"),
        &[2, 3],
        &[0.1; 6],
    );
    assert_eq!(refusal(&haadf).field, "specimen.shape");
}

#[test]
fn an_array_of_another_shape_than_its_description_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let meta = r#"{"kind": "image2d", "axes": [{"size": 2}, {"size": 3}]}"#;
    let folder = write_folder(dir.path(), "a", meta, &[2, 2], &[0.1; 4]);
    let refusal = refusal(&folder);
    assert_eq!(
        (refusal.field.as_ref(), refusal.value.as_str()),
        ("specimen.shape", "[2, 2]")
    );
    assert!(refusal.allowed.contains("[2, 3]"));
}

#[test]
fn grey_values_are_scaled_to_the_stated_mean() {
    let dir = tempfile::tempdir().unwrap();
    let folder = write_folder(
        dir.path(),
        "a",
        &meta("a", "image2d_real", "sem"),
        &[2, 2],
        &[10.0, 20.0, 30.0, 40.0],
    );
    assert_eq!(image(&folder).unwrap().planes[0].values[0], 0.02);
    let options = LoadOptions {
        real_mean: 0.5,
        ..LoadOptions::default()
    };
    assert_eq!(load(&folder, &options).unwrap().planes[0].values[3], 0.8);
}

#[test]
fn wrong_kinds_are_refused_by_name() {
    for kind in [
        "4dstem",
        "timeseries",
        "spectrum_image_factored",
        "spectrum_image_real",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let folder = write_folder(dir.path(), "a", &meta("a", kind, "x"), &[2, 2], &[0.0; 4]);
        let refusal = refusal(&folder);
        assert_eq!(
            (refusal.field.as_ref(), refusal.value.as_str()),
            ("specimen.kind", kind)
        );
    }
}

#[test]
fn what_is_no_specimen_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        refusal(&dir.path().join("nothing"))
            .value
            .contains("nothing")
    );
    assert!(refusal(dir.path()).allowed.contains("meta.json"));
    assert!(refusal(Path::new("/dev/null")).allowed.contains("folder"));
    let folder = write_folder(
        dir.path(),
        "cube",
        &meta("a", "image2d", "x"),
        &[2, 2, 2],
        &[0.0; 8],
    );
    assert_eq!(refusal(&folder).value, "[2, 2, 2]");
    let folder = write_folder(
        dir.path(),
        "nan",
        &meta("a", "image2d", "x"),
        &[2, 2],
        &[0.0, f32::INFINITY, 0.0, 0.0],
    );
    assert!(refusal(&folder).value.contains("row 0, column 1"));
    let folder = write_folder(dir.path(), "meta", "{", &[2, 2], &[0.0; 4]);
    assert_eq!(refusal(&folder).field, "specimen.meta");
    fs::remove_file(folder.join("data.npy")).unwrap();
    let text = dir.path().join("x.npy");
    fs::write(&text, "hello").unwrap();
    assert_eq!(refusal(&text).field, "specimen.npy");
    let broken = dir.path().join("x.png");
    fs::write(&broken, "hello").unwrap();
    assert!(refusal(&broken).allowed.contains("PNG"));
    let bad_mean = LoadOptions {
        real_mean: f64::NAN,
        ..LoadOptions::default()
    };
    assert!(Specimen::open("f", &bad_mean).is_err());
}

#[test]
fn bare_files_are_fractions_or_grey_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    fs::write(
        &path,
        NpyArray::from_f32(&[2, 2], &[0.1, 0.2, 0.3, 1.0]).unwrap(),
    )
    .unwrap();
    assert_eq!(image(&path).unwrap().planes[0].values[2], 0.3);
    fs::write(&path, NpyArray::from_f32(&[2, 2], &[2.0; 4]).unwrap()).unwrap();
    assert_eq!(image(&path).unwrap().planes[0].values[2], 0.05);
    let options = LoadOptions {
        pixel_nm: Some(0.2),
        ..LoadOptions::default()
    };
    assert_eq!(load(&path, &options).unwrap().pixel_nm, Some(0.2));

    let png = dir.path().join("a.png");
    let mut encoder = png::Encoder::new(fs::File::create(&png).unwrap(), 2, 2);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let bytes: Vec<u8> = [100u16, 200, 300, 400]
        .iter()
        .flat_map(|v| v.to_be_bytes())
        .collect();
    encoder
        .write_header()
        .unwrap()
        .write_image_data(&bytes)
        .unwrap();
    assert_eq!(image(&png).unwrap().planes[0].values[0], 0.02);

    let tiff = dir.path().join("a.tif");
    let mut encoder = tiff::encoder::TiffEncoder::new(fs::File::create(&tiff).unwrap()).unwrap();
    encoder
        .write_image::<tiff::encoder::colortype::Gray16>(2, 2, &[100, 200, 300, 400])
        .unwrap();
    assert_eq!(image(&tiff).unwrap().planes[0].values[3], 0.08);
}
