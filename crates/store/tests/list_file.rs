//! Lists of positions from CSV and NumPy files: what is read, and how a bad file is named.

use domain::{DwellTime, Grid};

#[test]
fn csv_lists_name_the_bad_line() {
    let grid = Grid::new(10, 20).unwrap();
    let list = store::list_from_csv(
        b"\xef\xbb\xbfrow,col,dwell_us\n# c\n\n1,2.5\r\n 3 ; 4 ; 0.25\n-0.5,19.5,\n",
        grid,
    )
    .unwrap();
    let got: Vec<_> = list
        .iter()
        .map(|p| (p.row, p.col, p.dwell.map(DwellTime::nanoseconds)))
        .collect();
    assert_eq!(
        got,
        [(1.0, 2.5, None), (3.0, 4.0, Some(250)), (-0.5, 19.5, None)]
    );
    for (text, expected) in [
        (
            "1,2\n3,x",
            "line 2.col: \"x\" is not allowed (allowed: a number)",
        ),
        (
            "1,2\n\n9.6,0",
            "line 3.row: 9.6 is not allowed (allowed: -0.5 to 9.5 px)",
        ),
        (
            "nan,0",
            "line 1.row: NaN is not allowed (allowed: -0.5 to 9.5 px)",
        ),
        (
            "1,2,0",
            "line 1.dwell_us: 0 is not allowed (allowed: 0.001 to 4000000 µs)",
        ),
        (
            "1",
            "line 1.line: 1 is not allowed (allowed: row,col or row,col,dwell_us)",
        ),
        (
            "1,2,3,4",
            "line 1.line: 1,2,3,4 is not allowed (allowed: row,col or row,col,dwell_us)",
        ),
        (
            "row,col\n",
            "pattern.list: 0 positions is not allowed (allowed: 1 to 4294967295 positions)",
        ),
    ] {
        assert_eq!(
            store::list_from_csv(text.as_bytes(), grid)
                .unwrap_err()
                .to_string(),
            expected
        );
    }
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn npy_lists_come_in_every_number_type() {
    let grid = Grid::new(10, 20).unwrap();
    let f64s: Vec<u8> = [1.0f64, 2.5, 0.25]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let list = store::list_from_npy(&npy("<f8", "(1, 3)", &f64s), grid).unwrap();
    assert_eq!((list[0].row, list[0].col), (1.0, 2.5));
    assert_eq!(
        list[0].dwell,
        Some(DwellTime::from_nanoseconds(250).unwrap())
    );
    let i16s: Vec<u8> = [3i16, 4, 5, 6]
        .iter()
        .flat_map(|v| v.to_be_bytes())
        .collect();
    let list = store::list_from_npy(&npy(">i2", "(2, 2)", &i16s), grid).unwrap();
    assert_eq!((list[1].row, list[1].col), (5.0, 6.0));
    for (bytes, expected) in [
        (
            npy("<i2", "(2, 2)", &[1, 0, 2, 0, 255, 255, 3, 0]),
            "pattern.list[1].row: -1",
        ),
        (
            npy("<i2", "(2, 2)", &[0; 7]),
            "pattern.list.npy.data: 7 bytes",
        ),
        (
            npy("<i2", "(18446744073709551615, 2)", &[0; 8]),
            "pattern.list.npy.data: 8 bytes",
        ),
        (
            npy("<c8", "(1, 2)", &[0; 16]),
            "pattern.list.npy.descr: \"<c8\"",
        ),
        (npy("<i2", "(4,)", &[0; 8]), "pattern.list.npy.shape: [4]"),
        (
            b"\x93NUMPY\x01\x00\xff".to_vec(),
            "pattern.list.npy: a file",
        ),
        (b"row,col".to_vec(), "pattern.list.npy: a file"),
    ] {
        let error = store::list_from_npy(&bytes, grid).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
