//! From values to colours.

use domain::Invalid;

/// A colour map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourMap {
    /// Black to white.
    #[default]
    Gray,
    /// Dark blue over green to yellow (van der Walt and Smith, SciPy 2015).
    Viridis,
    /// Blue to yellow, the same to people with and without deficient colour vision (Nuñez, Anderton and Renslow,
    /// PLOS ONE 13, e0199239, 2018).
    Cividis,
    /// Black over red to white (van der Walt and Smith, SciPy 2015).
    Magma,
}

impl ColourMap {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gray, Self::Viridis, Self::Cividis, Self::Magma];

    /// The name as the operator types it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gray => "gray",
            Self::Viridis => "viridis",
            Self::Cividis => "cividis",
            Self::Magma => "magma",
        }
    }

    /// The colour map of that name.
    pub fn from_name(name: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|map| map.name() == name)
            .ok_or_else(|| {
                Invalid::new(
                    "colour map",
                    format!("{name:?}"),
                    Self::ALL.map(Self::name).join(", "),
                )
            })
    }

    /// Red, green and blue at `position`, 0 to 1; a warm grey-blue that no map contains for what is not finite.
    #[must_use]
    pub fn colour(self, position: f32) -> [u8; 3] {
        if !position.is_finite() {
            return [96, 96, 112];
        }
        let anchors = match self {
            Self::Gray => return [(position.clamp(0.0, 1.0) * 255.0).round() as u8; 3],
            Self::Viridis => &VIRIDIS,
            Self::Cividis => &CIVIDIS,
            Self::Magma => &MAGMA,
        };
        let at = position.clamp(0.0, 1.0) * (anchors.len() - 1) as f32;
        let low = (at as usize).min(anchors.len() - 2);
        let part = at - low as f32;
        std::array::from_fn(|c| {
            let (a, b) = (f32::from(anchors[low][c]), f32::from(anchors[low + 1][c]));
            (a + part * (b - a)).round() as u8
        })
    }
}

/// Which values get the first and the last colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DisplayRange {
    /// Value of the first colour.
    pub low: f32,
    /// Value of the last colour.
    pub high: f32,
}

impl DisplayRange {
    /// From the darkest to the brightest value but for `fraction` of the values at either end.
    #[must_use]
    pub fn of(values: &[f32], fraction: f64) -> Self {
        let mut finite: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
        if finite.is_empty() {
            return Self {
                low: 0.0,
                high: 1.0,
            };
        }
        let last = finite.len() - 1;
        let skip = ((fraction.clamp(0.0, 0.5) * finite.len() as f64) as usize).min(last / 2);
        let low = *finite.select_nth_unstable_by(skip, f32::total_cmp).1;
        let high = *finite.select_nth_unstable_by(last - skip, f32::total_cmp).1;
        Self { low, high }
    }

    /// Where `value` lies: 0 at the low end, 1 at the high one. A range without extent puts everything at 0.
    #[must_use]
    pub fn position(&self, value: f32) -> f32 {
        let extent = self.high - self.low;
        if extent > 0.0 {
            (value - self.low) / extent
        } else if value.is_finite() {
            0.0
        } else {
            f32::NAN
        }
    }
}

/// Anchors of viridis.
const VIRIDIS: [[u8; 3]; 33] = [
    [68, 1, 84],
    [71, 13, 96],
    [72, 24, 106],
    [72, 35, 116],
    [71, 45, 123],
    [69, 54, 129],
    [66, 64, 134],
    [63, 73, 137],
    [59, 82, 139],
    [55, 90, 141],
    [51, 99, 141],
    [47, 106, 142],
    [44, 114, 142],
    [41, 122, 142],
    [38, 129, 142],
    [35, 137, 142],
    [33, 144, 140],
    [31, 152, 139],
    [31, 159, 136],
    [33, 166, 133],
    [40, 174, 128],
    [49, 181, 123],
    [62, 188, 116],
    [76, 194, 108],
    [93, 201, 99],
    [110, 206, 88],
    [130, 211, 76],
    [150, 216, 63],
    [171, 220, 50],
    [192, 223, 36],
    [213, 226, 26],
    [234, 229, 26],
    [253, 231, 37],
];

/// Anchors of cividis.
const CIVIDIS: [[u8; 3]; 33] = [
    [0, 34, 78],
    [0, 40, 91],
    [0, 46, 106],
    [4, 51, 113],
    [26, 56, 111],
    [39, 62, 110],
    [50, 67, 109],
    [59, 73, 108],
    [67, 78, 108],
    [75, 84, 108],
    [82, 89, 109],
    [90, 95, 110],
    [97, 101, 111],
    [104, 106, 113],
    [111, 112, 115],
    [117, 118, 118],
    [124, 123, 120],
    [132, 129, 121],
    [139, 135, 120],
    [147, 141, 120],
    [155, 147, 118],
    [163, 154, 117],
    [171, 160, 114],
    [179, 166, 112],
    [187, 173, 108],
    [195, 180, 105],
    [204, 186, 100],
    [212, 193, 95],
    [221, 201, 88],
    [230, 208, 81],
    [239, 215, 72],
    [248, 223, 60],
    [254, 232, 56],
];

/// Anchors of magma.
const MAGMA: [[u8; 3]; 33] = [
    [0, 0, 4],
    [3, 3, 17],
    [10, 8, 34],
    [19, 13, 51],
    [29, 17, 70],
    [40, 17, 90],
    [54, 16, 106],
    [67, 15, 118],
    [80, 18, 124],
    [93, 23, 127],
    [105, 28, 129],
    [118, 33, 129],
    [130, 38, 129],
    [143, 42, 129],
    [156, 46, 127],
    [169, 50, 125],
    [182, 55, 121],
    [195, 59, 117],
    [207, 65, 112],
    [219, 72, 106],
    [230, 81, 99],
    [238, 92, 94],
    [245, 105, 92],
    [249, 120, 93],
    [251, 135, 97],
    [253, 150, 104],
    [254, 165, 113],
    [254, 180, 123],
    [254, 195, 135],
    [254, 209, 148],
    [253, 224, 162],
    [252, 238, 176],
    [252, 253, 191],
];
