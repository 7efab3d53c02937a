//! The store in normal operation: opening, appending, deleting, and what it rejects. Look here for
//! the helpers that all tests of the store share.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::channel::Channel;
use crate::event::Event;

pub(in crate::memory::store) fn record(offset: u64, channel: &str, data: &str) -> Record {
    Record {
        offset,
        prev: offset - 1,
        time_ms: 1_700_000_000_000 + offset,
        end: false,
        channel: Channel::new(channel).unwrap(),
        event: Event::new(data),
        key: None,
    }
}

pub(super) fn records(offsets: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    offsets.map(|offset| record(offset, "news", &format!("event {offset}"))).collect()
}

pub(super) fn offsets(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.offset).collect()
}

/// Leaves the store as a crash does: unlocked, but not closed.
pub(super) fn crash(store: Store) {
    let mut store = std::mem::ManuallyDrop::new(store);
    store.active = None;
    store.lock.unlock().unwrap();
}

/// Deletes old records, with an empty list of channels.
pub(super) fn forget_before(store: &mut Store, offset: u64) {
    let known =
        |covers_to| KnownChannels { covers_to, forgotten_to: covers_to, channels: Vec::new() };
    let done = store.begin_upkeep(offset, known).run();
    let (synced, forgotten) = store.end_upkeep(done);
    synced.and(forgotten).unwrap();
}

fn open_error(directory: &Path) -> Error {
    match Store::open(directory) {
        Ok((_, recovered)) => panic!("opened: {recovered:?}"),
        Err(error) => error,
    }
}

pub(super) fn segment_paths(directory: &Path) -> Vec<PathBuf> {
    segment::list(directory).unwrap().into_iter().map(|(_, path)| path).collect()
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let path = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    segment_paths(directory).iter().map(path).collect()
}

#[test]
fn a_new_directory_is_created_and_reopened_as_it_was_left() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("a/b");
    let (mut store, recovered) = Store::open(&directory).unwrap();
    let epoch = recovered.epoch;
    assert_eq!(format!("{epoch:x}").len(), 12);
    assert_eq!((recovered.last_offset, recovered.forgotten_to), (0, 0));
    assert_eq!(recovered.records, []);
    let all = records(1..=5);
    store.append(&all[..1]).unwrap();
    store.append(&[]).unwrap();
    store.append(&all[1..3]).unwrap();
    store.sync().unwrap();
    drop(store);
    let (mut store, recovered) = Store::open(&directory).unwrap();
    assert_eq!((recovered.epoch, recovered.last_offset), (epoch, 3));
    assert_eq!(recovered.records, all[..3]);
    store.append(&all[3..]).unwrap();
    crash(store);
    let (_store, recovered) = Store::open(&directory).unwrap();
    assert_eq!((recovered.epoch, recovered.last_offset, recovered.forgotten_to), (epoch, 5, 0));
    assert_eq!(recovered.records, all);
}

#[test]
fn two_stores_have_different_epochs() {
    let epoch = || Store::open(TempDir::new().unwrap().path()).unwrap().1.epoch;
    assert_ne!(epoch(), epoch());
}

#[test]
fn a_second_process_is_rejected() {
    let directory = TempDir::new().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    let rejected = open_error(directory.path());
    assert_eq!(rejected.kind(), ErrorKind::PermissionDenied);
    assert!(rejected.to_string().contains("is in use by another process: stop that process"));
    drop(store);
    assert!(Store::open(directory.path()).is_ok());
}

#[test]
fn foreign_files_are_rejected_and_left_untouched() {
    let directory = TempDir::new().unwrap();
    let foreign = directory.path().join("thesis.odt");
    fs::write(&foreign, "years of work").unwrap();
    let rejected = open_error(directory.path());
    assert_eq!(rejected.kind(), ErrorKind::Invalid);
    assert!(rejected.to_string().contains("thesis.odt is not a Headwater file"), "{rejected}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    fs::rename(&foreign, directory.path().join("marker")).unwrap();
    assert!(open_error(directory.path()).to_string().contains("is not a Headwater marker"));
    let segment = directory.path().join(segment::file_name(1));
    fs::rename(directory.path().join("marker"), &segment).unwrap();
    assert!(
        open_error(directory.path())
            .to_string()
            .contains("does not start like a Headwater segment")
    );
    assert_eq!(fs::read(&segment).unwrap(), b"years of work");

    fs::remove_file(&segment).unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    assert!(Store::open(directory.path()).is_ok());
    let file = directory.path().join("lock");
    assert!(open_error(&file).to_string().starts_with("the store cannot create the directory "));
}

#[test]
fn newer_formats_are_rejected() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    drop(store);
    let segment = &segment_paths(directory.path())[0];
    let whole = fs::read(segment).unwrap();
    let mut newer = whole.clone();
    newer[segment::TITLE.len() - 2] = b'2';
    fs::write(segment, &newer).unwrap();
    let rejected = open_error(directory.path());
    assert_eq!(rejected.kind(), ErrorKind::Invalid);
    assert!(rejected.to_string().contains("has a newer format"), "{rejected}");
    assert_eq!(fs::read(segment).unwrap(), newer);

    fs::write(segment, &whole).unwrap();
    let marker = directory.path().join("marker");
    fs::write(&marker, fs::read_to_string(&marker).unwrap().replace("store 1", "store 2")).unwrap();
    let rejected = open_error(directory.path()).to_string();
    assert!(rejected.contains("has format 2, but this version of Headwater supports format 1"));
}

#[test]
fn whole_segments_are_deleted_and_offsets_continue() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.bytes_max = 150;
    for offset in 1..=6 {
        store.append(&records(offset..=offset)).unwrap();
    }
    let name = segment::file_name;
    assert_eq!(names(directory.path()), [name(1), name(3), name(5)]);
    forget_before(&mut store, 4);
    assert_eq!(names(directory.path()), [name(3), name(5)]);
    crash(store);
    let (mut store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(offsets(&recovered.records), [3, 4, 5, 6]);
    assert_eq!((recovered.forgotten_to, recovered.last_offset), (2, 6));
    forget_before(&mut store, 6);
    assert_eq!(names(directory.path()), [name(5)]);
    forget_before(&mut store, 7);
    assert_eq!(names(directory.path()), [""; 0]);
    crash(store);
    let (mut store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(recovered.records, []);
    assert_eq!((recovered.epoch, recovered.last_offset), (epoch, 6));
    assert_eq!(recovered.forgotten_to, 6);
    assert_eq!(store.append(&records(6..=6)).unwrap_err().kind(), ErrorKind::Invalid);
    store.append(&records(7..=7)).unwrap();
    drop(store);
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((recovered.epoch, offsets(&recovered.records)), (epoch, vec![7]));
    assert_eq!(recovered.forgotten_to, 6);
}

#[test]
fn the_largest_event_and_a_batch_larger_than_a_segment_fit() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.bytes_max = 1 << 20;
    let large = "x".repeat(crate::limits::EVENT_DATA_BYTES_MAX);
    let batch = [record(1, "news", &large), record(2, "news", &large)];
    store.append(&batch).unwrap();
    store.append(&records(3..=3)).unwrap();
    crash(store);
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(recovered.records[..2], batch);
    assert_eq!(names(directory.path()).len(), 2);
}

#[test]
fn a_batch_with_a_rejected_event_is_not_appended() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    let large = "x".repeat(crate::limits::EVENT_DATA_BYTES_MAX + 1);
    let rejected = store.append(&[record(1, "news", "a"), record(2, "news", &large)]).unwrap_err();
    assert_eq!(rejected.kind(), ErrorKind::TooLarge);
    store.append(&records(1..=1)).unwrap();
    drop(store);
    assert_eq!(Store::open(directory.path()).unwrap().1.records, records(1..=1));
}
