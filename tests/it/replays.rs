//! A real session again, twice: its journal through the engine, and its positions through the simulator in process.

use crate::api_server::{Server, blanked, config, release};
use crate::golden::{Wiring, whole_field};
use crate::process::Bench;
use client::AcquisitionState;
use domain::{
    Affine, ColumnState, DwellTime, Estimator, Exposure, Fraction, ListedPosition, Order, Pattern,
    Plan, SampleBlock, VirtualClock,
};
use engine::lockstep::{Lockstep, Observer};
use hal::{FieldCalibration, FieldUnit};
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Kept(Vec<Arc<SampleBlock>>);

impl Observer for Kept {
    fn block(&mut self, block: &Arc<SampleBlock>) {
        self.0.push(block.clone());
    }
}

/// Where each sample was commanded, and what the detector said, in order of exposure.
fn samples(blocks: &[Arc<SampleBlock>]) -> Vec<[f32; 3]> {
    let of = |block: &Arc<SampleBlock>| {
        let values = block.signals[0].scalar().unwrap();
        (0..values.len())
            .map(|i| [block.row[i], block.col[i], values[i]])
            .collect::<Vec<_>>()
    };
    blocks.iter().flat_map(of).collect()
}

/// `plan` on the simulator in process, on virtual time, wired like the real one.
fn in_process(wiring: &Wiring, bench: &Bench, plan: &Plan) -> Vec<[f32; 3]> {
    let scene = sim::Scene {
        specimen: "f".into(),
        instrument: wiring.instrument(bench),
        noiseless: true,
        ..sim::Scene::default()
    };
    let clock = VirtualClock::new();
    // Entered by hand, not through the configuration of the service.
    let (sin, cos) = wiring.rotation_deg.to_radians().sin_cos();
    let turned_back = Affine {
        m: [[cos, sin], [-sin, cos]],
        t: [0.0; 2],
    };
    let square = FieldCalibration::square("stated", FieldUnit::Nanometres, 25.6).unwrap();
    let setup = hal::Setup {
        electrical: hal::Electrical {
            swap_xy: wiring.swap_xy,
            flip_x: wiring.flip_x,
            flip_y: wiring.flip_y,
            ..hal::Electrical::default()
        },
        calibrations: vec![FieldCalibration {
            deflection_from_field: square.deflection_from_field.after(&turned_back),
            ..square
        }],
        ..hal::Setup::new(Arc::new(clock.clone()))
    };
    let controller = sim::Lockstep::open(scene.device().unwrap(), &setup, &clock).unwrap();
    let settings = engine::Config {
        estimate: false,
        ..engine::Config::default()
    };
    let mut engine = Lockstep::new(
        settings,
        controller.controller(),
        ColumnState::default(),
        clock,
    )
    .unwrap();
    let mut kept = Kept::default();
    let outcome = engine.run(plan, &mut kept).unwrap();
    assert_eq!(outcome.acquisition.state, engine::State::Finished);
    samples(&kept.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_a_real_session_replays_bit_for_bit_and_so_do_its_samples_in_process() {
    let bench = Bench::new();
    let wiring = Wiring {
        swap_xy: true,
        flip_x: true,
        rotation_deg: 20.0,
        ..Wiring::default()
    };
    let firmware = wiring.firmware(&bench);
    let server = Server::start_with(wiring.config(&bench, &firmware.address)).await;
    let lease = server
        .client
        .acquire_lease("test", Duration::from_secs(10))
        .await
        .unwrap();
    let policy = Plan {
        pattern: Pattern::Adaptive,
        estimator: Estimator::Kriging,
        fraction: Fraction::new(0.2).unwrap(),
        final_refinement: Duration::from_millis(50),
        ..whole_field(0.0)
    };
    let (id, blocks) = server.acquired(&lease, &policy.clone().into()).await;
    release(lease).await;
    assert!(server.stop().await);
    let blocks: Vec<Arc<SampleBlock>> = blocks.into_iter().map(Arc::new).collect();
    let real = samples(&blocks);

    let path = bench.path(&format!("data/{id}.zspy"));
    let replayed = bench.run(&["replay", path.to_str().unwrap(), "--json"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let told = replayed.json();
    assert_eq!(told["equal"], true, "{told}");
    for what in ["batches", "decisions", "estimates"] {
        assert!(told[what].as_u64().unwrap() > 0, "{what}: {told}");
    }
    assert_eq!(told["blocks"], blocks.len());

    let place = |s: &[f32; 3]| ListedPosition {
        row: s[0],
        col: s[1],
        dwell: None,
    };
    let listed = Plan {
        pattern: Pattern::List(real.iter().map(place).collect()),
        order: Order::AsGiven,
        estimator: Estimator::Nearest,
        fraction: Fraction::FULL,
        ..policy
    };
    let again = in_process(&wiring, &bench, &listed);
    assert_eq!(again, real);
}

/// Blanked twice in mid-scan, cleared and resumed: every trip, gap and arming is in the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_blanked_and_resumed_replays_bit_for_bit() {
    let bench = Bench::new();
    let server = Server::start_with(config(&bench.path(""), "sim:?instrument=ideal")).await;
    let client = &server.client;
    let lease = client
        .acquire_lease("test", Duration::from_secs(10))
        .await
        .unwrap();
    let mut request = server.plan(64).await;
    request.plan.pattern = Pattern::Adaptive;
    request.plan.estimator = Estimator::Kriging;
    request.plan.exposure = Exposure::Dwell(DwellTime::from_nanoseconds(500_000).unwrap());
    request.plan.fraction = Fraction::new(0.5).unwrap();
    let created = client.create(&lease, &request, "").await.unwrap();
    client.start(&lease, &created.id).await.unwrap();
    let mut watch = client.watch(&created.id, 50.0).await.unwrap();
    for n in [200, 700] {
        while watch.next().await.unwrap().unwrap().progress.n_sampled < n {}
        let trip = blanked(client).await.trip.expect("it runs");
        client.clear_trip(&lease, trip.cause_id).await.unwrap();
        client.resume(&lease, &created.id).await.unwrap();
    }
    let mut last = None;
    while let Some(now) = watch.next().await.unwrap() {
        last = Some(now.state);
    }
    assert_eq!(last, Some(AcquisitionState::Finished));
    release(lease).await;
    assert!(server.stop().await);

    let path = bench.path(&format!("data/{}.zspy", created.id));
    let replayed = bench.run(&["replay", path.to_str().unwrap(), "--json"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let told = replayed.json();
    assert_eq!(told["equal"], true, "{told}");
    assert!(told["gaps"].as_u64().unwrap() >= 2, "{told}");
}
