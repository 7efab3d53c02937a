//! Upkeep with concurrent appends, crashes, a full disk, and on systems that do not report when
//! they started.

use std::fs;

use tempfile::TempDir;

use super::tests::{crash, forget_before, names, offsets, records};
use super::*;
use crate::channel::Channel;

fn known(covers_to: u64) -> KnownChannels {
    let channel = Channel::new("gone").unwrap();
    let gone = KnownChannel { channel, last: covers_to.min(2), time_ms: 17, ended: true };
    KnownChannels { covers_to, forgotten_to: 1, channels: vec![gone] }
}

/// A store with records 1 to 3, each in a separate segment.
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

fn no_deletion(covers_to: u64) -> KnownChannels {
    panic!("unexpected deletion up to {covers_to}")
}

#[test]
fn records_appended_during_a_sync_are_synced_by_the_next() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    let work = store.begin_upkeep(0, no_deletion);
    assert!(!work.is_empty());
    store.append(&records(2..=2)).unwrap();
    store.bytes_max = 1;
    store.append(&records(3..=3)).unwrap();
    store.end_upkeep(work.run()).0.unwrap();
    assert!(store.active.as_ref().unwrap().is_unsynced);
    assert_eq!((store.unsynced.len(), store.directory_unsynced), (1, true));
    upkeep(&mut store, 0).0.unwrap();
    assert!(store.begin_upkeep(0, no_deletion).is_empty());
}

#[test]
fn a_failed_sync_is_retried() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    // `/dev/null` cannot be synced.
    let active = store.active.as_mut().unwrap();
    let file = std::mem::replace(&mut active.file, File::open("/dev/null").unwrap().into());
    let work = store.begin_upkeep(0, no_deletion);
    let failed = store.end_upkeep(work.run()).0.unwrap_err();
    assert!(failed.to_string().starts_with("the store cannot sync "), "{failed}");
    assert_eq!((store.unsynced.len(), store.directory_unsynced), (1, true));
    store.unsynced = vec![file];
    let work = store.begin_upkeep(0, no_deletion);
    assert!(!work.is_empty());
    store.end_upkeep(work.run()).0.unwrap();
    assert!(store.begin_upkeep(0, no_deletion).is_empty());
}

#[test]
fn records_appended_during_the_deletion_of_all_segments_remain() {
    let directory = TempDir::new().unwrap();
    let mut store = three_segments(directory.path());
    let work = store.begin_upkeep(4, known);
    store.append(&records(4..=4)).unwrap();
    store.end_upkeep(work.run()).1.unwrap();
    store.append(&records(5..=5)).unwrap();
    crash(store);
    let (store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![4, 5], 5));
    assert_eq!((recovered.forgotten_to, recovered.channels), (1, known(3).channels));
    assert_eq!(store.closed.len(), 1);
}

#[test]
fn after_a_crash_during_deletion_all_channels_are_known() {
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
        crash(store);
        // Segments are deleted from the front, so a crash leaves the last ones.
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
fn after_a_crash_before_deletion_all_records_remain() {
    let directory = TempDir::new().unwrap();
    let mut store = three_segments(directory.path());
    forget_before(&mut store, 2);
    // The work was collected but never finished, and left a partial file.
    drop(store.begin_upkeep(4, known));
    fs::write(directory.path().join("channels.new"), b"HWTRCH1\nhalf").unwrap();
    crash(store);
    let recovered = Store::open(directory.path()).unwrap().1;
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![2, 3], 3));
    assert_eq!((recovered.forgotten_to, recovered.channels), (1, Vec::new()));
}

#[test]
fn with_a_damaged_or_outdated_list_more_may_be_forgotten() {
    for is_damaged in [false, true] {
        let directory = TempDir::new().unwrap();
        let mut store = three_segments(directory.path());
        let epoch = store.epoch;
        upkeep(&mut store, 2).1.unwrap();
        crash(store);
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

/// `/dev/full` acts as a full disk.
#[cfg(target_os = "linux")]
#[test]
fn segments_are_deleted_on_a_full_disk() {
    let directory = TempDir::new().unwrap();
    let mut store = three_segments(directory.path());
    let new = directory.path().join("channels.new");
    std::os::unix::fs::symlink("/dev/full", &new).unwrap();
    let failed = upkeep(&mut store, 3).1.unwrap_err();
    assert!(failed.to_string().contains("free disk space"), "{failed}");
    assert_eq!(names(directory.path()), [segment::file_name(3)]);
    fs::remove_file(&new).unwrap();
    upkeep(&mut store, 3).1.unwrap();
    assert_eq!(store.closed.len(), 0);
    crash(store);
    let recovered = Store::open(directory.path()).unwrap().1;
    assert_eq!((recovered.forgotten_to, recovered.channels), (1, known(2).channels));
}

/// On an error other than a full disk nothing is deleted, and the next upkeep retries.
#[test]
fn records_remain_until_the_list_of_channels_is_written() {
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
fn where_the_boot_is_unknown_a_crash_changes_the_epoch() {
    let directory = TempDir::new().unwrap();
    let open = || Store::open_in_boot(None, directory.path()).unwrap();
    let (mut store, Recovered { epoch, .. }) = open();
    store.append(&records(1..=2)).unwrap();
    drop(store);
    let (mut store, recovered) = open();
    assert_eq!((recovered.epoch, offsets(&recovered.records)), (epoch, vec![1, 2]));
    store.append(&records(3..=3)).unwrap();
    crash(store);
    let (_store, recovered) = open();
    assert_ne!(recovered.epoch, epoch, "there may have been a power failure");
    assert_eq!(offsets(&recovered.records), [1, 2, 3]);
}
