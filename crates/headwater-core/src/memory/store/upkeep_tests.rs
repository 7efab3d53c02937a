//! Tests of upkeep with concurrent appends, killed processes, a full disk, and systems that do not
//! report their boot. Look here for what a restart knows after each.

use std::fs;

use tempfile::TempDir;

use super::tests::{forget_before, kill, names, offsets, records};
use super::*;
use crate::channel::Channel;

fn known(covers_to: u64) -> KnownChannels {
    let channel = Channel::new("gone").unwrap();
    let gone = KnownChannel { channel, last: covers_to.min(2), time_ms: 17, ended: true };
    KnownChannels { covers_to, forgotten_to: 1, channels: vec![gone] }
}

/// Records 1 to 3, each in a separate segment.
fn three_segments(directory: &Path) -> Store {
    let (mut store, _) = Store::open(directory).unwrap();
    store.bytes_max = 1;
    for offset in 1..=3 {
        store.append(&records(offset..=offset)).unwrap();
    }
    store
}

fn upkeep(store: &mut Store, forget_before: u64) -> (Result<(), Error>, Result<(), Error>) {
    let done = store.begin_upkeep(forget_before, known).run();
    store.end_upkeep(done)
}

fn unexpected(covers_to: u64) -> KnownChannels {
    panic!("unexpected deletion up to {covers_to}")
}

#[test]
fn records_appended_during_a_sync_are_synced_by_the_next() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    let work = store.begin_upkeep(0, unexpected);
    assert!(!work.is_empty());
    store.append(&records(2..=2)).unwrap();
    store.bytes_max = 1;
    store.append(&records(3..=3)).unwrap();
    store.end_upkeep(work.run()).0.unwrap();
    assert!(store.active.as_ref().unwrap().is_unsynced);
    assert_eq!((store.unsynced.len(), store.directory_unsynced), (1, true));
    upkeep(&mut store, 0).0.unwrap();
    assert!(store.begin_upkeep(0, unexpected).is_empty());
}

#[test]
fn a_failed_sync_is_retried() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    // A sync fails on a device that is not a disk.
    let active = store.active.as_mut().unwrap();
    let file = std::mem::replace(&mut active.file, File::open("/dev/null").unwrap().into());
    let work = store.begin_upkeep(0, unexpected);
    let failed = store.end_upkeep(work.run()).0.unwrap_err();
    assert!(failed.to_string().starts_with("the store cannot sync "), "{failed}");
    assert_eq!((store.unsynced.len(), store.directory_unsynced), (1, true));
    store.unsynced = vec![file];
    let work = store.begin_upkeep(0, unexpected);
    assert!(!work.is_empty());
    store.end_upkeep(work.run()).0.unwrap();
    assert!(store.begin_upkeep(0, unexpected).is_empty());
}

#[test]
fn records_appended_while_all_segments_are_deleted_stay() {
    let directory = TempDir::new().unwrap();
    let mut store = three_segments(directory.path());
    let work = store.begin_upkeep(4, known);
    store.append(&records(4..=4)).unwrap();
    store.end_upkeep(work.run()).1.unwrap();
    store.append(&records(5..=5)).unwrap();
    kill(store);
    let (store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![4, 5], 5));
    assert_eq!((recovered.forgotten_to, recovered.channels), (1, known(3).channels));
    assert_eq!(store.closed.len(), 1);
}

#[test]
fn after_a_kill_during_a_deletion_all_channels_are_known() {
    for left in 0..=3 {
        let directory = TempDir::new().unwrap();
        let mut store = three_segments(directory.path());
        let epoch = store.epoch;
        let segments: Vec<_> = names(directory.path())
            .into_iter()
            .map(|name| {
                (directory.path().join(&name), fs::read(directory.path().join(name)).unwrap())
            })
            .collect();
        let work = store.begin_upkeep(4, known);
        store.end_upkeep(work.run()).1.unwrap();
        assert_eq!(names(directory.path()), [""; 0]);
        kill(store);
        // Deletion starts at the front, so these were not deleted yet.
        for (path, bytes) in &segments[3 - left..] {
            fs::write(path, bytes).unwrap();
        }
        let recovered = Store::open(directory.path()).unwrap().1;
        assert_eq!((recovered.epoch, recovered.last_offset), (epoch, 3));
        assert_eq!(recovered.records.len(), left);
        assert_eq!((recovered.forgotten_to, recovered.channels), (1, known(3).channels));
    }
}

#[test]
fn after_a_kill_before_a_deletion_all_records_are_there() {
    let directory = TempDir::new().unwrap();
    let mut store = three_segments(directory.path());
    forget_before(&mut store, 2);
    // The collected work was never done, and left half a file.
    drop(store.begin_upkeep(4, known));
    fs::write(directory.path().join("channels.new"), b"HWTRCH1\nhalf").unwrap();
    kill(store);
    let recovered = Store::open(directory.path()).unwrap().1;
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![2, 3], 3));
    assert_eq!((recovered.forgotten_to, recovered.channels), (1, Vec::new()));
}

#[test]
fn with_a_damaged_or_outdated_list_of_channels_more_may_be_forgotten() {
    for is_damaged in [false, true] {
        let directory = TempDir::new().unwrap();
        let mut store = three_segments(directory.path());
        let epoch = store.epoch;
        upkeep(&mut store, 2).1.unwrap();
        kill(store);
        if is_damaged {
            fs::write(directory.path().join("channels"), b"HWTRCH1\nhalf").unwrap();
        } else {
            fs::remove_file(directory.path().join(segment::file_name(2))).unwrap();
        }
        let recovered = Store::open(directory.path()).unwrap().1;
        assert_eq!((recovered.epoch, recovered.channels), (epoch, Vec::new()));
        assert_eq!(recovered.forgotten_to, if is_damaged { 1 } else { 2 });
    }
}

/// `/dev/full` acts as a disk without free space.
#[cfg(target_os = "linux")]
#[test]
fn segments_are_deleted_on_a_full_disk() {
    let directory = TempDir::new().unwrap();
    let mut store = three_segments(directory.path());
    let new = directory.path().join("channels.new");
    std::os::unix::fs::symlink("/dev/full", &new).unwrap();
    let failed = upkeep(&mut store, 3).1.unwrap_err();
    assert!(failed.to_string().contains("free some space there"), "{failed}");
    assert_eq!(names(directory.path()), [segment::file_name(3)]);
    fs::remove_file(&new).unwrap();
    upkeep(&mut store, 3).1.unwrap();
    assert_eq!(store.closed.len(), 0);
    kill(store);
    let recovered = Store::open(directory.path()).unwrap().1;
    assert_eq!((recovered.forgotten_to, recovered.channels), (1, known(2).channels));
}

/// Any other error than a full disk deletes nothing, and the upkeep is retried.
#[test]
fn records_stay_if_the_list_of_channels_cannot_be_written() {
    let directory = TempDir::new().unwrap();
    let mut store = three_segments(directory.path());
    let new = directory.path().join("channels.new");
    fs::create_dir(&new).unwrap();
    upkeep(&mut store, 4).1.unwrap_err();
    assert_eq!(names(directory.path()).len(), 3);
    fs::remove_dir(&new).unwrap();
    upkeep(&mut store, 4).1.unwrap();
    assert_eq!(names(directory.path()).len(), 0);
}

#[test]
fn without_a_boot_id_a_store_that_was_not_closed_has_a_new_epoch() {
    let directory = TempDir::new().unwrap();
    let open = || Store::open_since(None, directory.path()).unwrap();
    let (mut store, Recovered { epoch, .. }) = open();
    store.append(&records(1..=2)).unwrap();
    drop(store);
    let (mut store, recovered) = open();
    assert_eq!((recovered.epoch, offsets(&recovered.records)), (epoch, vec![1, 2]));
    store.append(&records(3..=3)).unwrap();
    kill(store);
    let (_store, recovered) = open();
    assert_ne!(recovered.epoch, epoch, "there may have been a power failure");
    assert_eq!(offsets(&recovered.records), [1, 2, 3]);
}
