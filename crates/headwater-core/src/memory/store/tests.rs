//! Tests of the store with killed processes, damaged files, a full disk, and a second process. Look
//! here for what is recovered after each; `model_tests.rs` has the random ones.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::channel::Channel;
use crate::error::ErrorKind;
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

/// Leaves the store as a killed process does: unlocked, but not closed.
pub(super) fn kill(store: Store) {
    let mut store = std::mem::ManuallyDrop::new(store);
    store.active = None;
    store.lock.unlock().unwrap();
}

/// Deletes as a log does that has no known channel without records.
pub(super) fn forget_before(store: &mut Store, offset: u64) {
    let known =
        |covers_to| KnownChannels { covers_to, forgotten_to: covers_to, channels: Vec::new() };
    let done = store.begin_upkeep(offset, known).run();
    let (synced, forgotten) = store.end_upkeep(done);
    synced.and(forgotten).unwrap();
}

fn error(directory: &Path) -> Error {
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
fn a_new_directory_is_created_and_reopens_as_it_was_left() {
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
    kill(store);
    let (_store, recovered) = Store::open(&directory).unwrap();
    assert_eq!((recovered.epoch, recovered.last_offset, recovered.forgotten_to), (epoch, 5, 0));
    assert_eq!(recovered.records, all);
}

#[test]
fn every_new_store_has_a_new_epoch() {
    let epoch = || Store::open(TempDir::new().unwrap().path()).unwrap().1.epoch;
    assert_ne!(epoch(), epoch());
}

#[test]
fn a_second_process_is_denied() {
    let directory = TempDir::new().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    let denied = error(directory.path());
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert!(denied.to_string().contains("is in use by another process: stop that process"));
    drop(store);
    assert!(Store::open(directory.path()).is_ok());
}

#[test]
fn foreign_files_are_rejected_and_left_untouched() {
    let directory = TempDir::new().unwrap();
    let foreign = directory.path().join("thesis.odt");
    fs::write(&foreign, "years of work").unwrap();
    let rejected = error(directory.path());
    assert_eq!(rejected.kind(), ErrorKind::Invalid);
    assert!(rejected.to_string().contains("thesis.odt is not a file of Headwater"), "{rejected}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    fs::rename(&foreign, directory.path().join("marker")).unwrap();
    assert!(error(directory.path()).to_string().contains("is not a marker of Headwater"));
    let segment = directory.path().join(segment::file_name(1));
    fs::rename(directory.path().join("marker"), &segment).unwrap();
    assert!(error(directory.path()).to_string().contains("is not a segment of Headwater"));
    assert_eq!(fs::read(&segment).unwrap(), b"years of work");

    fs::remove_file(&segment).unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    assert!(Store::open(directory.path()).is_ok());
    let file = directory.path().join("lock");
    assert!(error(&file).to_string().starts_with("the store cannot create the directory "));
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
    let rejected = error(directory.path());
    assert_eq!(rejected.kind(), ErrorKind::Invalid);
    assert!(rejected.to_string().contains("has a newer format"), "{rejected}");
    assert_eq!(fs::read(segment).unwrap(), newer);

    fs::write(segment, &whole).unwrap();
    let marker = directory.path().join("marker");
    fs::write(&marker, fs::read_to_string(&marker).unwrap().replace("store 1", "store 2")).unwrap();
    let rejected = error(directory.path()).to_string();
    assert!(rejected.contains("has format 2, and this version of Headwater supports format 1"));
}

#[test]
fn a_record_torn_at_any_byte_is_cut_off_and_the_log_continues() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    let all = records(1..=3);
    store.append(&all[..2]).unwrap();
    let valid = store.active.as_ref().unwrap().bytes;
    store.append(&all[2..]).unwrap();
    kill(store);
    let path = &segment_paths(directory.path())[0];
    let whole = fs::read(path).unwrap();
    let marker = fs::read(directory.path().join("marker")).unwrap();
    for bytes in usize::try_from(valid).unwrap()..whole.len() {
        fs::write(path, &whole[..bytes]).unwrap();
        fs::write(directory.path().join("marker"), &marker).unwrap();
        let (mut store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!((recovered.epoch, recovered.last_offset), (epoch, 2), "cut to {bytes}");
        assert_eq!(recovered.records, all[..2], "cut to {bytes}");
        assert_eq!(fs::metadata(path).unwrap().len(), valid);
        store.append(&[Record { end: true, ..record(3, "other", "instead") }]).unwrap();
        kill(store);
        let (store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!(offsets(&recovered.records), [1, 2, 3]);
        assert_eq!(recovered.records[2].event.data(), "instead");
        kill(store);
    }
}

#[test]
fn a_segment_torn_in_its_title_continues() {
    for bytes in 0..=segment::TITLE.len() {
        let directory = TempDir::new().unwrap();
        let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
        store.bytes_max = 1;
        store.append(&records(1..=1)).unwrap();
        store.append(&records(2..=2)).unwrap();
        kill(store);
        let paths = segment_paths(directory.path());
        truncate(&paths[1], bytes as u64).unwrap();
        let (mut store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!((recovered.epoch, recovered.last_offset), (epoch, 1));
        store.append(&records(2..=2)).unwrap();
        kill(store);
        let (_store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!(recovered.records, records(1..=2));
        assert_eq!(recovered.epoch, epoch);
    }
}

#[test]
fn any_flipped_bit_is_detected_and_changes_the_epoch() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    let all = records(1..=3);
    store.append(&all).unwrap();
    kill(store);
    let path = &segment_paths(directory.path())[0];
    let whole = fs::read(path).unwrap();
    let marker = fs::read(directory.path().join("marker")).unwrap();
    for at in segment::TITLE.len()..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(path, &flipped).unwrap();
        fs::write(directory.path().join("marker"), &marker).unwrap();
        let (store, recovered) = Store::open(directory.path()).unwrap();
        let (found, expected) = (&recovered.records, &all[..recovered.records.len()]);
        assert!(found.len() < 3 && *found == *expected, "byte {at}");
        assert_ne!(recovered.epoch, epoch, "byte {at}");
        kill(store);
        // The damage is repaired: the next start keeps the epoch.
        let again = Store::open(directory.path()).unwrap().1;
        assert_eq!(again.epoch, recovered.epoch);
    }
}

#[test]
fn records_after_a_damaged_segment_are_recovered() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.bytes_max = 1;
    for offset in 1..=3 {
        store.append(&records(offset..=offset)).unwrap();
    }
    drop(store);
    // A torn end is damage too where no process can have been killed while writing it.
    let path = &segment_paths(directory.path())[1];
    truncate(path, fs::metadata(path).unwrap().len() - 1).unwrap();
    let (store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(offsets(&recovered.records), [1, 3]);
    assert_ne!(recovered.epoch, epoch);
    kill(store);
    assert_eq!(Store::open(directory.path()).unwrap().1.epoch, recovered.epoch);
}

#[test]
fn a_lost_end_changes_the_epoch_once_and_no_offset_is_assigned_twice() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    let one = store.active.as_ref().unwrap().bytes;
    store.append(&records(2..=9)).unwrap();
    drop(store);
    truncate(&segment_paths(directory.path())[0], one).unwrap();
    let (store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![1], 9));
    assert_ne!(recovered.epoch, epoch);
    kill(store);
    let (mut store, again) = Store::open(directory.path()).unwrap();
    assert_eq!((again.epoch, again.last_offset), (recovered.epoch, 9));
    store.append(&records(10..=10)).unwrap();
    kill(store);
    let last = Store::open(directory.path()).unwrap().1;
    assert_eq!((last.epoch, offsets(&last.records)), (recovered.epoch, vec![1, 10]));
}

#[test]
fn after_a_power_failure_the_epoch_is_new_and_the_history_is_recovered() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=2)).unwrap();
    kill(store);
    let state = State::Open { boot: Some("another".to_owned()) };
    Marker { epoch, last_offset: 0, state }.write(directory.path()).unwrap();
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_ne!(recovered.epoch, epoch);
    assert_eq!(offsets(&recovered.records), [1, 2]);
}

#[test]
fn without_a_marker_the_epoch_is_new_and_the_history_is_recovered() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=2)).unwrap();
    drop(store);
    fs::remove_file(directory.path().join("marker")).unwrap();
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_ne!(recovered.epoch, epoch);
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![1, 2], 2));
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
    kill(store);
    let (mut store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(offsets(&recovered.records), [3, 4, 5, 6]);
    assert_eq!((recovered.forgotten_to, recovered.last_offset), (2, 6));
    forget_before(&mut store, 6);
    assert_eq!(names(directory.path()), [name(5)]);
    forget_before(&mut store, 7);
    assert_eq!(names(directory.path()), [""; 0]);
    kill(store);
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
    kill(store);
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(recovered.records[..2], batch);
    assert_eq!(names(directory.path()).len(), 2);
}

#[test]
fn a_batch_with_a_rejected_event_appends_nothing() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    let large = "x".repeat(crate::limits::EVENT_DATA_BYTES_MAX + 1);
    let rejected = store.append(&[record(1, "news", "a"), record(2, "news", &large)]).unwrap_err();
    assert_eq!(rejected.kind(), ErrorKind::TooLarge);
    store.append(&records(1..=1)).unwrap();
    drop(store);
    assert_eq!(Store::open(directory.path()).unwrap().1.records, records(1..=1));
}

const FULL_DISK_DIRECTORY: &str = "HEADWATER_TEST_FULL_DISK_DIRECTORY";

/// Limits the size of the process's files: a write that exceeds the limit is partial and then
/// fails, as on a full disk, without the need for a disk or for privileges.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_half_written() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    drop(store);
    // 64 blocks are 32 or 64 KiB, depending on the shell. The limit's signal is ignored, since it
    // would kill the process.
    let script = "trap '' XFSZ && ulimit -f 64 && exec \"$0\" --exact --ignored --nocapture \
                  memory::store::tests::appends_until_the_disk_is_full";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(FULL_DISK_DIRECTORY, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let (mut store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((recovered.epoch, offsets(&recovered.records)), (epoch, vec![1, 2]));
    store.append(&[record(3, "news", &"x".repeat(100_000))]).unwrap();
    drop(store);
    assert_eq!(offsets(&Store::open(directory.path()).unwrap().1.records), [1, 2, 3]);
}

/// The test above runs this in a separate process.
#[test]
#[ignore = "runs in a process whose files cannot grow"]
fn appends_until_the_disk_is_full() {
    let Some(directory) = std::env::var_os(FULL_DISK_DIRECTORY) else { return };
    let (mut store, _) = Store::open(Path::new(&directory)).unwrap();
    let path = store.active.as_ref().unwrap().path.clone();
    let before = fs::read(&path).unwrap();
    for _ in 0..2 {
        let full = store.append(&[record(2, "news", &"x".repeat(100_000))]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::Unavailable);
        assert!(full.to_string().starts_with("the store cannot write "), "{full}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    store.append(&records(2..=2)).unwrap();
}

#[test]
fn a_torn_end_that_could_not_be_cut_off_is_cut_off_by_the_next_append() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    for offset in 1..=4 {
        store.append(&records(offset..=offset)).unwrap();
        let active = store.active.as_mut().unwrap();
        (&*active.file).write_all(b"half").unwrap();
        active.is_torn = true;
        // Every second time, the next append starts a segment.
        store.bytes_max = if offset % 2 == 0 { 1 } else { 1 << 20 };
    }
    kill(store);
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((recovered.epoch, recovered.records), (epoch, records(1..=4)));
    assert_eq!(names(directory.path()).len(), 2);
}
