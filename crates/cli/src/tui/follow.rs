//! What the service tells: two tasks that follow it for as long as the view is open, and begin anew after a lost connection.

use super::model::News;
use client::{Client, Error, PreviewOptions};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// States a second.
const STATES_HZ: f64 = 5.0;
/// Pictures a second.
const PICTURES_HZ: f64 = 5.0;
/// Side of the pictures asked for, px: more than terminals have half blocks.
const PICTURE_SIDE: u32 = 256;
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(500);

/// Follows status and acquisition in `tasks`, and says what comes to `tell`. They end when nobody listens.
pub(super) fn start(tasks: &mut JoinSet<()>, client: &Client, tell: &Sender<News>) {
    let (choose, chosen) = watch::channel(None);
    tasks.spawn(status(client.clone(), tell.clone(), choose));
    tasks.spawn(acquisitions(client.clone(), tell.clone(), chosen));
}

/// Follows the status, and chooses the acquisition that has the instrument.
async fn status(client: Client, tell: Sender<News>, choose: watch::Sender<Option<String>>) {
    loop {
        let lost = match client.watch_status(STATES_HZ).await {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(Some(status)) => {
                        choose.send_if_modified(|chosen| {
                            let is_new =
                                status.acquisition.is_some() && *chosen != status.acquisition;
                            if is_new {
                                chosen.clone_from(&status.acquisition);
                            }
                            is_new
                        });
                        if tell.send(News::Status(status)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "the service ended the stream".to_owned(),
                    Err(error) => break error.to_string(),
                }
            },
            Err(error) => error.to_string(),
        };
        if tell.send(News::Lost(lost)).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows the acquisition that has the instrument, else the newest.
async fn acquisitions(
    client: Client,
    tell: Sender<News>,
    mut chosen: watch::Receiver<Option<String>>,
) {
    loop {
        chosen.mark_unchanged();
        // What went wrong is told by the status already.
        let is_over = one(&client, &tell, &mut chosen).await.unwrap_or(false);
        if tell.is_closed() {
            return;
        }
        let again = async {
            match is_over {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = chosen.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Follows one until it ends (true), or another one is chosen.
async fn one(
    client: &Client,
    tell: &Sender<News>,
    chosen: &mut watch::Receiver<Option<String>>,
) -> Result<bool, Error> {
    let first = client.acquisition("-").await?;
    let id = first.id.clone();
    if tell.send(News::Acquisition(first)).await.is_err() {
        return Ok(true);
    }
    let options = PreviewOptions {
        max_rate_hz: PICTURES_HZ,
        max_side_px: PICTURE_SIDE,
        ..PreviewOptions::default()
    };
    let mut states = Some(client.watch(&id, STATES_HZ).await?);
    // An acquisition without estimates has no pictures.
    let mut pictures = client.previews(&id, &options).await.ok();
    while states.is_some() || pictures.is_some() {
        let news = tokio::select! {
            state = async { states.as_mut().expect("asked for where there is one").next().await }, if states.is_some() => match state? {
                Some(state) => News::Acquisition(state),
                None => {
                    states = None;
                    News::Acquisition(client.acquisition(&id).await?)
                }
            },
            picture = async { pictures.as_mut().expect("asked for where there is one").next().await }, if pictures.is_some() => match picture {
                Ok(Some(picture)) => News::Picture(id.clone(), picture),
                _ => {
                    pictures = None;
                    continue;
                }
            },
            changed = chosen.changed() => {
                let other = chosen.borrow_and_update().as_ref().is_some_and(|chosen| *chosen != id);
                if changed.is_err() || other {
                    chosen.mark_changed();
                    return Ok(false);
                }
                continue;
            }
        };
        if tell.send(news).await.is_err() {
            return Ok(true);
        }
    }
    Ok(true)
}
