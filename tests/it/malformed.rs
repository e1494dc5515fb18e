//! Malformed requests: whatever bytes a call gets, it is answered with a code that says so, and the beam stays off.
//!
//! `BEAMWRIGHT_MALFORMED` is the number of requests per call; each run prints its seed, `BEAMWRIGHT_SEED` repeats it.

use crate::access::{calls, guarded, message, taken, token_of};
use crate::raw::{call, channel, client_with};
use prost::Message as _;
use proto::Refusal;
use proto::v1::{self, ErrorReason};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use tonic::{Code, Status};

/// Requests in flight at once.
const N_AT_ONCE: u64 = 16;
/// Requests of one connection. A client's HTTP/2 library gives a connection up after 1024 frames for streams that it has let
/// go of, and here every stream is let go of after its first answer.
const N_PER_CONNECTION: u64 = 500;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A message that was right once.
fn spoilt(base: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = base.to_vec();
    let mut below = |n: usize| rng.next_u32() as usize % n.max(1);
    match below(8) {
        0 => bytes = (0..below(200)).map(|_| below(256) as u8).collect(),
        1 => bytes.truncate(below(base.len() + 1)),
        // A length or number far too large.
        2 => {
            let at = below(bytes.len() + 1);
            bytes.splice(at..at, [0xff; 9].into_iter().chain([0x01]));
        }
        // A field of any number and wire type.
        3 => {
            bytes.push((below(16) << 3 | below(8)) as u8);
            bytes.extend((0..below(12)).map(|_| below(256) as u8).collect::<Vec<_>>());
        }
        4 => {
            let again = bytes.clone();
            bytes.extend(again);
        }
        _ => {
            for _ in 0..=below(4) {
                if let Some(at) = bytes.len().checked_sub(1).map(|last| below(last + 1)) {
                    bytes[at] ^= 1 << below(8);
                }
            }
        }
    }
    bytes
}

/// Whether a call may be answered so, whatever it was asked.
fn is_right(answer: &Result<Option<Vec<u8>>, Status>) -> bool {
    let Err(status) = answer else {
        return true;
    };
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented => true,
        // The controller's word may be late on a starved machine.
        _ => Refusal::from_status(status).reason == ErrorReason::BlankUnconfirmed,
    }
}

/// Sends a share of the malformed requests of a call; the codes, and the answers that are wrong.
async fn share(
    url: String,
    token: String,
    name: String,
    base: Vec<u8>,
    (n, seed): (u64, u64),
) -> (BTreeMap<String, u64>, Vec<String>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut codes, mut wrong) = (BTreeMap::new(), Vec::new());
    let path = format!("/beamwright.v1.{name}");
    let mut connection = channel(&url).await;
    for i in 0..n {
        if i > 0 && i % N_PER_CONNECTION == 0 {
            connection = channel(&url).await;
        }
        let bytes = spoilt(&base, &mut rng);
        let answer = call(&connection, Some(&token), &path, bytes.clone()).await;
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        *codes.entry(format!("{code:?}")).or_default() += 1;
        if !is_right(&answer) {
            wrong.push(format!("{name} {bytes:02x?}: {answer:?}"));
        }
    }
    (codes, wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_bytes_a_call_gets_it_says_what_is_wrong_and_the_beam_stays_off() {
    let n = number("BEAMWRIGHT_MALFORMED", 200);
    let seed = number("BEAMWRIGHT_SEED", u64::from(std::process::id()));
    println!("BEAMWRIGHT_MALFORMED={n} BEAMWRIGHT_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let (server, tokens) = guarded(directory.path()).await;
    let admin = client_with(&server.url, &tokens[2]).await;
    let mut wrong = Vec::new();
    for name in calls() {
        let lease = taken(&admin).await;
        // What could start an exposure has no lease here.
        let given = (!name.ends_with("/RunCalibration")).then(|| token_of(&lease));
        let base = message(&name, given, "acquisitions/none".into());
        // An operator, but for what only an admin is heard about.
        let role = if name.ends_with("/ActivateCalibration") {
            2
        } else {
            1
        };
        let mut shares = tokio::task::JoinSet::new();
        for i in 0..N_AT_ONCE {
            let part = (n.div_ceil(N_AT_ONCE), seed.wrapping_mul(31).wrapping_add(i));
            let (url, token) = (server.url.clone(), tokens[role].clone());
            shares.spawn(share(url, token, name.clone(), base.clone(), part));
        }
        let mut codes = BTreeMap::<String, u64>::new();
        for (found, more) in shares.join_all().await {
            for (code, n) in found {
                *codes.entry(code).or_default() += n;
            }
            wrong.extend(more);
        }
        println!("{name}: {codes:?}");
    }
    let n_wrong = wrong.len();
    wrong.truncate(20);
    assert!(
        wrong.is_empty(),
        "seed {seed}, {n_wrong} wrong answers: {wrong:#?}"
    );
    for made in admin.list(100_000).await.unwrap() {
        assert_eq!(
            (made.progress.n_sampled, made.progress.n_gaps),
            (0, 0),
            "{}",
            made.id
        );
    }
    assert!(server.stop().await, "no part of the service has failed");
}

/// Frames whose length is a lie, over HTTP/1.1 as a browser would send them.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_a_lie_is_refused_without_memory_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = crate::api_server::Server::start(directory.path()).await;
    let host = server.url.trim_start_matches("http://").to_owned();
    let ask = async |head: [u8; 5], body: &str| {
        let head = head.map(char::from).iter().collect::<String>();
        let request = format!(
            "POST /beamwright.v1.InstrumentService/Blank HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n{head}{body}",
            5 + body.len()
        );
        crate::api::ask(&host, &request).await
    };
    // 3 MiB and 2 GiB announced, nothing sent.
    for head in [[0, 0, 0x30, 0, 0], [0, 0x7f, 0x7f, 0x7f, 0x7f]] {
        let answer = ask(head, "").await;
        assert!(
            answer.contains("grpc-status:11") || answer.contains("grpc-status: 11"),
            "{answer}"
        );
    }
    // Compressed by nothing that was named, and a message that is not one.
    for (head, body) in [([1, 0, 0, 0, 1], "x"), ([0, 0, 0, 0, 1], "x")] {
        let answer = ask(head, body).await;
        assert!(
            answer.contains("grpc-status:3") || answer.contains("grpc-status: 3"),
            "{answer}"
        );
    }
    let message = v1::BlankRequest {
        reason: "x".repeat(3 << 20),
    }
    .encode_to_vec();
    let channel = channel(&server.url).await;
    let path = "/beamwright.v1.InstrumentService/Blank";
    let refused = call(&channel, None, path, message).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert!(server.stop().await);
}
