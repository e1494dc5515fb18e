//! A figure of panels side by side: each with a label, a colour bar and, where the pixel size is known, a scale bar.

use super::font::{GLYPH_HEIGHT, draw_text, text_width};
use super::{ColourMap, DisplayRange, Picture, Plane};
use domain::Pitch;

const PAPER: [u8; 3] = [255, 255, 255];
const INK: [u8; 3] = [20, 20, 24];
const MARGIN: usize = 12;
const BAR_WIDTH: usize = 14;
/// Room right of a colour bar for its numbers.
const NUMBERS: usize = 74;
const LABEL: usize = 2 * GLYPH_HEIGHT + 8;

/// One panel.
#[derive(Debug, Clone)]
pub struct Panel<'a> {
    /// What it shows: `estimate haadf`.
    pub label: String,
    /// The values.
    pub plane: Plane<'a>,
    /// Colours.
    pub map: ColourMap,
    /// Display range; `None`: all but 0.5 % at either end.
    pub range: Option<DisplayRange>,
}

/// Panels in rows of two, with a line of text below.
#[derive(Debug, Clone)]
pub struct Figure<'a> {
    /// The panels: truth, visited, estimate, uncertainty.
    pub panels: Vec<Panel<'a>>,
    /// Distance between pixels, for the scale bars.
    pub pitch: Pitch,
    /// Text below the panels.
    pub caption: String,
}

impl Figure<'_> {
    /// Draws the figure; each panel is at most `side` px wide and high (at least 64).
    #[must_use]
    pub fn draw(&self, side: usize) -> Picture {
        let side = side.clamp(64, 4096);
        let sizes: Vec<(usize, usize)> =
            self.panels.iter().map(|p| fitted(&p.plane, side)).collect();
        let width_most = sizes.iter().map(|s| s.0).max().unwrap_or(side);
        let height_most = sizes.iter().map(|s| s.1).max().unwrap_or(0);
        let cell_width = MARGIN + width_most + MARGIN + BAR_WIDTH + NUMBERS;
        let cell_height = LABEL + height_most + MARGIN;
        let n_lines = self.panels.len().div_ceil(2);
        let n_columns = self.panels.len().clamp(1, 2);
        let height = MARGIN + n_lines * cell_height + LABEL;
        let mut picture = Picture::filled(n_columns * cell_width, height, PAPER);
        for (i, (panel, size)) in self.panels.iter().zip(sizes).enumerate() {
            let x = MARGIN + (i % 2) * cell_width;
            let y = MARGIN + (i / 2) * cell_height;
            self.draw_panel(&mut picture, panel, (x, y), size);
        }
        let below = MARGIN + n_lines * cell_height;
        let most = picture.width().saturating_sub(2 * MARGIN);
        let scale = if text_width(&self.caption, 2) <= most {
            2
        } else {
            1
        };
        draw_text(&mut picture, (MARGIN, below), &self.caption, scale, INK);
        picture
    }

    fn draw_panel(
        &self,
        picture: &mut Picture,
        panel: &Panel<'_>,
        (x, y): (usize, usize),
        (width, height): (usize, usize),
    ) {
        let range = panel
            .range
            .unwrap_or_else(|| DisplayRange::of(panel.plane.values(), 0.005));
        let scale = if text_width(&panel.label, 2) <= width + NUMBERS {
            2
        } else {
            1
        };
        draw_text(picture, (x, y), &panel.label, scale, INK);
        let top = y + LABEL;
        let cells = panel.plane.resampled(height, width);
        if let Ok(plane) = Plane::new(height, width, &cells) {
            picture.paste(x, top, &Picture::of(&plane, panel.map, range));
        }
        self.draw_scale_bar(picture, &panel.plane, (x, top), (width, height));
        draw_colour_bar(picture, panel.map, range, (x + width + MARGIN, top), height);
    }

    fn draw_scale_bar(
        &self,
        picture: &mut Picture,
        plane: &Plane<'_>,
        (x, top): (usize, usize),
        (width, height): (usize, usize),
    ) {
        let Pitch::Nanometres(pitch) = self.pitch else {
            return;
        };
        let field_nm = pitch.nm() * plane.n_cols() as f64;
        let length_nm = round_length(field_nm / 4.0);
        let length = (length_nm / field_nm * width as f64).round() as usize;
        let text = length_text(length_nm);
        let (bar_x, bar_y) = (x + 8, (top + height).saturating_sub(12));
        let text_y = bar_y.saturating_sub(GLYPH_HEIGHT * 2 + 4);
        let plate = length.max(text_width(&text, 2)) + 8;
        if plate + 8 > width || GLYPH_HEIGHT * 2 + 24 > height {
            return;
        }
        picture.rectangle(bar_x - 4, text_y - 4, plate, bar_y + 8 - text_y + 2, INK);
        picture.rectangle(bar_x, bar_y, length, 4, PAPER);
        draw_text(picture, (bar_x, text_y), &text, 2, PAPER);
    }
}

fn draw_colour_bar(
    picture: &mut Picture,
    map: ColourMap,
    range: DisplayRange,
    (x, top): (usize, usize),
    height: usize,
) {
    for row in 0..height {
        let position = 1.0 - (row as f32 + 0.5) / height as f32;
        picture.rectangle(x, top + row, BAR_WIDTH, 1, map.colour(position));
    }
    let numbers = x + BAR_WIDTH + 4;
    draw_text(picture, (numbers, top), &number_text(range.high), 1, INK);
    let bottom = (top + height).saturating_sub(GLYPH_HEIGHT);
    draw_text(picture, (numbers, bottom), &number_text(range.low), 1, INK);
}

/// Width and height of a plane within `side`: whole multiples for small planes, so that pixels stay square.
fn fitted(plane: &Plane<'_>, side: usize) -> (usize, usize) {
    let longest = plane.n_rows().max(plane.n_cols());
    let fit = |n: usize| {
        if longest <= side {
            n * (side / longest)
        } else {
            (n * side / longest).max(1)
        }
    };
    (fit(plane.n_cols()), fit(plane.n_rows()))
}

/// The largest of 1, 2, 5 times a power of ten that is at most `length`.
fn round_length(length: f64) -> f64 {
    let power = 10_f64.powf(length.log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().find(|s| s * power <= length);
    step.unwrap_or(1.0) * power
}

fn length_text(nm: f64) -> String {
    let (value, unit) = match nm {
        n if n >= 1e6 => (n / 1e6, "mm"),
        n if n >= 1e3 => (n / 1e3, "µm"),
        n if n >= 1.0 => (n, "nm"),
        n => (n * 1e3, "pm"),
    };
    format!("{} {unit}", (value * 1e3).round() / 1e3)
}

/// Three or four digits.
fn number_text(value: f32) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if (1e-3..1e5).contains(&size) {
        let decimals = (3 - size.log10().floor() as i32).clamp(0, 5) as usize;
        format!("{value:.decimals$}")
    } else {
        format!("{value:.2e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_bars_have_round_lengths_in_a_fitting_unit() {
        for (length, text) in [
            (2.56, "2 nm"),
            (0.07, "50 pm"),
            (1200.0, "1 µm"),
            (5.0, "5 nm"),
            (999.0, "500 nm"),
        ] {
            assert_eq!(length_text(round_length(length)), text);
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05000"),
            (1.5, "1.500"),
            (-12345.6, "-12346"),
            (2e-7, "2.00e-7"),
        ] {
            assert_eq!(number_text(value), text);
        }
    }
}
