//! Calls of the system that take long or fail, for real: `strace` spoils them in a service of its own.

use super::{
    checked, code_microscope, coded, configuration, data_set, judge, leased, recovered, scanning,
    status_that, stopped, tidy, why_of,
};
use crate::api_server::{blanked, release};
use crate::process::{Bench, HANG, Served};
use client::{AcquisitionState, Client, SampleEvent};
use domain::{Clock, MonotonicClock};

/// A service whose calls are spoilt so; `None`, and a word about it, where this machine cannot do it.
fn spoilt(bench: &Bench, uri: &str, calls: &str, how: &str) -> Option<Served> {
    let config = configuration(bench, uri);
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{how}"));
    let mut way = vec!["strace", "-D", "-f", "--seccomp-bpf", "-qq"];
    way.extend(["-o", "/dev/null", "-e", &trace, "-e", &inject]);
    if !bench.allows(&["strace", "-D", "-qq", "-o", "/dev/null"]) {
        println!("NOT TESTED: {calls} {how}: no strace here, or it may not trace");
        return None;
    }
    Some(bench.serve_by(&way, &["--config", &config]))
}

/// Every sync takes 120 ms longer, more than the watchdog allows: nothing waits for one but the start, which is audited, and the end.
#[tokio::test(flavor = "multi_thread")]
async fn syncs_that_take_long_stop_no_scan() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let slow = "delay_exit=120000";
    let Some(served) = spoilt(&bench, &firmware.address, "fsync,fdatasync", slow) else {
        return;
    };
    let client = Client::connect(&served.url).await.unwrap();
    let lease = leased(&client).await;
    let clock = MonotonicClock::new();
    let ended = loop {
        let id = scanning(&client, &lease, &coded(1)).await;
        let ended = stopped(&client, &id).await;
        let is_busy = ended.state == AcquisitionState::Tripped && clock.now() < HANG;
        if !is_busy {
            break ended;
        }
    };
    assert_eq!(ended.state, AcquisitionState::Finished, "{ended:?}");
    assert_eq!(ended.progress.n_gaps, 0, "{ended:?}");
    let (n, n_wrong) = checked(&data_set(&bench, &ended.id));
    assert_eq!((n as u64, n_wrong), (ended.progress.n_sampled, 0));
    println!("{n} records right with syncs of 120 ms");
    release(lease).await;
    assert_eq!(served.terminate().code, Some(0));
    judge(firmware);
}

/// The n-th read of every thread fails: of the link's, of those that serve samples, of the one that completes files.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_read_fails_the_beam_goes_off_and_what_is_told_is_right() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let (mut n_records, mut n_broken) = (0, 0);
    // The fewest with which the service starts and a link lives for a while.
    for n in [200, 450, 900, 1800] {
        let how = format!("error=EIO:when={n}");
        let Some(served) = spoilt(&bench, &firmware.address, "read", &how) else {
            return;
        };
        let client = Client::connect(&served.url).await.unwrap();
        let lease = leased(&client).await;
        let id = scanning(&client, &lease, &coded(20)).await;
        let mut samples = client.samples(&id, 0, false);
        let reading = tokio::spawn(async move {
            let mut n_read = 0;
            while let Ok(Some(event)) = samples.next().await {
                if let SampleEvent::Block { block, .. } = event {
                    n_read += block.len() as u64;
                }
            }
            n_read
        });
        let ended = stopped(&client, &id).await;
        let why = why_of(&ended);
        let is_told = match ended.state {
            AcquisitionState::Aborted => why.contains("the link broke"),
            AcquisitionState::Failed => why.contains("Input/output error"),
            // A read that nobody needed, or on a busy machine the watchdog came first.
            state => matches!(
                state,
                AcquisitionState::Finished | AcquisitionState::Tripped
            ),
        };
        assert!(is_told, "read {n}: {ended:?}");
        n_broken += u32::from(ended.state == AcquisitionState::Aborted);
        tidy(&client, &lease).await;
        status_that(&client, "a blanked beam", |s| s.beam == "blanked").await;
        blanked(&client).await;
        let read = tokio::time::timeout(HANG, reading).await;
        let n_read = read.expect("the stream ends").unwrap();
        let n_saved = recovered(&bench, &data_set(&bench, &id));
        assert!(n_read <= n_saved as u64, "{n_read} of {n_saved}");
        n_records += n_saved;
        drop(lease);
        served.terminate();
    }
    println!("{n_records} records right; {n_broken} of 4 links broke");
    assert!(n_broken > 0, "no read of a link failed");
    judge(firmware);
}
