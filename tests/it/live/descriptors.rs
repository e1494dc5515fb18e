//! A service that may open no more descriptors: what it cannot record is not begun or fails by name, a blank gets in, and
//! when others have closed theirs it works.

use super::{
    code_microscope, coded, configuration, data_set, judge, leased, recovered, status_of,
    status_that, stopped, tidy, why_of, works,
};
use crate::api_server::blanked;
use crate::process::Bench;
use client::{AcquisitionState, Client};
use std::time::Duration;

/// The n-th descriptor that a scan opens cannot be opened, for every n.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_descriptor_is_one_too_many_the_beam_goes_off_and_nothing_is_lost() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let served = bench.serve(&["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    let lease = leased(&client).await;
    works(&client, &lease).await;
    let (mut n_refused, mut n_failed, mut n_finished, mut more) = (0, 0, 0, 0);
    while n_finished < 3 {
        tidy(&client, &lease).await;
        let before = status_of(&client).await.positions;
        let created = client.create(&lease, &coded(1), "").await.unwrap();
        served.limit_descriptors(Some(more));
        match client.start(&lease, &created.id).await {
            Err(refused) => {
                let why = refused.to_string();
                assert!(why.contains("Too many open files"), "{why}");
                assert_eq!(status_of(&client).await.positions, before);
                n_refused += 1;
            }
            Ok(_) => {
                let ended = stopped(&client, &created.id).await;
                match ended.state {
                    AcquisitionState::Finished => n_finished += 1,
                    AcquisitionState::Failed => {
                        let why = why_of(&ended);
                        assert!(why.contains("Too many open files"), "{why}");
                        let n_saved = recovered(&bench, &data_set(&bench, &created.id));
                        assert_eq!(n_saved as u64, ended.progress.n_sampled, "{ended:?}");
                        n_failed += 1;
                    }
                    // A busy machine: once more.
                    state => assert_eq!(state, AcquisitionState::Tripped, "{ended:?}"),
                }
                if ended.state == AcquisitionState::Tripped {
                    served.limit_descriptors(None);
                    continue;
                }
            }
        }
        status_that(&client, "a blanked beam", |s| s.beam == "blanked").await;
        blanked(&client).await;
        served.limit_descriptors(None);
        more += 1;
    }
    println!(
        "{n_refused} scans not begun, {n_failed} completed by recover, then {n_finished} finished"
    );
    assert!(n_refused > 0, "everything was begun");
    works(&client, &lease).await;
    drop(lease);
    assert_eq!(served.terminate().code, Some(0));
    judge(firmware);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_found_no_descriptor_are_served_when_there_are_some_again() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let served = bench.serve(&["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    status_of(&client).await;
    served.limit_descriptors(Some(0));
    let url = served.url.clone();
    let late = tokio::spawn(async move {
        let late = Client::connect(&url).await.unwrap();
        status_of(&late).await
    });
    for _ in 0..20 {
        // Those who are in go on.
        status_of(&client).await;
        blanked(&client).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!late.is_finished(), "it found a descriptor");
    served.limit_descriptors(None);
    late.await.unwrap();
    assert_eq!(served.terminate().code, Some(0));
}
