//! State of the electron column: read from the microscope, or stated by the operator.
//!
//! Only read, never set. What is not known stays unknown (`None`) and forbids what depends on it.

use crate::Error;
use domain::{ColumnState, Invalid};

/// Where the state of the column comes from.
pub trait Column: Send {
    /// Name of the driver, as in the configuration.
    fn driver(&self) -> &'static str;
    /// The newest state.
    fn read(&mut self) -> Result<ColumnState, Error>;
    /// Takes a state from the operator. Drivers that read it from the column refuse.
    fn state(&mut self, stated: ColumnState) -> Result<(), Error>;
}

/// Driver `manual`: the state is what the operator said last.
#[derive(Debug, Clone, Default)]
pub struct ManualColumn {
    stated: ColumnState,
}

impl ManualColumn {
    /// Starts from a state, as configured; everything may be unknown.
    pub fn new(stated: ColumnState) -> Result<Self, Invalid> {
        check_column(&stated)?;
        Ok(Self { stated })
    }
}

impl Column for ManualColumn {
    fn driver(&self) -> &'static str {
        "manual"
    }

    fn read(&mut self) -> Result<ColumnState, Error> {
        Ok(self.stated.clone())
    }

    fn state(&mut self, stated: ColumnState) -> Result<(), Error> {
        check_column(&stated)?;
        self.stated = stated;
        Ok(())
    }
}

/// Refuses a state that no column can have: numbers that are not finite or not positive, a current without a source.
pub fn check_column(state: &ColumnState) -> Result<(), Invalid> {
    let positive =
        |field: &'static str, value: Option<f64>, max: f64, allowed: &'static str| match value {
            Some(v) if !(v > 0.0 && v <= max) => Err(Invalid::new(field, v, allowed)),
            _ => Ok(()),
        };
    positive(
        "column.magnification",
        state.magnification,
        1e12,
        "above 0, at most 1e12",
    )?;
    positive(
        "column.convergence_mrad",
        state.convergence_mrad,
        1e3,
        "above 0, at most 1000 mrad",
    )?;
    positive(
        "column.camera_length_mm",
        state.camera_length_mm,
        1e6,
        "above 0, at most 1e6 mm",
    )?;
    if !(0.0..=1.0).contains(&state.probe_current_uncertainty) {
        return Err(Invalid::new(
            "column.probe_current_uncertainty",
            state.probe_current_uncertainty,
            "0 to 1, relative",
        ));
    }
    if state.probe_current.is_some() && state.probe_current_source.trim().is_empty() {
        return Err(Invalid::new(
            "column.probe_current_source",
            "nothing",
            "where the current comes from, such as \"faraday cup 2026-11-20\"",
        ));
    }
    for (detector, inner, outer) in &state.collection_mrad {
        if !(*inner >= 0.0 && inner < outer && *outer <= 1e3) {
            return Err(Invalid::new(
                format!("column.collection_mrad.{detector}"),
                format!("{inner} to {outer}"),
                "inner below outer, 0 to 1000 mrad",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Current;

    #[test]
    fn a_stated_column_is_read_back_and_unknown_current_stays_unknown() {
        let mut column = ManualColumn::default();
        assert!(column.read().unwrap().require_current().is_err());
        let stated = ColumnState {
            probe_current: Some(Current::from_picoamperes(10.0).unwrap()),
            probe_current_source: "stated by operator".into(),
            ..ColumnState::default()
        };
        column.state(stated.clone()).unwrap();
        assert_eq!(column.read().unwrap(), stated);
        assert_eq!(column.driver(), "manual");
    }

    #[test]
    fn states_that_no_column_has_are_refused_and_change_nothing() {
        let mut column = ManualColumn::default();
        let refused = |state: ColumnState| check_column(&state).unwrap_err().field.into_owned();
        let base = ColumnState::default;
        assert_eq!(
            refused(ColumnState {
                magnification: Some(f64::NAN),
                ..base()
            }),
            "column.magnification"
        );
        assert_eq!(
            refused(ColumnState {
                convergence_mrad: Some(0.0),
                ..base()
            }),
            "column.convergence_mrad"
        );
        assert_eq!(
            refused(ColumnState {
                camera_length_mm: Some(-1.0),
                ..base()
            }),
            "column.camera_length_mm"
        );
        assert_eq!(
            refused(ColumnState {
                probe_current_uncertainty: f64::NAN,
                ..base()
            }),
            "column.probe_current_uncertainty"
        );
        let unsourced = ColumnState {
            probe_current: Some(Current::from_picoamperes(10.0).unwrap()),
            ..base()
        };
        assert_eq!(refused(unsourced.clone()), "column.probe_current_source");
        assert_eq!(
            refused(ColumnState {
                collection_mrad: vec![("bf".into(), 5.0, 5.0)],
                ..base()
            }),
            "column.collection_mrad.bf"
        );
        assert!(column.state(unsourced).is_err());
        assert_eq!(column.read().unwrap(), base());
    }
}
