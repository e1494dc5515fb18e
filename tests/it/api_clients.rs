//! What clients choose and agree on: region and rate of pictures, a region of an earlier acquisition, who holds control.

use crate::api_server::{Server, config, release};
use client::{AcquisitionState, Client, Error, Plane, PreviewOptions, SampleEvent};
use domain::{PixelRect, Region};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_chooses_the_region_of_its_pictures_and_gets_newer_ones_only() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(config(directory.path(), "sim:?instrument=ideal")).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let mut request = server.plan(128).await;
    request.plan.n_frames = 100_000;
    request.plan.average = true;
    let created = client.create(&lease, &request, "").await.unwrap();
    client.start(&lease, &created.id).await.unwrap();
    let region = PixelRect {
        row: 16,
        col: 32,
        n_rows: 48,
        n_cols: 64,
    };
    let options = PreviewOptions {
        planes: vec![Plane::Estimate, Plane::Uncertainty],
        max_rate_hz: 30.0,
        region: Some(region),
        ..PreviewOptions::default()
    };
    let mut pictures = client.previews(&created.id, &options).await.unwrap();
    let mut last = 0;
    for _ in 0..5 {
        let preview = pictures.next().await.unwrap().unwrap();
        assert_eq!((preview.region, preview.scale), (region, 1));
        for picture in &preview.pictures {
            assert_eq!((picture.n_rows, picture.n_cols), (48, 64));
        }
        assert!(preview.revision > last, "{} after {last}", preview.revision);
        last = preview.revision;
    }
    let outside = PreviewOptions {
        region: Some(PixelRect { row: 100, ..region }),
        ..options.clone()
    };
    let refused = client.preview(&created.id, &outside).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Invalid(i) if i.field.contains("region")),
        "{refused:?}"
    );
    let hasty = PreviewOptions {
        max_rate_hz: 1000.0,
        ..options
    };
    let refused = client.preview(&created.id, &hasty).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Invalid(i) if i.field.contains("rate")),
        "{refused:?}"
    );
    client
        .abort(Some(&lease), &created.id, "test over")
        .await
        .unwrap();
    // The end of the acquisition ends the stream, with the final picture.
    let mut is_final = false;
    while let Some(preview) = pictures.next().await.unwrap() {
        is_final = preview.is_final;
    }
    assert!(is_final);
    drop(lease);
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_given_in_pixels_of_an_earlier_acquisition() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let lease = client.acquire_lease("test", TTL).await.unwrap();
    let parent = server.plan(64).await;
    let ended = client.acquire(&lease, &parent, |_| {}).await.unwrap();
    let rect = PixelRect {
        row: 8,
        col: 40,
        n_rows: 16,
        n_cols: 20,
    };
    let mut part = server.plan(64).await;
    part.region = Some(Region::Parent {
        acquisition: ended.id.clone(),
        rect,
    });
    let child = client.acquire(&lease, &part, |_| {}).await.unwrap();
    assert_eq!(
        child.state,
        AcquisitionState::Finished,
        "{:?}",
        child.outcome
    );
    // The middle of the rectangle, in the parent's field: its pixel (r, c) stands at (c − 31.5, r − 31.5) pitches.
    let (field, whole) = (child.field.unwrap(), parent.plan.field);
    let pitch = whole.pitch.field_units();
    let middle = [40.0 + 9.5 - 31.5, 8.0 + 7.5 - 31.5].map(|px: f64| px * pitch);
    for (found, wanted) in field.centre.iter().zip(middle) {
        assert!(
            (found - wanted).abs() < 1e-9 * pitch.max(1.0),
            "{field:?}, {middle:?}"
        );
    }
    let pixels = u64::from(field.grid.n_rows()) * u64::from(field.grid.n_cols());
    assert_eq!(
        child.progress.n_sampled,
        (0.1 * pixels as f64).round() as u64
    );
    let mut stream = client.samples(&child.id, 0, false);
    while let Some(event) = stream.next().await.unwrap() {
        if let SampleEvent::Block { block, .. } = event {
            assert!(block.row.iter().all(|r| *r < field.grid.n_rows() as f32));
        }
    }
    release(lease).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_takeover_waits_for_the_holder_who_is_told_who_asks_and_why() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let ana = server.client.acquire_lease("ana", TTL).await.unwrap();
    let other = Client::connect(&server.socket).await.unwrap();
    let asking = tokio::spawn(async move {
        let why = "the specimen drifts";
        other.take_over_lease("ben", TTL, why, false).await
    });
    let hang_limit = Duration::from_secs(30);
    let told = tokio::time::timeout(hang_limit, async {
        loop {
            if let Some(takeover) = ana.info().and_then(|info| info.takeover) {
                return takeover;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let told = format!("{:?}", told.await.unwrap());
    assert!(
        told.contains("ben") && told.contains("the specimen drifts"),
        "{told}"
    );
    let epoch = ana.epoch();
    release(ana).await;
    let ben = asking.await.unwrap().unwrap();
    assert!(ben.epoch() > epoch);
    release(ben).await;
    assert!(server.stop().await);
}
