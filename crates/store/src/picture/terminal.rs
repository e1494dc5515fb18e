//! A plane as text.

use super::{ColourMap, DisplayRange, Plane};
use std::fmt::Write;

/// Widest picture, characters.
const MAX_WIDTH: usize = 400;

/// `plane` in half blocks of 24-bit colour, `width` characters wide, two pixels to a character.
#[must_use]
pub fn ansi_picture(
    plane: &Plane<'_>,
    map: ColourMap,
    range: DisplayRange,
    width: usize,
) -> String {
    let width = width.clamp(1, MAX_WIDTH);
    let n_lines = lines(plane, width);
    let cells = plane.resampled(2 * n_lines, width);
    let mut text = String::with_capacity(n_lines * width * 40);
    for pair in cells.chunks_exact(2 * width) {
        let (upper, lower) = pair.split_at(width);
        for (above, below) in upper.iter().zip(lower) {
            let [r, g, b] = map.colour(range.position(*above));
            let [s, h, c] = map.colour(range.position(*below));
            // Writing to a string cannot fail.
            let _ = write!(text, "\x1b[38;2;{r};{g};{b};48;2;{s};{h};{c}m▀");
        }
        text.push_str("\x1b[0m\n");
    }
    text
}

/// `plane` in ten plain characters from dark to bright, for terminals without colour.
#[must_use]
pub fn plain_picture(plane: &Plane<'_>, range: DisplayRange, width: usize) -> String {
    const RAMP: &[u8; 10] = b" .:-=+*#%@";
    let width = width.clamp(1, MAX_WIDTH);
    let cells = plane.resampled(lines(plane, width), width);
    let mut text = String::new();
    for line in cells.chunks_exact(width) {
        text.extend(line.iter().map(|value| {
            let position = range.position(*value);
            if position.is_finite() {
                char::from(RAMP[((position.clamp(0.0, 1.0) * 9.0).round()) as usize])
            } else {
                '?'
            }
        }));
        text.push('\n');
    }
    text
}

/// Lines that keep the shape of the plane: a character is about twice as high as wide.
fn lines(plane: &Plane<'_>, width: usize) -> usize {
    (plane.n_rows() * width)
        .div_ceil(2 * plane.n_cols())
        .clamp(1, MAX_WIDTH)
}
