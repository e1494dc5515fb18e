//! No room for what is recorded: blanked, failed with the cause, and valid up to there.
//!
//! A limit on the size of files takes the place of a disk that fills, at any byte and for every file alike; a small file system
//! that is full is one, where the machine allows mounts of one's own. The journal's n-th write that fails has its test in `store`, a log of audit on a full device in `audit`.

use super::{
    chance, code_microscope, coded, configuration, data_set, judge, leased, recovered, scanning,
    status_of, status_that, stopped, tidy, times, why_of, works,
};
use crate::process::{Bench, Served};
use client::{Acquisition, AcquisitionState, Client, Lease, Status};
use rustix::process::Resource;
use std::time::Duration;

const TOO_LARGE: &str = "File too large";

struct Room {
    bench: Bench,
    served: Served,
    client: Client,
    lease: Lease,
}

impl Room {
    async fn new(uri: &str) -> Self {
        let bench = Bench::new();
        let config = configuration(&bench, uri);
        let served = bench.serve(&["--config", &config]);
        let client = Client::connect(&served.url).await.unwrap();
        let lease = leased(&client).await;
        Self {
            bench,
            served,
            client,
            lease,
        }
    }

    /// No file may be longer; `None`: any.
    fn leave(&self, n_bytes: Option<u64>) {
        self.served.limit(Resource::Fsize, n_bytes);
    }

    /// It failed for want of room and is blanked; with room again all that it recorded is there.
    async fn judge(&self, ended: &Acquisition) -> usize {
        assert_eq!(ended.state, AcquisitionState::Failed, "{ended:?}");
        let why = why_of(ended);
        assert!(why.contains(TOO_LARGE), "{why}");
        let status = status_that(&self.client, "a blanked beam", |s| s.beam == "blanked").await;
        assert_eq!(status.acquisition, None, "{status:?}");
        self.leave(None);
        recovered(&self.bench, &data_set(&self.bench, &ended.id))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_any_byte_blanks_and_keeps_what_was_written() {
    let firmware = code_microscope();
    let room = Room::new(&firmware.address).await;
    let client = &room.client;
    let (mut n, mut n_records) = (0, 0);
    while n < times(12) {
        let id = scanning(client, &room.lease, &coded(100)).await;
        let journal = data_set(&room.bench, &id).join("journal");
        let length = std::fs::metadata(&journal).unwrap().len();
        // Nothing more at all, or so many bytes: a frame takes some 1.5 MB.
        let more = (chance(6, n) * 400_000.0) as u64;
        room.leave(Some(if n % 3 == 0 { 0 } else { length + more }));
        let ended = stopped(client, &id).await;
        if ended.state == AcquisitionState::Tripped {
            // On a busy machine the watchdog came first.
            room.leave(None);
            continue;
        }
        // None, where the first blocks were told and not yet written.
        n_records += room.judge(&ended).await;
        n += 1;
    }
    println!("{n_records} records right after {n} failures");
    assert!(n_records > 0, "nothing was ever written");
    works(client, &room.lease).await;
    drop(room.lease);
    assert_eq!(room.served.terminate().code, Some(0));
    judge(firmware);
}

/// A small file system of the service's own, filled up while it scans.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_fills_up_blanks_and_keeps_what_was_written() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let config = configuration(&bench, &firmware.address);
    let data = bench.path("data");
    std::fs::create_dir(&data).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=160m none {} && exec $0 $@",
        data.display()
    );
    let way = ["unshare", "-Urm", "sh", "-c", &mount];
    if !bench.allows(&way) {
        println!("NOT TESTED: a small tmpfs: this machine allows no mounts of one's own");
        return;
    }
    let served = bench.serve_by(&way, &["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    let lease = leased(&client).await;
    let data = served.its(&data);
    let (mut n, mut n_records) = (0, 0);
    while n < times(4) {
        let id = scanning(&client, &lease, &coded(10)).await;
        let filler = data.join("filler");
        let more = (chance(7, n) * 400_000.0) as u64;
        fill(&filler, if n % 2 == 0 { 0 } else { more });
        let ended = stopped(&client, &id).await;
        std::fs::remove_file(&filler).unwrap();
        if ended.state != AcquisitionState::Tripped {
            assert_eq!(ended.state, AcquisitionState::Failed, "{ended:?}");
            let why = why_of(&ended);
            let is_told = why.contains("No space left") || why.contains("is not enough");
            assert!(is_told, "{why}");
            status_that(&client, "a blanked beam", |s| s.beam == "blanked").await;
            n_records += recovered(&bench, &data.join(format!("{id}.zspy")));
            n += 1;
        }
        tidy(&client, &lease).await;
        std::fs::remove_dir_all(data.join(format!("{id}.zspy"))).unwrap();
    }
    println!("{n_records} records right on a file system that was full {n} times");
    works(&client, &lease).await;
    drop(lease);
    assert_eq!(served.terminate().code, Some(0));
    judge(firmware);
}

/// Takes all the room there is but for so many bytes.
fn fill(path: &std::path::Path, left: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut n_taken = 0_u64;
    while let Ok(n) = std::io::Write::write(&mut file, &[1; 65_536]) {
        n_taken += n as u64;
    }
    file.set_len(n_taken.saturating_sub(left)).unwrap();
}

/// From a disk that takes nothing to one that takes every file of the finished data set.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_when_files_are_completed_keeps_what_was_written() {
    let firmware = code_microscope();
    let room = Room::new(&firmware.address).await;
    let client = &room.client;
    let mut plan = coded(1);
    plan.plan.final_refinement = Duration::from_millis(500);
    let (mut n_failed, mut n_finished, mut size, mut most_lost) = (0, 0, 0, 0);
    while n_finished < 2 {
        let id = scanning(client, &room.lease, &plan).await;
        let is_so = |s: &Status| s.acquisition.is_none() || s.trip.is_some();
        loop {
            let now = client.acquisition(&id).await.unwrap();
            if now.state == AcquisitionState::Finishing || is_so(&status_of(client).await) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        room.leave(Some(size));
        let ended = stopped(client, &id).await;
        match ended.state {
            AcquisitionState::Finished => n_finished += 1,
            AcquisitionState::Failed => {
                // The last block may not be written yet where the last sample has come.
                let (n_saved, n_told) = (room.judge(&ended).await as u64, ended.progress.n_sampled);
                assert!(n_saved <= n_told, "{n_saved} {ended:?}");
                most_lost = most_lost.max(n_told - n_saved);
                n_failed += 1;
            }
            state => assert_eq!(state, AcquisitionState::Tripped, "{ended:?}"),
        }
        room.leave(None);
        size = (3 * size).max(16);
        tidy(client, &room.lease).await;
    }
    println!(
        "{n_failed} data sets were completed by recover; at most {most_lost} samples told and not written"
    );
    assert!(n_failed > 0, "it never failed");
    works(client, &room.lease).await;
    drop(room.lease);
    assert_eq!(room.served.terminate().code, Some(0));
    judge(firmware);
}

/// From a disk that takes nothing: what cannot be recorded is not begun.
#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_a_beginning_nothing_is_exposed() {
    let firmware = code_microscope();
    let room = Room::new(&firmware.address).await;
    let client = &room.client;
    let mut words = std::collections::BTreeSet::new();
    for size in [0, 1, 100, 1000, 3000, 10_000] {
        tidy(client, &room.lease).await;
        let before = status_of(client).await.positions;
        let created = client.create(&room.lease, &coded(1), "").await.unwrap();
        room.leave(Some(size));
        match client.start(&room.lease, &created.id).await {
            Err(client::Error::Refused { reason, .. }) => {
                words.insert(reason);
                let status = status_of(client).await;
                assert_eq!(status.beam, "blanked", "{status:?}");
                assert_eq!(status.positions, before, "{status:?}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => {
                let ended = stopped(client, &created.id).await;
                if ended.state == AcquisitionState::Failed {
                    let why = why_of(&ended);
                    assert!(why.contains(TOO_LARGE), "{why}");
                }
            }
        }
        crate::api_server::blanked(client).await;
        room.leave(None);
    }
    println!("refused as {words:?}");
    assert!(!words.is_empty(), "everything was begun");
    works(client, &room.lease).await;
    drop(room.lease);
    assert_eq!(room.served.terminate().code, Some(0));
    judge(firmware);
}
