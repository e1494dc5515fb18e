//! Acquisitions that go on without their client: within bounds of their own, which hold when nobody is there.

use crate::desk::Desk;
use crate::process::until;
use client::{Client, Error, PlanRequest};
use domain::{Detached, DwellTime, Exposure, Plan, PlanKind};
use serde_json::Value;
use std::time::Duration;

/// Hours of beam, with `bounds`; its client is killed as soon as it exposes. How it ended.
fn without_client(bounds: &[&str]) -> Value {
    let desk = Desk::new();
    let mut verb = vec!["acquire", "--pixels", "256", "--frames", "20000"];
    // Few positions, so that a busy machine keeps up.
    verb.extend(["--dwell-us", "1000"]);
    verb.extend(bounds);
    let client = desk.bench.begin(&desk.arguments(&verb));
    until("an acquisition that exposes", || {
        (desk.status()["beam"] == "exposing").then_some(())
    });
    drop(client);
    let lease = |status: &Value| status["lease"]["held"] == false;
    until("the lease to run out", || {
        lease(&desk.status()).then_some(())
    });
    let ended = until("its end", || {
        let shown = desk.ask(&["show"])["acquisition"].clone();
        (shown["state"] == "finished").then_some(shown)
    });
    assert_eq!(desk.status()["beam"], "blanked");
    desk.close();
    ended
}

#[test]
fn its_electrons_end_it_when_its_client_is_gone() {
    // 10 pA are 62.4 million electrons a second: some seconds of beam.
    let ended = without_client(&["--detach-s", "100000", "--max-electrons", "3e8"]);
    assert_eq!(ended["outcome"]["reason"], "dose_limit", "{ended}");
    let electrons = |what: &str| ended["dose"][what].as_f64().unwrap();
    let spent = electrons("dwell_electrons") + electrons("outside_electrons");
    assert!(spent > 2e8 && spent <= 3e8, "{spent}");
}

#[test]
fn its_time_ends_it_when_its_client_is_gone() {
    let ended = without_client(&["--detach-s", "4", "--max-electrons", "1e15"]);
    assert_eq!(ended["outcome"]["reason"], "detached_bound", "{ended}");
}

#[test]
fn without_a_bound_on_all_its_electrons_it_is_refused() {
    let desk = Desk::new();
    let verb = ["acquire", "--pixels", "64", "--detach-s", "10"];
    let position = ["--max-position-electrons", "1e9"];
    for more in [&[][..], &["--dry-run"], &position] {
        let refused = desk.run(&verb.iter().chain(more).copied().collect::<Vec<_>>());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("--max-electrons"), "{refused:?}");
    }
    for bound in [["--max-electrons", "1e9"], ["--max-dose-e-per-a2", "1e5"]] {
        let acquired = desk.ask(&[verb.as_slice(), bound.as_slice()].concat());
        assert_eq!(acquired["exposures"], 410);
    }
    assert_eq!(desk.ask(&["list"])["acquisitions"][2], Value::Null);
    // Whoever speaks to the service without this program is refused by it.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&desk.served.url).await.unwrap();
        let capabilities = client.capabilities().await.unwrap();
        let dwell = DwellTime::from_microseconds(1.0).unwrap();
        let detectors = capabilities.default_detectors.clone();
        let mut plan = Plan::new(
            capabilities.default_field,
            detectors,
            Exposure::Dwell(dwell),
        );
        plan.detached = Some(Detached {
            electrons: None,
            duration: Duration::from_secs(10),
        });
        for (kind, rate) in [(PlanKind::Acquire, None), (PlanKind::View, Some(100.0))] {
            (plan.kind, plan.dose_rate_limit) = (kind, rate);
            match client.validate(&PlanRequest::from(plan.clone())).await {
                Err(Error::Invalid(invalid)) => {
                    assert_eq!(invalid.field, "plan.detached.electrons", "{invalid}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
    desk.close();
}
