//! Instances: who is there, and who was taken for dead.

use std::{sync::Arc, time::Duration};

use super::bench::Bench;
use crate::{
    backend::{Instance, Peer, Role, Standing},
    id::InstanceId,
};

/// Another instance, with something in every field.
fn another(bench: &Bench<'_>) -> Instance {
    let mut instance = Instance::new(bench.stranger(), bench.now());
    instance.host = "höst \"1\"".to_owned();
    instance.version = "1.2.3".to_owned();
    instance.role = Role::Web;
    instance.functions = ["f", "g"].map(Arc::from).into();
    instance
}

async fn join(bench: &Bench<'_>, instance: &Instance) {
    let joined = bench.backend.join(instance.clone()).await;
    joined.expect("an instance can join");
}

async fn seen(bench: &Bench<'_>, id: InstanceId) -> Option<Peer> {
    let peers = bench.backend.instances().await.expect("instances");
    peers.into_iter().find(|peer| peer.instance.id == id)
}

async fn beat(bench: &Bench<'_>, id: InstanceId) -> Standing {
    bench.backend.beat(id, bench.now()).await.expect("beaten")
}

pub(super) async fn an_instance_is_seen_with_all_that_it_said(bench: &Bench<'_>) {
    let instance = another(bench);
    join(bench, &instance).await;

    let peer = seen(bench, instance.id).await;

    let beat_at = instance.started_at;
    assert_eq!(peer, Some(Peer::new(instance, beat_at, true)));
    let all = bench.backend.instances().await.expect("instances");
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].instance.id, bench.me, "the oldest first");
}

pub(super) async fn a_beat_is_seen(bench: &Bench<'_>) {
    let instance = another(bench);
    join(bench, &instance).await;
    bench.advance(Duration::from_millis(1_234));

    let standing = beat(bench, instance.id).await;

    assert_eq!(standing, Standing::Alive);
    let peer = seen(bench, instance.id).await.expect("it is there");
    assert_eq!(peer.beat_at, bench.now());
    let me = seen(bench, bench.me).await.expect("it is there");
    assert_ne!(me.beat_at, bench.now(), "nobody else has beaten");
}

pub(super) async fn a_superseded_instance_learns_it_from_its_beat(bench: &Bench<'_>) {
    let former = another(bench);
    join(bench, &former).await;

    bench.supersede(former.id).await;

    assert_eq!(beat(bench, former.id).await, Standing::Superseded);
    assert_eq!(beat(bench, bench.me).await, Standing::Alive);
    let peer = seen(bench, former.id).await;
    assert!(peer.is_none_or(|peer| !peer.alive));
    // It goes on as another.
    let next = another(bench);
    join(bench, &next).await;
    assert_eq!(beat(bench, next.id).await, Standing::Alive);
    assert_eq!(beat(bench, former.id).await, Standing::Superseded);
}

pub(super) async fn who_has_beaten_since_is_not_superseded(bench: &Bench<'_>) {
    let instance = another(bench);
    join(bench, &instance).await;
    let joined = seen(bench, instance.id).await.expect("it is there").beat_at;
    bench.advance(Duration::from_secs(1));
    assert_eq!(beat(bench, instance.id).await, Standing::Alive);
    let beaten = seen(bench, instance.id).await.expect("it is there").beat_at;
    bench.advance(Duration::from_secs(1));
    assert_eq!(beat(bench, instance.id).await, Standing::Alive);

    for before in [joined, beaten] {
        let superseded = bench.backend.supersede(instance.id, before);
        superseded.await.expect("answered");
    }

    assert_eq!(beat(bench, instance.id).await, Standing::Alive);
    let peer = seen(bench, instance.id).await.expect("it is there");
    assert!(peer.alive);
}

pub(super) async fn an_instance_that_left_without_tasks_is_not_seen(bench: &Bench<'_>) {
    let instance = another(bench);
    join(bench, &instance).await;

    bench.backend.leave(instance.id).await.expect("it left");

    assert_eq!(seen(bench, instance.id).await, None);
    assert_eq!(beat(bench, instance.id).await, Standing::Superseded);
}

pub(super) async fn one_that_is_not_known_cannot_be_superseded(bench: &Bench<'_>) {
    let unknown = another(bench);
    let superseded = bench.backend.supersede(unknown.id, unknown.started_at);
    superseded.await.expect("answered");

    join(bench, &unknown).await;

    assert_eq!(beat(bench, unknown.id).await, Standing::Alive);
}
