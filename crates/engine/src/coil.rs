//! The scan coils' dynamics: what is known of them, and where they carried the beam.
//!
//! A [`CoilCalibration`] is what `calibrate coil` identified, for one state of the column, in deflection. With one in
//! force the engine runs its model over everything that was commanded and writes mean place and path covariance of
//! every dwell into the blocks, so that nothing has to wait for the coils. The coils are the axes of the deflection, not
//! of the scan: a rotated scan moves both.

use domain::{Affine, ColumnState, HighTension, Invalid, PositionBatch, SampleBlock, ScanField};
use hal::{BlankerKind, Capabilities, FieldCalibration};
use scan::{AxisCoil, CoilModel, CoilPredictor, PredictedPath};
use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

/// Dynamics of both scan coils, for one state of the column.
#[derive(Debug, Clone, PartialEq)]
pub struct CoilCalibration {
    /// Identity, recorded with every data set.
    pub id: String,
    /// When it was found, seconds since 1970-01-01 UTC.
    pub date_s: u64,
    /// High tension it was found at; `None`: holds at any.
    pub high_tension: Option<HighTension>,
    /// Magnification it was found at; `None`: holds at any.
    pub magnification: Option<f64>,
    /// The coils: `col` is the x axis of the deflection, `row` its y axis; lengths in deflection (−1…1) instead of px.
    pub model: CoilModel,
    /// Standard errors of the group delays `[x, y]`, µs.
    pub group_delay_error_us: [f64; 2],
}

impl CoilCalibration {
    /// Older ones are not used: coils change with temperature and service.
    pub const VALID_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
    /// Two displayed magnifications or voltages are the same state if they differ by less than this, relatively.
    const SAME: f64 = 1e-3;
    /// A date may lie so far in the future before it is called wrong, s.
    const FUTURE_S: u64 = 3600;

    /// Whether it may be used for `column` at `now_s` (seconds since 1970-01-01 UTC).
    pub fn check(&self, column: &ColumnState, now_s: u64) -> Result<(), Invalid> {
        self.model.check()?;
        let is_fresh = match now_s.checked_sub(self.date_s) {
            Some(age) => age <= Self::VALID_FOR.as_secs(),
            None => self.date_s - now_s <= Self::FUTURE_S,
        };
        if !is_fresh {
            let days = Self::VALID_FOR.as_secs() / 86_400;
            return Err(Invalid::new(
                "coil.date_s",
                self.date_s,
                format!(
                    "within {days} days before the present, {now_s}; calibrate the coils again"
                ),
            ));
        }
        let same = |value: Option<f64>, known: Option<f64>| match (value, known) {
            (_, None) => true,
            (Some(value), Some(known)) => (value - known).abs() <= Self::SAME * known,
            (None, Some(_)) => false,
        };
        let kv = |tension: Option<HighTension>| tension.map(HighTension::kilovolts);
        if !same(kv(column.high_tension), kv(self.high_tension)) {
            let text = format!("{:?}", kv(column.high_tension));
            return Err(Invalid::new(
                "column.high_tension_kv",
                text,
                format!(
                    "{:?}, at which the coils were identified",
                    kv(self.high_tension)
                ),
            ));
        }
        if !same(column.magnification, self.magnification) {
            return Err(Invalid::new(
                "column.magnification",
                format!("{:?}", column.magnification),
                format!(
                    "{:?}, at which the coils were identified",
                    self.magnification
                ),
            ));
        }
        Ok(())
    }

    /// The newest that holds for `column`; where none does, why the newest does not.
    pub(crate) fn select<'a>(
        known: &'a [Self],
        column: &ColumnState,
        now_s: u64,
    ) -> Result<Option<&'a Self>, Invalid> {
        let mut newest: Vec<&Self> = known.iter().collect();
        newest.sort_by_key(|c| std::cmp::Reverse(c.date_s));
        let mut refusal = None;
        for calibration in newest {
            match calibration.check(column, now_s) {
                Ok(()) => return Ok(Some(calibration)),
                Err(invalid) => refusal = refusal.or(Some(invalid)),
            }
        }
        refusal.map_or(Ok(None), Err)
    }
}

/// Coils of one acquisition: the model in pixels of its grid, and how pixels lie on the coils.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedCoils {
    /// The calibration.
    pub id: String,
    /// The model; lengths in units of the mean pixel.
    model: CoilModel,
    /// From `[column, row]` in px to `[x, y]` of the coils, from the middle of the field, in the same unit.
    coil_from_pixel: Affine,
    /// Where the parked probe rests, `[x, y]`.
    park: [f64; 2],
    /// Without a blanker the probe is parked whenever nothing is exposed.
    parks_on_hold: bool,
}

impl PlannedCoils {
    pub(crate) fn new(
        calibration: &CoilCalibration,
        field: &ScanField,
        to_deflection: &FieldCalibration,
        capabilities: &Capabilities,
    ) -> Result<Self, Invalid> {
        let deflection_from_pixel = to_deflection
            .deflection_from_field
            .after(&field.field_from_pixel());
        let scale = deflection_from_pixel.determinant().abs().sqrt().recip();
        let middle = to_deflection.deflection_from_field.apply(field.centre);
        let coil_from_deflection = Affine {
            m: [[scale, 0.0], [0.0, scale]],
            t: middle.map(|d| -scale * d),
        };
        let planned = Self {
            id: calibration.id.clone(),
            model: CoilModel {
                row: calibration.model.row.scaled(scale),
                col: calibration.model.col.scaled(scale),
            },
            coil_from_pixel: coil_from_deflection.after(&deflection_from_pixel),
            park: coil_from_deflection.apply(capabilities.park),
            parks_on_hold: capabilities.blanker == BlankerKind::None,
        };
        Follower::new(&planned)?;
        Ok(planned)
    }

    /// Group delays of x and y, µs.
    #[must_use]
    pub fn group_delay_us(&self) -> [f64; 2] {
        [self.model.col, self.model.row].map(|axis| axis.group_delay_us())
    }

    /// Everything as one line, for the journal.
    pub(crate) fn to_text(&self) -> String {
        let axis = |c: &AxisCoil| {
            let [p, q, r] = c.play_px;
            vec![
                c.f0_khz,
                c.zeta,
                c.delay_us,
                c.slew_px_per_us,
                c.hysteresis_px,
                p,
                q,
                r,
                c.tail,
                c.tail_us,
            ]
        };
        let map = &self.coil_from_pixel;
        let mut numbers = axis(&self.model.col);
        numbers.extend(axis(&self.model.row));
        numbers.extend(map.m.as_flattened());
        numbers.extend(map.t);
        numbers.extend(self.park);
        numbers.push(f64::from(u8::from(self.parks_on_hold)));
        let mut text = self.id.clone();
        for number in numbers {
            // Writing to a string does not fail; the shortest text that reads back to the same number.
            let _ = write!(text, " {number:?}");
        }
        text
    }

    /// Undoes [`Self::to_text`].
    pub(crate) fn from_text(text: &str) -> Result<Self, Invalid> {
        let bad = || Invalid::new("journal.settings.coil", text, "a name and 29 numbers");
        let mut words = text.split(' ');
        let id = words.next().ok_or_else(bad)?.to_owned();
        let numbers: Vec<f64> = words
            .map(|w| w.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let n: [f64; 29] = numbers.try_into().map_err(|_| bad())?;
        let axis = |n: &[f64]| AxisCoil {
            f0_khz: n[0],
            zeta: n[1],
            delay_us: n[2],
            slew_px_per_us: n[3],
            hysteresis_px: n[4],
            play_px: [n[5], n[6], n[7]],
            tail: n[8],
            tail_us: n[9],
        };
        Ok(Self {
            id,
            model: CoilModel {
                col: axis(&n[..10]),
                row: axis(&n[10..20]),
            },
            coil_from_pixel: Affine {
                m: [[n[20], n[21]], [n[22], n[23]]],
                t: [n[24], n[25]],
            },
            park: [n[26], n[27]],
            parks_on_hold: n[28] != 0.0,
        })
    }
}

/// Follows the beam through an acquisition.
#[derive(Debug)]
pub(crate) struct Follower {
    coils: PlannedCoils,
    pixel_from_coil: Affine,
    predictor: CoilPredictor,
    /// Device time up to which the beam was followed; `None`: parked.
    until_ns: Option<u64>,
    /// Positions in units of the coils, `row` is y.
    commanded: PositionBatch,
    path: PredictedPath,
}

impl Follower {
    pub(crate) fn new(coils: &PlannedCoils) -> Result<Self, Invalid> {
        let pixel_from_coil = coils.coil_from_pixel.inverse().ok_or_else(|| {
            Invalid::new(
                "calibration",
                format!("{:?}", coils.coil_from_pixel.m),
                "an invertible map",
            )
        })?;
        Ok(Self {
            predictor: parked(coils)?,
            pixel_from_coil,
            coils: coils.clone(),
            until_ns: None,
            commanded: PositionBatch::default(),
            path: PredictedPath::default(),
        })
    }

    /// An arming ended: the probe is parked, and rests there before anything else happens.
    pub(crate) fn park(&mut self) {
        // The parameters were good before.
        if let Ok(predictor) = parked(&self.coils) {
            self.predictor = predictor;
        }
        self.until_ns = None;
    }

    /// Lets time pass until `t0_ns` of the device.
    fn wait_until(&mut self, t0_ns: u64) {
        let pause = self.until_ns.map_or(0, |until| t0_ns.saturating_sub(until));
        if pause > 0 {
            if self.coils.parks_on_hold {
                let [x, y] = self.coils.park;
                self.predictor.send([y, x]);
            }
            self.predictor.wait(pause);
        }
        self.until_ns = Some(t0_ns);
    }

    fn command(&mut self, batch: &PositionBatch, range: Range<usize>) {
        for i in range {
            let place = [f64::from(batch.col[i]), f64::from(batch.row[i])];
            let [x, y] = self.coils.coil_from_pixel.apply(place);
            let (dwell, settle) = (batch.dwell_ns.at(i), batch.settle_ns.at(i));
            self.commanded.push(y as f32, x as f32, dwell, settle);
        }
    }

    fn run(&mut self) {
        self.path.clear();
        self.predictor.predict(&self.commanded, &mut self.path);
        let work = self.commanded.work_ns(0..self.commanded.len());
        self.until_ns = self.until_ns.map(|t| t + work);
        self.commanded.clear();
    }

    /// Positions that were commanded and have no samples.
    pub(crate) fn pass(&mut self, batch: &PositionBatch, range: Range<usize>) {
        self.command(batch, range);
        self.run();
    }

    /// Writes into `block`, whose positions are `runs` and which starts at its `t0_ns`, where the beam was.
    pub(crate) fn follow<'a>(
        &mut self,
        runs: impl Iterator<Item = (&'a PositionBatch, Range<usize>)>,
        block: &mut SampleBlock,
    ) {
        self.wait_until(block.t0_ns);
        for (batch, range) in runs {
            self.command(batch, range);
        }
        self.run();
        let n = self.path.row.len();
        block.row_actual = Vec::with_capacity(n);
        block.col_actual = Vec::with_capacity(n);
        block.path_covariance = Vec::with_capacity(n);
        let [[a, b], [c, d]] = self.pixel_from_coil.m;
        for i in 0..n {
            let place = [f64::from(self.path.col[i]), f64::from(self.path.row[i])];
            let [col, row] = self.pixel_from_coil.apply(place);
            block.col_actual.push(col as f32);
            block.row_actual.push(row as f32);
            let [yy, xy, xx] = self.path.covariance[i].map(f64::from);
            // M·C·Mᵀ, of [column, row] from [x, y].
            let cc = a * a * xx + 2.0 * a * b * xy + b * b * yy;
            let rc = a * c * xx + (a * d + b * c) * xy + b * d * yy;
            let rr = c * c * xx + 2.0 * c * d * xy + d * d * yy;
            block.path_covariance.push([rr, rc, cc].map(|v| v as f32));
        }
    }
}

fn parked(coils: &PlannedCoils) -> Result<CoilPredictor, Invalid> {
    let [x, y] = coils.park;
    CoilPredictor::new(coils.model, [y, x])
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Angle, Grid, Nanometres, Pitch};
    use hal::FieldUnit;

    fn calibration() -> CoilCalibration {
        // STEM guesses for a field of 512 px that is the whole deflection.
        let model = CoilModel {
            row: AxisCoil::STEM.scaled(1.0 / 256.0),
            col: AxisCoil {
                delay_us: 3.0,
                ..AxisCoil::STEM.scaled(1.0 / 256.0)
            },
        };
        CoilCalibration {
            id: "coil-1".into(),
            date_s: 1_000_000,
            high_tension: None,
            magnification: None,
            model,
            group_delay_error_us: [0.01; 2],
        }
    }

    fn planned(rotation: f64) -> PlannedCoils {
        let pitch = Pitch::Nanometres(Nanometres::new(0.1).unwrap());
        let mut field = ScanField::centred(Grid::new(512, 512).unwrap(), pitch);
        field.rotation = Angle::from_radians(rotation).unwrap();
        let map = FieldCalibration::square("f", FieldUnit::Nanometres, 51.2).unwrap();
        let capabilities = crate::core::tests::rig::capabilities();
        PlannedCoils::new(&calibration(), &field, &map, &capabilities).unwrap()
    }

    fn block(t0_ns: u64, n: usize) -> SampleBlock {
        SampleBlock {
            t0_ns,
            ..SampleBlock::ideal(vec![0.0; n], vec![0.0; n], 1.0, Vec::new())
        }
    }

    fn line(n: usize) -> PositionBatch {
        let mut batch = PositionBatch::default();
        for i in 0..n {
            // The way from the park position is over before the line begins.
            let settle_ns = if i == 0 { 10_000_000 } else { 0 };
            batch.push(100.0, 100.0 + i as f32, 1000, settle_ns);
        }
        batch
    }

    fn followed(coils: &PlannedCoils, batch: &PositionBatch) -> SampleBlock {
        let mut follower = Follower::new(coils).unwrap();
        let n = batch.len();
        let mut block = block(0, n);
        follower.follow([(batch, 0..n)].into_iter(), &mut block);
        block
    }

    #[test]
    fn a_steady_line_lags_by_the_group_delay_of_its_axis() {
        let coils = planned(0.0);
        let block = followed(&coils, &line(300));
        let [delay_x, _] = coils.group_delay_us();
        // 1 px/µs. What tail and hysteresis add is below 0.6 and 0.25 px.
        let lag = 399.0 - f64::from(block.col_actual[299]);
        assert!((lag - delay_x).abs() < 1.0, "{lag} px");
        assert!((block.row_actual[299] - 100.0).abs() < 0.5);
        // A path of one px: 1/12 px² along the line.
        let [rr, _, cc] = block.path_covariance[299];
        assert!((cc - 1.0 / 12.0).abs() < 0.02 && rr < 0.01, "{rr} {cc}");
    }

    #[test]
    fn a_scan_turned_by_a_quarter_moves_the_other_coil() {
        let straight = followed(&planned(0.0), &line(300));
        let turned = followed(&planned(std::f64::consts::FRAC_PI_2), &line(300));
        let lag = |b: &SampleBlock| 399.0 - b.col_actual[299];
        // The x coil of this calibration is 1.5 µs later than the y coil.
        let difference = lag(&straight) - lag(&turned);
        assert!((difference - 1.5).abs() < 0.2, "{difference} px");
    }

    #[test]
    fn pauses_let_the_coils_come_to_rest() {
        let coils = planned(0.0);
        let mut follower = Follower::new(&coils).unwrap();
        let batch = line(20);
        let mut first = block(0, 20);
        follower.follow([(&batch, 0..20)].into_iter(), &mut first);
        // 5 ms later (the line took 10.02), the same place again: it has been there all the while.
        let mut again = PositionBatch::default();
        again.push(100.0, 119.0, 1000, 0);
        let mut second = block(15_020_000, 1);
        follower.follow([(&again, 0..1)].into_iter(), &mut second);
        assert!((second.col_actual[0] - 119.0).abs() < 0.3);
        assert!((first.col_actual[19] - 119.0).abs() > 3.0);
    }

    #[test]
    fn the_journal_reads_back_what_was_written() {
        let coils = planned(0.3);
        assert_eq!(PlannedCoils::from_text(&coils.to_text()).unwrap(), coils);
        assert!(PlannedCoils::from_text("coil-1 1 2").is_err());
    }

    #[test]
    fn old_calibrations_and_other_columns_are_not_used() {
        let known = [calibration()];
        let column = ColumnState::default();
        let day = 86_400;
        let fresh = CoilCalibration::select(&known, &column, 1_000_000 + day);
        assert_eq!(fresh.unwrap().map(|c| c.id.as_str()), Some("coil-1"));
        let old = CoilCalibration::select(&known, &column, 1_000_000 + 31 * day);
        assert_eq!(old.unwrap_err().field, "coil.date_s");
        let other = [CoilCalibration {
            high_tension: Some(HighTension::from_kilovolts(200.0).unwrap()),
            ..calibration()
        }];
        let refused = CoilCalibration::select(&other, &column, 1_000_000);
        assert_eq!(refused.unwrap_err().field, "column.high_tension_kv");
        assert_eq!(CoilCalibration::select(&[], &column, 0), Ok(None));
    }
}
