//! The lease that this user holds, in a file that only this user can read, so that a second terminal can pause
//! or resume what the first one runs.

use client::{Client, Lease};
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Failure;

/// After so long without a heartbeat control is lost.
const TIME_TO_LIVE: Duration = Duration::from_secs(2);

/// Removes the file when dropped.
pub(crate) struct LeaseFile(Option<(PathBuf, String)>);

impl Drop for LeaseFile {
    fn drop(&mut self) {
        if let Some((path, text)) = self.0.take()
            && std::fs::read_to_string(&path).is_ok_and(|there| there == text)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Does `work` under the control lease, which is given back whatever comes of it: what a refused plan leaves behind
/// is a free instrument.
pub(crate) async fn under<T>(
    client: &Client,
    work: impl AsyncFnOnce(&Lease) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (lease, file) = take(client).await?;
    give_back(work(&lease).await, lease, file).await
}

/// The same under the lease that another terminal of this user keeps alive, where there is one; that one keeps it.
pub(crate) async fn under_borrowed<T>(
    client: &Client,
    work: impl AsyncFnOnce(&Lease) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match kept(client).await? {
        Some(lease) => work(&lease).await,
        None => under(client, work).await,
    }
}

async fn give_back<T>(
    done: Result<T, Failure>,
    lease: Lease,
    _file: LeaseFile,
) -> Result<T, Failure> {
    let released = lease.release().await;
    let done = done?;
    released?;
    Ok(done)
}

/// Takes the control lease and lets other terminals of this user act under it.
pub(crate) async fn take(client: &Client) -> Result<(Lease, LeaseFile), Failure> {
    let lease = client.acquire_lease(&holder(), TIME_TO_LIVE).await?;
    let file = write(client, &lease);
    Ok((lease, file))
}

/// The same, from whoever holds it: asked for, or by force.
pub(crate) async fn take_over(
    client: &Client,
    reason: &str,
    force: bool,
) -> Result<(Lease, LeaseFile), Failure> {
    let lease = client
        .take_over_lease(&holder(), TIME_TO_LIVE, reason, force)
        .await?;
    let file = write(client, &lease);
    Ok((lease, file))
}

fn write(client: &Client, lease: &Lease) -> LeaseFile {
    let path = path(client.server());
    let text = format!("{} {}", lease.id(), lease.epoch());
    let written = write_private(&path, &text).is_ok();
    LeaseFile(written.then_some((path, text)))
}

/// The lease that another terminal of this user keeps alive.
pub(crate) async fn kept(client: &Client) -> Result<Option<Lease>, Failure> {
    let kept = std::fs::read_to_string(path(client.server())).ok();
    let parts = kept.as_deref().and_then(|text| text.split_once(' '));
    if let Some((id, epoch)) = parts
        && let Ok(epoch) = epoch.trim().parse()
        && is_held(client, epoch).await?
    {
        return Ok(Some(client.adopt_lease(id, epoch)));
    }
    Ok(None)
}

/// Releases the lease that another terminal of this user took.
pub(crate) async fn release(client: &Client) -> Result<bool, Failure> {
    let path = path(client.server());
    let kept = std::fs::read_to_string(&path).ok();
    let Some((id, epoch)) = kept.as_deref().and_then(|text| text.split_once(' ')) else {
        return Ok(false);
    };
    let held = match epoch.trim().parse() {
        Ok(epoch) => is_held(client, epoch).await?.then_some(epoch),
        Err(_) => None,
    };
    if let Some(epoch) = held {
        client.release_lease(id, epoch).await?;
    }
    let _ = std::fs::remove_file(path);
    Ok(held.is_some())
}

/// Whether the lease of `epoch` is in force: whoever kept it alive may have died, and left its file.
async fn is_held(client: &Client, epoch: u64) -> Result<bool, Failure> {
    let lease = client.lease().await?;
    Ok(lease.held && lease.lease_epoch == epoch)
}

fn holder() -> String {
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("USERNAME"))
        .unwrap_or_default();
    format!("beamwright cli {user} ({})", std::process::id())
}

fn path(server: &str) -> PathBuf {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("USERNAME"))
        .unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    folder.join(format!(
        "beamwright-{user}-{}.lease",
        server.replace(|c| plain(c) == '_', "_")
    ))
}

/// A new file that only this user reads, in place of one of its own; never into a file or link that somebody else laid there.
fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    // None there, or not ours to remove: the latter is refused below.
    let _ = std::fs::remove_file(path);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    std::io::Write::write_all(&mut options.open(path)?, text.as_bytes())
}
