//! Tests of the registry.
use tokio::time::Instant;

use super::super::store::failing::{Disk, Refuses};
use super::*;
use futures::FutureExt;

fn registry(directory: &std::path::Path) -> Arc<Registry> {
    let store = Store::open(&directory.join("registry.redb")).unwrap();
    Registry::open(store, Policy::deny_all()).unwrap()
}

fn record(address: &str) -> Container {
    serde_json::from_value(serde_json::json!({
        "container_ip": address, "container_id": "a", "repos": [], "expires_at": "2100-01-01T00:00:00Z"
    }))
    .unwrap()
}

#[tokio::test]
async fn a_record_survives_a_restart_and_versions_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let first = registry(directory.path());
    let (one, replaced) = first.put(record("10.0.0.1")).await.unwrap();
    assert!(!replaced);
    first.put(record("10.0.0.2")).await.unwrap();
    assert!(first.remove("10.0.0.2".parse().unwrap()).await.unwrap());
    assert!(!first.remove("10.0.0.2".parse().unwrap()).await.unwrap());
    let (version, _) = first.lookup("10.0.0.1".parse().unwrap());
    drop(first);
    let second = registry(directory.path());
    assert_eq!(second.lookup("::ffff:10.0.0.1".parse().unwrap()), (version, Some(one)));
    let (later, _) = second.put(record("10.0.0.3")).await.unwrap();
    assert_eq!(later.generation, version + 1);
}

#[tokio::test]
async fn an_entry_with_deny_alone_makes_no_host_reachable() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    let entries = r#"[{"host":"a.example.com","deny":["/x"]},{"host":"b.example.com","allow":["/x"]}]"#;
    let egress_allow = serde_json::from_str(entries).unwrap();
    registry.put(Container { egress_allow, ..record("10.0.0.1") }).await.unwrap();
    let hosts: Vec<String> = registry.extra_hosts().iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["b.example.com"]);
    for (host, allowed) in [("a.example.com", false), ("b.example.com", true)] {
        assert_eq!(registry.allows_extra(&HostName::parse(host.as_bytes()).unwrap()), allowed, "{host}");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn expired(address: &str, at: &str) -> Container {
    Container { expires_at: at.parse().unwrap(), ..record(address) }
}

/// Begins `work` and drops it, as axum drops the handler of a client that has hung up.
async fn hang_up<T>(work: impl Future<Output = T>) {
    assert!(work.now_or_never().is_none(), "it was not under way any more");
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_change_that_nobody_waits_for_any_more_is_made_whole() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    let stored = || registry.store.load().unwrap();
    let mut changes = registry.changes();
    hang_up(registry.put(record("10.0.0.1"))).await;
    eventually("the record is in memory", || registry.lookup(ip("10.0.0.1")).1.is_some()).await;
    assert!(matches!(changes.recv().await.unwrap(), (2, Change::Upsert(_))));
    hang_up(registry.update(ip("10.0.0.1"), |record, _| Ok::<_, Error>(Container { repos: vec![], ..record }))).await;
    eventually("the change is in memory", || registry.lookup(ip("10.0.0.1")).0 == 3).await;
    hang_up(registry.remove(ip("10.0.0.1"))).await;
    eventually("the record has left memory", || registry.lookup(ip("10.0.0.1")).1.is_none()).await;
    assert_eq!(stored(), (4, vec![]));
    assert_eq!(registry.put(record("10.0.0.2")).await.unwrap().0.generation, 5, "no version is used twice");
}

#[tokio::test]
async fn changes_of_one_record_follow_each_other_and_none_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    registry.put(record("10.0.0.1")).await.unwrap();
    let label = |number: u8| {
        registry.update(ip("10.0.0.1"), move |mut record, _| {
            record.labels.insert(number.to_string(), String::new());
            Ok::<_, Error>(record)
        })
    };
    futures::future::try_join_all((0..20).map(label)).await.unwrap();
    assert_eq!(registry.lookup(ip("10.0.0.1")).1.unwrap().labels.len(), 20);
}

#[tokio::test]
async fn a_note_is_kept_and_told_and_leaves_the_generation() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    let (before, _) = registry.put(record("10.0.0.1")).await.unwrap();
    registry.put(record("10.0.0.2")).await.unwrap();
    let mut changes = registry.changes();
    let noted = |record: &Container| {
        let repos = vec![policy::Repo::parse("o/r").unwrap().known(7, "main")];
        // Neither the address nor the generation is for a note to say.
        Some(Container { repos, container_ip: ip("10.0.0.9"), generation: 99, ..record.clone() })
    };
    assert!(registry.annotate(ip("10.0.0.1"), noted).await.unwrap());
    let (version, after) = registry.lookup(ip("10.0.0.1"));
    let after = after.unwrap();
    assert_eq!((after.generation, after.repos[0].id()), (before.generation, Some(7)));
    assert!(version > before.generation + 1, "the workers get it as a change");
    assert!(
        matches!(changes.recv().await.unwrap(), (told, Change::Upsert(record)) if told == version && record == after)
    );
    let (stored, records) = registry.store.load().unwrap();
    assert_eq!((stored, records.contains(&after)), (version, true));
    assert!(!registry.annotate(ip("10.0.0.1"), |_| None).await.unwrap());
    assert!(!registry.annotate(ip("10.0.0.3"), noted).await.unwrap());
    assert_eq!(registry.lookup(ip("10.0.0.3")), (version, None));
    let (replaced, _) = registry.put(record("10.0.0.1")).await.unwrap();
    assert_eq!(replaced.generation, version + 1);
}

#[tokio::test]
async fn a_change_beside_a_removal_does_not_bring_the_record_back() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    registry.put(record("10.0.0.1")).await.unwrap();
    let change = || registry.update(ip("10.0.0.1"), |record, _| Ok::<_, Error>(record));
    let (before, removed, after) = tokio::join!(change(), registry.remove(ip("10.0.0.1")), change());
    assert!(before.unwrap().is_some() && removed.unwrap() && after.unwrap().is_none());
    assert!(registry.lookup(ip("10.0.0.1")).1.is_none());
    assert!(registry.store.load().unwrap().1.is_empty());
}

#[tokio::test]
async fn a_change_that_is_refused_changes_nothing_and_no_address() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    let (one, _) = registry.put(record("10.0.0.1")).await.unwrap();
    let refused = registry.update(ip("10.0.0.1"), |_, _| Err(Error::Database(redb::Error::PreviousIo))).await;
    assert!(refused.is_err());
    assert_eq!(registry.lookup(one.container_ip), (one.generation, Some(one)));
    let moved = registry.update(ip("10.0.0.1"), |_, _| Ok::<_, Error>(record("10.0.0.9"))).await.unwrap().unwrap();
    assert_eq!(moved.container_ip, ip("10.0.0.1"));
}

#[tokio::test]
async fn a_change_that_cannot_be_stored_is_in_memory_neither_and_told_to_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let (store, disk) = Disk::store(&directory.path().join("registry.redb"));
    let registry = Registry::open(store, Policy::deny_all()).unwrap();
    let (one, _) = registry.put(record("10.0.0.1")).await.unwrap();
    let mut changes = registry.changes();
    disk.refuse(Refuses::Syncs(std::io::ErrorKind::StorageFull));
    assert!(registry.put(record("10.0.0.2")).await.unwrap_err().is_full());
    assert!(registry.remove(ip("10.0.0.1")).await.is_err());
    assert_eq!(registry.list(), [Arc::clone(&one)]);
    assert!(changes.try_recv().is_err());
    disk.refuse(Refuses::Nothing);
    let (three, _) = registry.put(record("10.0.0.3")).await.unwrap();
    assert_eq!(registry.store.load().unwrap().1, [one.as_ref().clone(), three.as_ref().clone()]);
}

#[tokio::test]
async fn an_expired_record_is_purged_a_day_later_from_disk_and_memory() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    registry.put(expired("10.0.0.1", "2027-01-15T00:00:00Z")).await.unwrap();
    registry.put(expired("10.0.0.2", "2027-01-15T00:00:01Z")).await.unwrap();
    registry.purge("2027-01-15T23:59:59Z".parse().unwrap()).await.unwrap();
    assert_eq!(registry.list().len(), 2);
    registry.purge("2027-01-16T00:00:00Z".parse().unwrap()).await.unwrap();
    assert!(registry.lookup(ip("10.0.0.1")).1.is_none() && registry.lookup(ip("10.0.0.2")).1.is_some());
    assert_eq!(registry.store.load().unwrap().1.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn expired_records_are_looked_for_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path());
    registry.put(record("10.0.0.1")).await.unwrap();
    let tidy = tokio::spawn(Arc::clone(&registry).tidy());
    for _ in 0..2 {
        registry.put(expired("10.0.0.2", "2020-01-01T00:00:00Z")).await.unwrap();
        let mut changes = registry.changes();
        let removal = tokio::time::timeout(2 * TIDY_EVERY, changes.recv()).await.unwrap().unwrap();
        assert!(matches!(removal.1, Change::Remove(address) if address == ip("10.0.0.2")), "{removal:?}");
    }
    assert_eq!(registry.list().len(), 1);
    tidy.abort();
}

/// A registry with two records, and a worker that has applied it.
async fn watched(directory: &std::path::Path) -> (Arc<Registry>, Watcher) {
    let registry = registry(directory);
    for address in ["10.0.0.1", "10.0.0.2"] {
        registry.put(record(address)).await.unwrap();
    }
    let worker = registry.watcher();
    worker.applied(registry.subscribe().version);
    (registry, worker)
}

/// How long the removal of `address` takes beside `worker`.
async fn removal(registry: &Arc<Registry>, address: &str, worker: impl Future<Output = Option<Watcher>>) -> Duration {
    let started = Instant::now();
    let remove = async {
        assert!(registry.remove(ip(address)).await.unwrap());
        started.elapsed()
    };
    tokio::join!(remove, worker).0
}

#[tokio::test(start_paused = true)]
async fn a_removal_after_a_restart_waits_for_workers_if_there_were_records() {
    let directory = tempfile::tempdir().unwrap();
    let (first, worker) = watched(directory.path()).await;
    drop((first, worker));
    let second = registry(directory.path());
    assert!(removal(&second, "10.0.0.1", async { None }).await > Duration::from_secs(1));
    assert_eq!(removal(&second, "10.0.0.2", async { None }).await, Duration::ZERO);
    drop(second);
    let empty = registry(directory.path());
    empty.put(record("10.0.0.1")).await.unwrap();
    assert_eq!(removal(&empty, "10.0.0.1", async { None }).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_each_worker_and_gives_up_the_one_that_is_stuck() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, well) = watched(directory.path()).await;
    registry.put(record("10.0.0.3")).await.unwrap();
    let stuck = registry.watcher();
    let mut changes = registry.subscribe().changes;
    let mut applies = async || {
        let (version, _) = changes.recv().await.unwrap();
        well.applied(version);
        None
    };
    let waited = removal(&registry, "10.0.0.1", applies()).await;
    assert!(waited > Duration::from_secs(1), "the stuck worker was waited for");
    stuck.given_up().await;
    drop(stuck);
    assert!(removal(&registry, "10.0.0.2", applies()).await < waited, "its new stream is waited for");
    assert_eq!(removal(&registry, "10.0.0.3", applies()).await, Duration::ZERO, "it is not waited for again");
}

#[test]
fn the_revision_of_the_policy_rises_and_never_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let (store, disk) = Disk::store(&path);
    let open = |store| Registry::open(store, Policy::deny_all()).unwrap();
    let now = milliseconds();
    let first = open(store);
    let mut last = 0;
    let mut rises = |registry: &Registry| {
        let (revision, _) = registry.revised_policy();
        assert!(revision > last, "{revision} after {last}");
        last = revision;
        revision
    };
    assert!(rises(&first) >= now, "a lost store begins by the clock");
    for refuses in
        [Refuses::Nothing, Refuses::Nothing, Refuses::Writes(std::io::ErrorKind::StorageFull), Refuses::Nothing]
    {
        disk.refuse(refuses);
        first.set_policy(other_rules(&first));
        let revision = rises(&first);
        // Another list of hosts alone.
        first.set_policy(Policy { version: "other".into(), ..(*first.policy()).clone() });
        assert_eq!(first.revised_policy().0, revision);
    }
    drop(first);
    // A clock that went back.
    let store = Store::open(&path).unwrap();
    let ahead = store.next_revision(now + 1_000_000_000).unwrap();
    assert_eq!(store.next_revision(0).unwrap(), ahead + 1);
    let second = open(store);
    assert_eq!(rises(&second), ahead + 2);
    second.set_policy(other_rules(&second));
    rises(&second);
}

/// The policy in force with other rules for GitHub.
fn other_rules(registry: &Registry) -> Policy {
    let mut policy = (*registry.policy()).clone();
    policy.github.push_time += 1;
    policy
}
