//! The beginning and the end of a store's use.

use std::sync::Arc;

use super::bench::{Bench, tasks_before};
use crate::{backend::ListQuery, clock::Timestamp};

pub(super) async fn a_backend_says_what_it_is(bench: &Bench<'_>) {
    assert!(!bench.backend.describe().is_empty());
}

pub(super) async fn calls_after_the_end_fail(bench: &Bench<'_>) {
    let task = bench.task("f");
    bench.add_one(&task).await;
    let backend = &bench.backend;

    backend.close().await.expect("it can be closed");

    let failed = [
        backend.write(bench.batch().into()).await.is_err(),
        backend
            .pull(Box::new(|| Some(Arc::default())))
            .await
            .is_err(),
        backend.claim(bench.claim_of(&["f"], 1)).await.is_err(),
        backend.orphans(1).await.is_err(),
        backend.get(task.id).await.is_err(),
        backend.list(ListQuery::default()).await.is_err(),
        backend.logs(task.id, 0, 1).await.is_err(),
        backend.counts().await.is_err(),
        backend.series(Timestamp::default()).await.is_err(),
        backend.audit(None, 1).await.is_err(),
        backend.prune(tasks_before(bench.now())).await.is_err(),
        backend.close().await.is_err(),
    ];
    assert_eq!(failed, [true; 12]);
}
