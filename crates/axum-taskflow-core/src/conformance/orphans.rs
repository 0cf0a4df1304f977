//! Orphans, as far as they can be staged without a death.

use super::bench::Bench;

pub(super) async fn tasks_of_a_living_instance_or_of_nobody_are_no_orphans(bench: &Bench<'_>) {
    let (mut running, mut done) = (bench.owned("f"), bench.owned("f"));
    let (waiting, nobodys) = (bench.owned("f"), bench.task("f"));
    bench
        .add(&[running.clone(), done.clone(), waiting, nobodys])
        .await;
    bench.start(&mut running).await;
    bench.start(&mut done).await;
    bench.succeed(&mut done).await;

    for limit in [0, 1, usize::MAX] {
        let orphans = bench.backend.orphans(limit).await.expect("orphans");
        assert_eq!(orphans, []);
    }
}
