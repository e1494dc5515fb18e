//! What an estimator has learned of a specimen: a mixture of Gaussians over square patches.

use crate::{DetectorName, Invalid};

/// A mixture of Gaussians over patches of one detector's picture, `x ~ Σ π_k N(μ_k, S_k)`, learned from one frame and
/// handed on to another.
///
/// Patches are `[row, column]`, row-major, in pixels of the frame it was learned from. Values are without unit:
/// `(events per incident electron − mean) / scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchModel {
    /// Detector.
    pub detector: DetectorName,
    /// Side of a patch, px, 2 to 32.
    pub side: u32,
    /// What 0 stands for, events per incident electron.
    pub mean: f64,
    /// What 1 stands for, events per incident electron, above 0.
    pub scale: f64,
    /// Probabilities of the components, 0 to 1, 1 to 256 of them.
    pub weights: Vec<f32>,
    /// `[component][pixel]`.
    pub means: Vec<f32>,
    /// `[component]`, then the upper triangle by rows: pixels `(0, 0), (0, 1), …, (1, 1), …`.
    pub covariances: Vec<f32>,
}

impl PatchModel {
    /// Longest side of a patch, px.
    pub const MAX_SIDE: u32 = 32;
    /// Most components.
    pub const MAX_COMPONENTS: usize = 256;

    /// Pixels of a patch.
    #[must_use]
    pub const fn n_pixels(&self) -> usize {
        self.side as usize * self.side as usize
    }

    /// Elements of the upper triangle of a covariance between `n_pixels`.
    #[must_use]
    pub const fn n_triangle(n_pixels: usize) -> usize {
        n_pixels * (n_pixels + 1) / 2
    }

    /// Memory of its numbers, bytes.
    #[must_use]
    pub const fn n_bytes(&self) -> u64 {
        let n = self.weights.len() + self.means.len() + self.covariances.len();
        4 * n as u64
    }

    /// Refuses sizes that contradict each other, numbers that no learning gives, and variances that are not positive.
    pub fn check(&self) -> Result<(), Invalid> {
        if !(2..=Self::MAX_SIDE).contains(&self.side) {
            return Err(Invalid::new("model.side", self.side, "2 to 32 px"));
        }
        let (n, area) = (self.weights.len(), self.n_pixels());
        if !(1..=Self::MAX_COMPONENTS).contains(&n) {
            return Err(Invalid::new("model.components", n, "1 to 256"));
        }
        let triangle = Self::n_triangle(area);
        for (field, found, wanted) in [
            ("model.means", self.means.len(), n * area),
            ("model.covariances", self.covariances.len(), n * triangle),
        ] {
            if found != wanted {
                let allowed = format!("{wanted} numbers: components × their size");
                return Err(Invalid::new(field, format!("{found} numbers"), allowed));
            }
        }
        if !self.mean.is_finite() {
            return Err(Invalid::new("model.mean", self.mean, "a finite number"));
        }
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            return Err(Invalid::new("model.scale", self.scale, "above 0, finite"));
        }
        let refuse = |field, value: Option<&f32>, allowed: &'static str| match value {
            Some(value) => Err(Invalid::new(field, value, allowed)),
            None => Ok(()),
        };
        let weight = self.weights.iter().find(|w| !(0.0..=1.0).contains(*w));
        refuse("model.weights", weight, "0 to 1")?;
        let is_wild = |v: &&f32| !(-1e6..=1e6).contains(*v);
        let mean = self.means.iter().find(is_wild);
        refuse("model.means", mean, "-1e6 to 1e6")?;
        let covariance = self.covariances.iter().find(is_wild);
        refuse("model.covariances", covariance, "-1e6 to 1e6")?;
        let of_component = self.covariances.chunks_exact(triangle);
        let variance = of_component
            .flat_map(|c| (0..area).map(|p| &c[p * area - p * p.saturating_sub(1) / 2]))
            .find(|v| **v <= 0.0);
        refuse("model.covariances", variance, "variances above 0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> PatchModel {
        PatchModel {
            detector: DetectorName::new("haadf").unwrap(),
            side: 2,
            mean: 0.1,
            scale: 0.02,
            weights: vec![1.0],
            means: vec![0.0; 4],
            covariances: vec![1.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5, 1.0],
        }
    }

    #[test]
    fn a_model_that_contradicts_itself_is_refused_by_the_name_of_the_field() {
        assert_eq!(model().check(), Ok(()));
        let refused = |change: fn(&mut PatchModel)| {
            let mut changed = model();
            change(&mut changed);
            changed.check().unwrap_err().field
        };
        assert_eq!(refused(|m| m.side = 0), "model.side");
        assert_eq!(refused(|m| m.side = 33), "model.side");
        assert_eq!(refused(|m| m.side = 3), "model.means");
        assert_eq!(refused(|m| m.weights.clear()), "model.components");
        assert_eq!(refused(|m| m.weights[0] = f32::NAN), "model.weights");
        assert_eq!(refused(|m| m.mean = f64::INFINITY), "model.mean");
        assert_eq!(refused(|m| m.scale = 0.0), "model.scale");
        assert_eq!(refused(|m| m.means[3] = f32::NAN), "model.means");
        // The variances lie at 0, 4, 7 and 9 of the triangle of four pixels.
        for at in [0, 4, 7, 9] {
            let mut changed = model();
            changed.covariances[at] = 0.0;
            let refused = changed.check().unwrap_err();
            assert_eq!(refused.field, "model.covariances");
            assert_eq!(refused.allowed, "variances above 0");
        }
        assert_eq!(
            refused(|m| m.covariances[5] = f32::NAN),
            "model.covariances"
        );
        let mut negative = model();
        negative.covariances[5] = -0.5;
        assert_eq!(negative.check(), Ok(()));
    }
}
