//! The store after crashes, a power failure, damaged files, and on a full disk.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use tempfile::TempDir;

use super::tests::{crash, names, offsets, record, records, segment_paths};
use super::*;

#[test]
fn a_record_truncated_at_any_byte_is_cut_off_and_the_log_continues() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    let all = records(1..=3);
    store.append(&all[..2]).unwrap();
    let valid_bytes = store.active.as_ref().unwrap().bytes;
    store.append(&all[2..]).unwrap();
    crash(store);
    let path = &segment_paths(directory.path())[0];
    let whole = fs::read(path).unwrap();
    let marker = fs::read(directory.path().join("marker")).unwrap();
    for bytes in usize::try_from(valid_bytes).unwrap()..whole.len() {
        fs::write(path, &whole[..bytes]).unwrap();
        fs::write(directory.path().join("marker"), &marker).unwrap();
        let (mut store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!(
            (recovered.epoch, recovered.last_offset),
            (epoch, 2),
            "truncated to {bytes} bytes"
        );
        assert_eq!(recovered.records, all[..2], "truncated to {bytes} bytes");
        assert_eq!(fs::metadata(path).unwrap().len(), valid_bytes);
        store.append(&[Record { end: true, ..record(3, "other", "instead") }]).unwrap();
        crash(store);
        let (store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!(offsets(&recovered.records), [1, 2, 3]);
        assert_eq!(recovered.records[2].event.data(), "instead");
        crash(store);
    }
}

#[test]
fn a_segment_truncated_in_its_title_continues() {
    for bytes in 0..=segment::TITLE.len() {
        let directory = TempDir::new().unwrap();
        let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
        store.bytes_max = 1;
        store.append(&records(1..=1)).unwrap();
        store.append(&records(2..=2)).unwrap();
        crash(store);
        let paths = segment_paths(directory.path());
        cut(&paths[1], bytes as u64).unwrap();
        let (mut store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!((recovered.epoch, recovered.last_offset), (epoch, 1));
        store.append(&records(2..=2)).unwrap();
        crash(store);
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
    crash(store);
    let path = &segment_paths(directory.path())[0];
    let whole = fs::read(path).unwrap();
    let marker = fs::read(directory.path().join("marker")).unwrap();
    for at in segment::TITLE.len()..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(path, &flipped).unwrap();
        fs::write(directory.path().join("marker"), &marker).unwrap();
        let (store, recovered) = Store::open(directory.path()).unwrap();
        let (found, wanted) = (&recovered.records, &all[..recovered.records.len()]);
        assert!(found.len() < 3 && *found == *wanted, "byte {at}");
        assert_ne!(recovered.epoch, epoch, "byte {at}");
        crash(store);
        // The damage was repaired, so the next start keeps the epoch.
        let again = Store::open(directory.path()).unwrap().1;
        assert_eq!(again.epoch, recovered.epoch);
    }
}

#[test]
fn segments_after_a_damaged_one_are_still_read() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.bytes_max = 1;
    for offset in 1..=3 {
        store.append(&records(offset..=offset)).unwrap();
    }
    drop(store);
    // Even a torn end is damage in a segment that is not the last.
    let path = &segment_paths(directory.path())[1];
    cut(path, fs::metadata(path).unwrap().len() - 1).unwrap();
    let (store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(offsets(&recovered.records), [1, 3]);
    assert_ne!(recovered.epoch, epoch);
    crash(store);
    assert_eq!(Store::open(directory.path()).unwrap().1.epoch, recovered.epoch);
}

#[test]
fn a_lost_end_changes_the_epoch_once_and_no_offset_is_reused() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    let one = store.active.as_ref().unwrap().bytes;
    store.append(&records(2..=9)).unwrap();
    drop(store);
    cut(&segment_paths(directory.path())[0], one).unwrap();
    let (store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![1], 9));
    assert_ne!(recovered.epoch, epoch);
    crash(store);
    let (mut store, again) = Store::open(directory.path()).unwrap();
    assert_eq!((again.epoch, again.last_offset), (recovered.epoch, 9));
    store.append(&records(10..=10)).unwrap();
    crash(store);
    let last = Store::open(directory.path()).unwrap().1;
    assert_eq!((last.epoch, offsets(&last.records)), (recovered.epoch, vec![1, 10]));
}

#[test]
fn after_a_power_failure_the_epoch_is_new_and_the_history_remains() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=2)).unwrap();
    crash(store);
    let state = State::Open { boot: Some("another".to_owned()) };
    Marker { epoch, last_offset: 0, state }.write(directory.path()).unwrap();
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_ne!(recovered.epoch, epoch);
    assert_eq!(offsets(&recovered.records), [1, 2]);
}

#[test]
fn without_its_marker_the_epoch_is_new_and_the_history_remains() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=2)).unwrap();
    drop(store);
    fs::remove_file(directory.path().join("marker")).unwrap();
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_ne!(recovered.epoch, epoch);
    assert_eq!((offsets(&recovered.records), recovered.last_offset), (vec![1, 2], 2));
}

const FULL_DISK_DIRECTORY: &str = "HEADWATER_TEST_FULL_DISK_DIRECTORY";

/// A limit on file size acts like a full disk, without a disk or privileges: the operating system
/// writes a part and then fails.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_no_partial_write() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    drop(store);
    // 64 blocks are 32 or 64 KiB, depending on the shell. SIGXFSZ would end the process, so it is
    // ignored.
    let script = "trap '' XFSZ && ulimit -f 64 && exec \"$0\" --exact --ignored --nocapture \
                  memory::store::damage_tests::appends_until_the_disk_is_full";
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

/// Run by the test above in a separate process.
#[test]
#[ignore = "runs in a process with a limit on file size"]
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
fn the_next_append_cuts_a_torn_end_that_could_not_be_cut_before() {
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
    crash(store);
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((recovered.epoch, recovered.records), (epoch, records(1..=4)));
    assert_eq!(names(directory.path()).len(), 2);
}
