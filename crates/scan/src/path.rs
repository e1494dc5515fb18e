//! The two inner seams: a path of places, and a pattern that can be asked for one band of rows at a time.

/// A place on the way of the beam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    /// Row, px.
    pub(crate) row: f32,
    /// Column, px.
    pub(crate) col: f32,
    /// Dwell of its own, ns; 0 = the plan's.
    pub(crate) dwell_ns: u32,
    /// How the beam gets here.
    pub(crate) travel: Travel,
}

/// How the beam gets to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Travel {
    /// A jump; the settle law says how long it takes.
    Jump,
    /// A step of a sweep at constant speed: the beam lags, but evenly, and nothing settles.
    Sweep,
    /// The return to the start of a line: at least the flyback time.
    Flyback,
}

impl Place {
    /// A grid pixel with the plan's dwell.
    #[inline]
    pub(crate) const fn pixel(row: u32, col: u32) -> Self {
        Self {
            row: row as f32,
            col: col as f32,
            dwell_ns: 0,
            travel: Travel::Jump,
        }
    }
}

/// Places in visiting order.
pub(crate) trait Path: Send {
    /// Starts frame `frame` from its first place.
    fn begin(&mut self, frame: u32);
    /// Appends the next places of the frame, at most `n`; fewer only at its end.
    fn extend(&mut self, n: usize, places: &mut Vec<Place>);
}

/// A pattern as bands of rows, top to bottom, that can be made in any order. The bands of a frame depend on the
/// frame alone, so making one twice gives the same places.
pub(crate) trait Bands: Send {
    /// Bands of a frame, ≥ 1.
    fn n_bands(&self) -> u32;
    /// Upper bound of the places in one band.
    fn n_places_max(&self) -> usize;
    /// Rows of a band, px: first, and one past the last.
    fn rows(&self, band: u32) -> [f32; 2];
    /// Makes `frame` the current one.
    fn begin(&mut self, frame: u32);
    /// Replaces `places` by those of `band`, columns not falling.
    fn fill(&mut self, band: u32, places: &mut Vec<Place>);
}
