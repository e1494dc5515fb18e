//! The audit log of a real service.

use crate::api_server::{Server, blanked, reason};
use daemon::audit::{Broken, verify};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn who_moved_the_beam_stands_in_a_log_that_cannot_be_edited() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let request = server.plan(32).await;
    let ended = client.acquire(&lease, &request, |_| {}).await.unwrap();
    assert!(ended.state.is_final());
    blanked(client).await;
    let epoch = lease.epoch();
    // Noted whether or not the controller's word comes in time.
    let _ = lease.release().await;
    assert!(server.stop().await);
    let data = directory.path().join("data");
    let path = data.join("audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let journal = store::JournalReader::open(&data.join(format!("{}.zspy/journal", ended.id)));
    let header = journal.unwrap().header().clone();
    assert_eq!(
        (header.identity.as_str(), header.lease_epoch),
        ("loopback", epoch)
    );
    let head = format!("\"hash\":\"{}\"", header.audit_head);
    assert!(text.contains(&head), "the journal has a hash of the log");
    assert_eq!(verify(&data).unwrap().n_lines, text.lines().count() as u64);
    let noted = |call: &str, result: &str| {
        let (call, result) = (format!("/{call}\""), format!("\"result\":\"{result}\""));
        let mut lines = text.lines();
        let line = lines.find(|line| line.contains(&call) && line.contains(&result));
        line.unwrap_or_else(|| panic!("{call} {result} is not in\n{text}"))
    };
    for call in ["AcquireLease", "CreateAcquisition", "Blank"] {
        assert!(noted(call, "ok").contains("\"who\":\"loopback\",\"via\":\"tcp\""));
    }
    noted("StartAcquisition", "asked");
    assert!(noted("StartAcquisition", "ok").contains(&format!("\"epoch\":{epoch}")));
    assert!(text.contains("/ReleaseLease\""), "{text}");
    assert!(!text.contains("Heartbeat"), "{text}");
    std::fs::write(&path, text.replacen("loopback", "token:eve", 1)).unwrap();
    let Err(Broken::Line { line, .. }) = verify(&data) else {
        panic!("an edited line is seen");
    };
    assert_eq!(line, 2, "the first is the start of the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_the_beam_stays_off_and_can_be_blanked() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::symlink("/dev/full", data.join("audit.jsonl")).unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let request = server.plan(32).await;
    let created = client.create(&lease, &request, "").await.unwrap();
    let refused = client.start(&lease, &created.id).await;
    assert_eq!(reason(refused), "AUDIT_UNWRITABLE");
    blanked(client).await;
    let shown = client.acquisition(&created.id).await.unwrap();
    assert_eq!(shown.progress.n_sampled, 0);
    // Noted whether or not the controller's word comes in time.
    let _ = lease.release().await;
    assert!(server.stop().await);
}
