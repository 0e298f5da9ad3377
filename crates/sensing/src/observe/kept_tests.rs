use proptest::prelude::*;

use super::*;
use crate::observe::frame::tests::an_observation;

fn sealed() -> impl Strategy<Value = Sealed> {
    (an_observation(), 1u64..1_000, proptest::option::of(Just(Interval::instant(Timestamp::from_secs(5)))))
        .prop_map(|(latest, count, result_time)| Sealed { count, phenomenon: latest.phenomenon, latest, result_time })
}

/// What one seal does: heads that change, and one that goes.
fn seals() -> impl Strategy<Value = Vec<(Vec<(i64, Sealed)>, i64)>> {
    proptest::collection::vec((proptest::collection::vec((1i64..300, sealed()), 0..80), 1i64..300), 1..6)
}

fn of(path: &Path, id: i64) -> Option<Sealed> {
    let (checkpoint, loaded) = Checkpoint::open(path, 0).expect("open");
    match loaded.heads.get(&id) {
        Some(changed) => changed.clone().map(|(head, _)| head),
        None => checkpoint.base().get(id),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn heads_survive_restarts_merges_and_a_torn_end(seals in seals(), rewrite_at in 0usize..6, torn in 0usize..40) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("heads");
        let mut model: BTreeMap<i64, Sealed> = BTreeMap::new();
        // What memory holds since the last base, as the sealer keeps it.
        let mut memory: BTreeMap<i64, Option<Sealed>> = BTreeMap::new();
        let (mut checkpoint, _) = Checkpoint::open(&path, 0).expect("open");
        checkpoint.restart(0, BTreeMap::new()).expect("written");
        let mut whole = 0;
        for (n, (changed, gone)) in seals.iter().enumerate() {
            let changed: BTreeMap<i64, Sealed> = changed.iter().filter(|(id, _)| id != gone).cloned().collect();
            let touched: Vec<i64> = changed.keys().copied().chain([*gone]).collect();
            model.remove(gone);
            memory.insert(*gone, None);
            memory.extend(changed.iter().map(|(id, head)| (*id, Some(head.clone()))));
            model.extend(changed.clone());
            if n == rewrite_at {
                let base = checkpoint.rewrite(n as u64 + 1, std::mem::take(&mut memory)).expect("rewrite");
                prop_assert_eq!(base.heads(), model.len() as u64);
            } else {
                checkpoint.append(n as u64 + 1, &touched, changed.iter().map(|(id, s)| (*id, s, false))).expect("append");
            }
            whole = std::fs::metadata(path.with_extension("log")).expect("size").len();
        }
        drop(checkpoint);
        // A crash in the middle of the next append leaves some of its bytes.
        let mut next = entry(99, &[], std::iter::empty());
        next.truncate(torn.min(next.len() - 1));
        let mut log = OpenOptions::new().append(true).open(path.with_extension("log")).expect("open");
        log.write_all(&next).expect("write");
        let (_, loaded) = Checkpoint::open(&path, 0).expect("open");
        prop_assert_eq!(loaded.through, Some(seals.len() as u64));
        for id in 0..301 {
            prop_assert_eq!(of(&path, id), model.get(&id).cloned(), "{}", id);
        }
        prop_assert_eq!(std::fs::metadata(path.with_extension("log")).expect("size").len(), whole);
    }

    #[test]
    fn damage_is_noticed(at in 0usize..10_000, seal in proptest::collection::vec((1i64..300, sealed()), 1..80)) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("heads");
        let heads: BTreeMap<i64, Option<Sealed>> = seal.into_iter().map(|(id, head)| (id, Some(head))).collect();
        Checkpoint::open(&path, 0).expect("open").0.restart(7, heads.clone()).expect("written");
        let mut bytes = std::fs::read(&path).expect("read");
        let at = at % bytes.len();
        bytes[at] ^= 0x40;
        std::fs::write(&path, bytes).expect("written");
        let (checkpoint, loaded) = Checkpoint::open(&path, 0).expect("open");
        // Either the whole file is refused, or what is in a damaged block is: never another head.
        for (id, head) in &heads {
            let found = checkpoint.base().get(*id);
            prop_assert!(found.is_none() || found == *head);
        }
        prop_assert!(loaded.through.is_none() || !path.exists() || loaded.through == Some(7));
    }
}

/// A crash after the new base and before the log was emptied: the log's old entries must not win.
#[test]
fn what_the_base_holds_is_not_undone_by_the_log() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("heads");
    let head = |count| {
        let latest = proptest::strategy::ValueTree::current(
            &an_observation()
                .new_tree(&mut proptest::test_runner::TestRunner::deterministic())
                .expect("an observation"),
        );
        Sealed { count, phenomenon: latest.phenomenon, latest, result_time: None }
    };
    let (mut checkpoint, _) = Checkpoint::open(&path, 0).expect("open");
    checkpoint.restart(0, BTreeMap::new()).expect("written");
    checkpoint.append(1, &[5], [(5, &head(1), false)].into_iter()).expect("append");
    let log = std::fs::read(path.with_extension("log")).expect("read");
    checkpoint.rewrite(2, BTreeMap::from([(5, Some(head(2)))])).expect("rewrite");
    drop(checkpoint);
    std::fs::write(path.with_extension("log"), log).expect("as the crash left it");
    let (checkpoint, loaded) = Checkpoint::open(&path, 0).expect("open");
    assert_eq!((loaded.through, loaded.heads.len()), (Some(2), 0));
    assert_eq!(checkpoint.base().get(5).map(|h| h.count), Some(2));
}

/// The base was found damaged and has gone; the log after it is not all there is.
#[test]
fn a_log_without_its_base_is_not_believed() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("heads");
    let (mut checkpoint, _) = Checkpoint::open(&path, 1 << 20).expect("open");
    assert!(checkpoint.wants_rewrite(0), "the first seal makes a base");
    checkpoint.restart(1, BTreeMap::new()).expect("written");
    assert!(!checkpoint.wants_rewrite(0));
    checkpoint.append(2, &[5], std::iter::empty()).expect("append");
    drop(checkpoint);
    assert_eq!(Checkpoint::open(&path, 0).expect("open").1.through, Some(2));
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(Checkpoint::open(&path, 0).expect("open").1.through, None);
}
