//! The pictures of one acquisition for one client.

use crate::maps::{Maps, MapsTable};
use crate::notify::Wake;
use crate::picture::Wishes;
use crate::refuse::{invalid, of_engine, refuse};
use crate::service::{source_of, unknown_acquisition};
use crate::shared::Shared;
use domain::{Estimate, Plan};
use engine::{Latest, Slot};
use proto::v1::{self, ErrorReason, Plane};
use proto::{ACQUISITIONS, name_of_id};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Paints what a client wishes to see of one acquisition.
pub(crate) struct Painter {
    shared: Arc<Shared>,
    id: String,
    plan: Arc<Plan>,
    wishes: Wishes,
    estimates: Slot<Estimate>,
    maps: Option<Arc<Maps>>,
    /// Samples of an acquisition of an earlier session.
    n_stored: Option<u64>,
    /// Version of the estimate painted last.
    painted: u64,
    /// Positions in the visits and dose painted last.
    counted: u64,
}

impl Painter {
    /// For the acquisition of that id, live or from the store; refuses wishes that it cannot fulfil.
    pub(crate) fn new(
        shared: Arc<Shared>,
        maps: &MapsTable,
        id: &str,
        options: &v1::PreviewOptions,
    ) -> Result<Self, Status> {
        let mut wishes = Wishes::of(options).map_err(invalid)?;
        let (plan, estimates, n_stored) = match shared.engine.acquisition(id) {
            Ok(acquisition) => {
                let estimates = shared.engine.estimates(id).map_err(|e| of_engine(e, ""))?;
                (acquisition.plan.clone(), estimates, None)
            }
            Err(_) if !shared.archive.journal(id).exists() => return Err(unknown_acquisition(id)),
            Err(_) => {
                let stored = shared.archive.estimate(id)?;
                let slot = Slot::default();
                slot.put(Arc::new(stored.estimate), shared.engine.now());
                (Arc::new(stored.plan), slot, Some(stored.n_samples))
            }
        };
        let known: Vec<&str> = plan
            .detectors
            .iter()
            .map(domain::DetectorName::as_str)
            .collect();
        if wishes.detectors.is_empty() {
            wishes.detectors = known.iter().take(1).map(|&name| name.to_owned()).collect();
        }
        for (i, name) in wishes.detectors.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let path = format!("options.detectors[{i}]");
                let value = format!("{name:.64?}");
                return Err(invalid(domain::Invalid::new(path, value, known.join(", "))));
            }
        }
        let grid = plan.field.grid;
        wishes.cut(grid, grid, 1).map_err(invalid)?;
        let counted = wishes
            .planes
            .iter()
            .any(|p| matches!(p, Plane::Visits | Plane::Dose));
        let maps = if counted {
            let found = maps.of(&source_of(&shared, id)?, grid);
            Some(found.map_err(|e| refuse(ErrorReason::Overloaded, e.to_string()))?)
        } else {
            None
        };
        Ok(Self {
            shared,
            id: id.to_owned(),
            plan,
            wishes,
            estimates,
            maps,
            n_stored,
            painted: 0,
            counted: 0,
        })
    }

    /// Shortest time between two pictures.
    pub(crate) const fn period(&self) -> Duration {
        self.wishes.period
    }

    /// Wakes when there is a new estimate.
    pub(crate) fn wake(&self) -> Wake {
        Wake::on(&self.estimates)
    }

    /// Whether the acquisition has ended, so that no newer estimate will come.
    pub(crate) fn is_over(&self) -> bool {
        let acquisition = self.shared.engine.acquisition(&self.id);
        self.n_stored.is_some() || acquisition.is_ok_and(|a| a.state.is_final())
    }

    /// Waits, for at most some seconds, until visits and dose have been counted as far as samples are recorded.
    pub(crate) fn wait_for_maps(&self) {
        let live = || self.shared.engine.acquisition(&self.id).ok();
        let n_sampled = self.n_stored.or_else(|| Some(live()?.n_sampled));
        if let (Some(maps), Some(n_sampled)) = (&self.maps, n_sampled) {
            maps.wait_for(n_sampled, &*self.shared.clock);
        }
    }

    /// The newest picture where it is newer than the one before, or final. Visits and dose are newer with every position that is
    /// recorded, also while the estimate takes its time.
    pub(crate) fn paint(&mut self, is_final: bool) -> Result<Option<v1::PreviewFrame>, Status> {
        let Some(latest) = self.estimates.latest() else {
            return Ok(None);
        };
        let counts = |plane: &Plane| matches!(plane, Plane::Visits | Plane::Dose);
        let counted = match &self.maps {
            Some(maps) if self.wishes.planes.iter().any(counts) => maps.n_positions(),
            _ => 0,
        };
        if (latest.version, counted) == (self.painted, self.counted) && !is_final {
            return Ok(None);
        }
        let skipped = match self.painted {
            0 => 0,
            before => latest.version.saturating_sub(before + 1),
        };
        let frame = self.frame(&latest, skipped, is_final)?;
        (self.painted, self.counted) = (latest.version, counted);
        Ok(Some(frame))
    }

    fn frame(
        &self,
        latest: &Latest<Estimate>,
        skipped: u64,
        is_final: bool,
    ) -> Result<v1::PreviewFrame, Status> {
        let estimate = &latest.value;
        let age = self.shared.engine.now().saturating_sub(latest.at);
        let grid = self.plan.field.grid;
        let cut = self
            .wishes
            .cut(grid, estimate.grid, estimate.scale)
            .map_err(invalid)?;
        let mut planes = Vec::new();
        for &plane in &self.wishes.planes {
            self.add(plane, estimate, &mut planes)?;
        }
        Ok(v1::PreviewFrame {
            acquisition: name_of_id(ACQUISITIONS, &self.id),
            revision: estimate.revision,
            n_positions: estimate.n_positions,
            frame: 0,
            age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            skipped,
            region: Some(proto::proto_from_rect(cut.region)),
            scale: cut.scale,
            planes,
            r#final: is_final,
            pitch_nm: match self.plan.field.pitch {
                domain::Pitch::Nanometres(nm) => nm.nm() * f64::from(cut.scale),
                domain::Pitch::Unknown => 0.0,
            },
        })
    }

    fn add(
        &self,
        plane: Plane,
        estimate: &Estimate,
        out: &mut Vec<v1::PreviewPlane>,
    ) -> Result<(), Status> {
        let grid = self.plan.field.grid;
        let wishes = &self.wishes;
        let cut = wishes
            .cut(grid, estimate.grid, estimate.scale)
            .map_err(invalid)?;
        match (plane, &self.maps) {
            (Plane::Unspecified | Plane::Estimate | Plane::Uncertainty, _) => {
                for name in &wishes.detectors {
                    let found = estimate
                        .detectors
                        .iter()
                        .find(|d| d.detector.as_str() == name);
                    let Some(found) = found else {
                        continue;
                    };
                    let values = match plane {
                        Plane::Uncertainty => &found.uncertainty,
                        _ => &found.mean,
                    };
                    let picture = cut.of(values, |v| v);
                    let unit = "events per incident electron";
                    out.push(wishes.encode(plane, name, unit, &cut, &picture));
                }
            }
            (Plane::Gain, _) if !estimate.gain.is_empty() => {
                let picture = cut.of(&estimate.gain, |v| v);
                out.push(wishes.encode(plane, "", "relative", &cut, &picture));
            }
            (Plane::Visits, Some(maps)) => {
                let (cut, picture) = maps
                    .read(|counts| {
                        let cut = wishes.cut(grid, counts.grid, counts.scale)?;
                        Ok((cut, cut.of(&counts.visits, |v| v)))
                    })
                    .map_err(invalid)?;
                out.push(wishes.encode(plane, "", "visits", &cut, &picture));
            }
            (Plane::Dose, Some(maps)) => {
                let area = self.plan.field.pitch.pixel_area_a2();
                let scale = area.map_or(1.0, |a| 1.0 / a) as f32;
                let (cut, picture) = maps
                    .read(|counts| {
                        let cut = wishes.cut(grid, counts.grid, counts.scale)?;
                        Ok((cut, cut.of(&counts.electrons, |e| e * scale)))
                    })
                    .map_err(invalid)?;
                let unit = if area.is_some() {
                    "e/Å²"
                } else {
                    "electrons"
                };
                out.push(wishes.encode(plane, "", unit, &cut, &picture));
            }
            (Plane::Gain | Plane::Visits | Plane::Dose, _) => {}
        }
        Ok(())
    }
}
