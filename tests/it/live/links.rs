//! A link that is cut after any number of bytes, plugged in with a bad contact, and plugged in again.

use super::{
    chance, checked, code_microscope, coded, configuration, data_set, judge, leased, scanning,
    status_that, stopped, times, why_of, works,
};
use crate::process::{Bench, HANG};
use client::{AcquisitionState, Client};
use domain::{Clock, MonotonicClock};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A line to a controller that breaks when so many bytes have passed, both ways together.
pub(super) struct Line {
    pub(super) address: String,
    left: Arc<AtomicI64>,
}

impl Line {
    pub(super) fn to(controller: &str) -> Self {
        let controller = controller.trim_start_matches("tcp://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let budget = Arc::clone(&left);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for host in listener.incoming().flatten() {
                let Ok(device) = TcpStream::connect(&controller) else {
                    continue;
                };
                for (from, to) in [(&host, &device), (&device, &host)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let left = Arc::clone(&budget);
                    std::thread::spawn(move || carry(from, to, &left));
                }
            }
        });
        Self { address, left }
    }

    /// It breaks after so many bytes more. Returns once it has.
    pub(super) async fn break_after(&self, n_bytes: i64) {
        self.left.store(n_bytes, Ordering::SeqCst);
        let clock = MonotonicClock::new();
        while self.left.load(Ordering::SeqCst) > 0 {
            assert!(clock.now() < HANG, "nothing passes the line");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn mend(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let before = left.fetch_sub(n as i64, Ordering::SeqCst);
        let n_passing = usize::try_from(before).unwrap_or(0).min(n);
        if to.write_all(&buffer[..n_passing]).is_err() || n_passing < n {
            break;
        }
    }
    // Both ways end.
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_anywhere_ends_the_scan_and_comes_back() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let line = Line::to(&firmware.address);
    let config = configuration(&bench, &line.address);
    let served = bench.serve(&["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    let lease = leased(&client).await;
    let mut n_records = 0;
    let mut n = 0;
    while n < times(6) {
        let id = scanning(&client, &lease, &coded(100)).await;
        line.break_after(1 + (chance(2, n) * 200_000.0) as i64)
            .await;
        let ended = stopped(&client, &id).await;
        if ended.state == AcquisitionState::Tripped {
            // On a busy machine the watchdog came first.
            line.mend();
            status_that(&client, "the link", |s| s.link == "up").await;
            continue;
        }
        assert_eq!(ended.state, AcquisitionState::Aborted, "{ended:?}");
        let why = why_of(&ended);
        assert!(why.contains("the link broke"), "{why}");
        if n % 3 == 0 {
            // A bad contact: it breaks again while the two greet each other.
            line.break_after(1 + (chance(3, n) * 500.0) as i64).await;
        }
        line.mend();
        status_that(&client, "the link", |s| s.link == "up").await;
        status_that(&client, "a blanked beam", |s| s.beam == "blanked").await;
        let (n_samples, n_wrong) = checked(&data_set(&bench, &id));
        assert_eq!(n_wrong, 0, "of {n_samples}");
        n_records += n_samples;
        n += 1;
    }
    println!("{n_records} records right after {n} cuts");
    works(&client, &lease).await;
    drop(lease);
    assert_eq!(served.terminate().code, Some(0));
    judge(firmware);
}

/// The lease ends while nobody can hear whether the beam is off.
#[tokio::test(flavor = "multi_thread")]
async fn a_blank_that_nobody_acknowledges_grants_nobody_and_is_told_by_name() {
    let bench = Bench::new();
    let firmware = code_microscope();
    let line = Line::to(&firmware.address);
    let config = configuration(&bench, &line.address);
    let served = bench.serve(&["--config", &config]);
    let client = Client::connect(&served.url).await.unwrap();
    let lease = leased(&client).await;
    let id = scanning(&client, &lease, &coded(100)).await;
    line.break_after(1).await;
    let given_back = lease.release().await;
    let is_so = |s: &client::Status| s.lease.phase == "unconfirmed";
    let status = status_that(&client, "a lease that is unconfirmed", is_so).await;
    assert_ne!(status.beam, "blanked", "{status:?}");
    let refused = client.acquire_lease("next", Duration::from_secs(2)).await;
    let Err(client::Error::Refused {
        reason, message, ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(reason, "BLANK_UNCONFIRMED", "{message}");
    println!("{message}; {given_back:?}");
    line.mend();
    let lease = leased(&client).await;
    let ended = stopped(&client, &id).await;
    assert_eq!(ended.state, AcquisitionState::Aborted, "{ended:?}");
    works(&client, &lease).await;
    drop(lease);
    assert_eq!(served.terminate().code, Some(0));
    judge(firmware);
}
