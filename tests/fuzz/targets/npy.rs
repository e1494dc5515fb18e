//! Any bytes as an `.npy` file: an array, and a list of positions.

use domain::{Grid, NpyArray};

/// What must hold for whatever is in `data`.
pub(crate) fn check(data: &[u8]) {
    if let Ok(array) = NpyArray::parse(data) {
        let n_values: usize = array.shape.iter().product();
        assert_eq!(array.to_f64().len(), n_values);
    }
    let grid = Grid::new(64, 32).expect("it is a grid");
    if let Ok(positions) = store::list_from_npy(data, grid) {
        for position in positions.iter() {
            assert!((-0.5..=63.5).contains(&position.row));
            assert!((-0.5..=31.5).contains(&position.col));
        }
    }
}
