//! Sentinels whose master dies.

use servers::Sentinel;

#[test]
fn sentinels_make_the_replica_the_master_when_the_master_dies() {
    let sentinel = Sentinel::start();
    assert_eq!(sentinel.sentinel_urls().len(), 3);
    let first = sentinel.master();
    first.command(&["SET", "key", "value"]);
    sentinel.wait_ok(); // the replica has it

    let killed = sentinel.kill_master();
    assert_eq!(killed.port(), first.port());
    sentinel.wait_ok();

    let second = sentinel.master();
    assert_ne!(second.port(), first.port());
    assert_eq!(second.command(&["GET", "key"]), "value");
    second.command(&["SET", "key", "newer"]);
    for one in sentinel.sentinels() {
        let name = sentinel.master_name();
        let named = one.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]);
        assert_eq!(named, format!("127.0.0.1\n{}", second.port()));
    }

    killed.restart();
    sentinel.wait_ok();

    assert_eq!(sentinel.master().port(), second.port());
    assert_eq!(killed.command(&["GET", "key"]), "newer");
    assert_eq!(sentinel.servers().len(), 2);
}
