//! Coil calibrations as they are stored and shown.

use super::date;
use domain::{HighTension, Invalid};
use engine::CoilCalibration;
use engine::calibrate::CoilFound;
use proto::v1::{self, CalibrationKind};
use proto::{CALIBRATIONS, name_of_id};
use scan::{AxisCoil, CoilModel};
use store::ColumnKey;

/// Delay, slew limiter, low pass of second order, hysteresis, slow tail: see `scan::AxisCoil`.
const MODEL: &str = "delay-slew-lowpass-play-tail";
const AXES: [&str; 2] = ["x", "y"];
const GROUP_DELAY_ERROR: &str = "group_delay_error_us";
const BEAM: &str = "beam_s";
const CHI_SQUARE: &str = "chi_square";
const F0_ERROR: &str = "relative_f0_error";
const ZETA_ERROR: &str = "relative_zeta_error";

/// What a run found, to be kept.
pub(super) fn stored(found: &CoilFound, column: ColumnKey) -> store::CoilCalibration {
    let new = &found.calibration;
    let each =
        |of: &dyn Fn(&engine::calibrate::AxisFound) -> f64| found.axes.iter().map(of).collect();
    let axes = [new.model.col, new.model.row].map(|axis| numbers_of(&axis));
    let mut parameters: Vec<(String, Vec<f64>)> = AXES
        .iter()
        .zip(axes)
        .map(|(name, numbers)| ((*name).to_owned(), numbers.to_vec()))
        .collect();
    let mut put = |name: &str, values: Vec<f64>| parameters.push((name.to_owned(), values));
    put(GROUP_DELAY_ERROR, new.group_delay_error_us.to_vec());
    put(BEAM, each(&|a| a.beam.as_secs_f64()));
    put(CHI_SQUARE, each(&|a| a.fit.chi_square));
    put(F0_ERROR, each(&|a| a.fit.errors[0]));
    put(ZETA_ERROR, each(&|a| a.fit.errors[1]));
    let [x, y] = &found.axes;
    store::CoilCalibration {
        id: new.id.clone(),
        date_s: new.date_s,
        column,
        model: MODEL.to_owned(),
        parameters,
        source: format!(
            "jump and hold onto {} places along x and {} along y, {:.2} and {:.2} s of beam; χ² of the fits {:.2} and {:.2}",
            x.landings.len(),
            y.landings.len(),
            x.beam.as_secs_f64(),
            y.beam.as_secs_f64(),
            x.fit.chi_square,
            y.fit.chi_square,
        ),
        valid_until_s: Some(new.date_s + CoilCalibration::VALID_FOR.as_secs()),
        electrons: found.electrons,
    }
}

/// As the engine takes it.
pub(super) fn from_store(c: &store::CoilCalibration) -> Result<CoilCalibration, Invalid> {
    if c.model != MODEL {
        return Err(Invalid::new("calibration.model", &c.model, MODEL));
    }
    let col = axis_of(c.parameter(AXES[0])?);
    let row = axis_of(c.parameter(AXES[1])?);
    let tension = c.column.high_tension_kv().map(HighTension::from_kilovolts);
    let found = CoilCalibration {
        id: c.id.clone(),
        date_s: c.date_s,
        high_tension: tension.transpose()?,
        magnification: c.column.magnification(),
        model: CoilModel { row, col },
        group_delay_error_us: c.parameter(GROUP_DELAY_ERROR)?,
    };
    found.model.check()?;
    Ok(found)
}

/// As the API shows it.
pub(super) fn of_stored(
    c: &store::CoilCalibration,
    active: bool,
) -> Result<v1::Calibration, Invalid> {
    let known = from_store(c)?;
    let (f0_error, zeta_error) = (c.parameter::<2>(F0_ERROR)?, c.parameter::<2>(ZETA_ERROR)?);
    let (beam_s, chi_square) = (c.parameter::<2>(BEAM)?, c.parameter::<2>(CHI_SQUARE)?);
    let axis = |i: usize, axis: &AxisCoil| v1::CoilAxis {
        f0_hz: axis.f0_khz * 1e3,
        zeta: axis.zeta,
        delay_ns: axis.delay_us * 1e3,
        slew_per_s: match axis.slew_px_per_us.is_finite() {
            true => axis.slew_px_per_us * 1e6,
            false => 0.0,
        },
        tail_share: axis.tail,
        tail_ns: axis.tail_us * 1e3,
        hysteresis: axis.hysteresis_px,
        group_delay_ns: axis.group_delay_us() * 1e3,
        group_delay_uncertainty_ns: known.group_delay_error_us[i] * 1e3,
        residual: chi_square[i].max(0.0).sqrt(),
        f0_uncertainty: f0_error[i],
        zeta_uncertainty: zeta_error[i],
    };
    Ok(v1::Calibration {
        name: name_of_id(CALIBRATIONS, &c.id),
        kind: CalibrationKind::Coil as i32,
        create_time: Some(date(c.date_s)),
        valid_until: c.valid_until_s.map(date),
        active,
        high_tension_kv: c.column.high_tension_kv(),
        magnification: c.column.magnification(),
        method: c.source.clone(),
        result: Some(v1::calibration::Result::Coil(v1::CoilCalibration {
            x: Some(axis(0, &known.model.col)),
            y: Some(axis(1, &known.model.row)),
            beam_time_ns: (beam_s.iter().sum::<f64>() * 1e9) as u64,
        })),
        electrons: c.electrons,
        ..Default::default()
    })
}

/// Lengths are deflection. No limit of the slew is 0, since JSON knows no infinity.
fn numbers_of(axis: &AxisCoil) -> [f64; 10] {
    let [p, q, r] = axis.play_px;
    let slew = axis.slew_px_per_us;
    let slew = if slew.is_finite() { slew } else { 0.0 };
    [
        axis.f0_khz,
        axis.zeta,
        axis.delay_us,
        slew,
        axis.hysteresis_px,
        p,
        q,
        r,
        axis.tail,
        axis.tail_us,
    ]
}

fn axis_of(n: [f64; 10]) -> AxisCoil {
    AxisCoil {
        f0_khz: n[0],
        zeta: n[1],
        delay_us: n[2],
        slew_px_per_us: if n[3] == 0.0 { f64::INFINITY } else { n[3] },
        hysteresis_px: n[4],
        play_px: [n[5], n[6], n[7]],
        tail: n[8],
        tail_us: n[9],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::ColumnState;

    #[test]
    fn coils_come_back_from_the_store_bit_for_bit() {
        for coil in [AxisCoil::STEM, AxisCoil::ELECTROSTATIC] {
            let slewless = AxisCoil {
                slew_px_per_us: f64::INFINITY,
                ..coil.scaled(1.0 / 256.0)
            };
            for axis in [coil.scaled(1.0 / 256.0), slewless] {
                assert_eq!(axis_of(numbers_of(&axis)), axis);
            }
        }
    }

    #[test]
    fn what_is_not_of_this_model_is_refused_by_name() {
        let strange = store::CoilCalibration {
            id: "c".into(),
            date_s: 0,
            column: ColumnKey::of(&ColumnState::default()),
            model: MODEL.into(),
            parameters: vec![("x".into(), vec![1.0])],
            source: String::new(),
            valid_until_s: None,
            electrons: 0.0,
        };
        let field = |c: &store::CoilCalibration| from_store(c).unwrap_err().field.into_owned();
        assert_eq!(field(&strange), "calibration.parameters.x");
        let other = store::CoilCalibration {
            model: "spline".into(),
            ..strange
        };
        assert_eq!(field(&other), "calibration.model");
    }
}
