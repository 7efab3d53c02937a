//! The store against killed processes, damaged files, a full disk, a second process, and a model.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::channel::Channel;
use crate::event::Event;

pub(in crate::broker::store) fn record(offset: u64, channel: &str, data: &str) -> Record {
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

/// Deletes as the log does, which knows of no channel that is gone.
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

fn segment_paths(directory: &Path) -> Vec<PathBuf> {
    segment::list(directory).unwrap().into_iter().map(|(_, path)| path).collect()
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let path = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    segment_paths(directory).iter().map(path).collect()
}

#[test]
fn a_new_directory_is_made_and_comes_back_as_it_was_left() {
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
fn two_stores_have_two_epochs() {
    let epoch = || Store::open(TempDir::new().unwrap().path()).unwrap().1.epoch;
    assert_ne!(epoch(), epoch());
}

#[test]
fn a_second_process_is_refused() {
    let directory = TempDir::new().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    let refused = error(directory.path());
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert!(refused.to_string().contains("is in use by another process: stop that one"));
    drop(store);
    assert!(Store::open(directory.path()).is_ok());
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let foreign = directory.path().join("thesis.odt");
    fs::write(&foreign, "years of work").unwrap();
    let refused = error(directory.path());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("thesis.odt is not a file of Headwater"), "{refused}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    fs::rename(&foreign, directory.path().join("marker")).unwrap();
    assert!(error(directory.path()).to_string().contains("is not a marker of Headwater"));
    let segment = directory.path().join(segment::file_name(1));
    fs::rename(directory.path().join("marker"), &segment).unwrap();
    assert!(error(directory.path()).to_string().contains("does not begin as a segment"));
    assert_eq!(fs::read(&segment).unwrap(), b"years of work");

    fs::remove_file(&segment).unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    assert!(Store::open(directory.path()).is_ok());
    let file = directory.path().join("lock");
    assert!(error(&file).to_string().starts_with("the store cannot make the directory "));
}

#[test]
fn newer_formats_are_refused() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    drop(store);
    let segment = &segment_paths(directory.path())[0];
    let whole = fs::read(segment).unwrap();
    let mut newer = whole.clone();
    newer[segment::TITLE.len() - 2] = b'2';
    fs::write(segment, &newer).unwrap();
    let refused = error(directory.path());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("has a newer format"), "{refused}");
    assert_eq!(fs::read(segment).unwrap(), newer);

    fs::write(segment, &whole).unwrap();
    let marker = directory.path().join("marker");
    fs::write(&marker, fs::read_to_string(&marker).unwrap().replace("store 1", "store 2")).unwrap();
    let refused = error(directory.path()).to_string();
    assert!(refused.contains("has format 2, and this version of Headwater knows format 1"));
}

#[test]
fn a_record_cut_at_any_byte_is_cut_off_and_the_log_goes_on() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    let all = records(1..=3);
    store.append(&all[..2]).unwrap();
    let good = store.active.as_ref().unwrap().bytes;
    store.append(&all[2..]).unwrap();
    kill(store);
    let path = &segment_paths(directory.path())[0];
    let whole = fs::read(path).unwrap();
    let marker = fs::read(directory.path().join("marker")).unwrap();
    for bytes in usize::try_from(good).unwrap()..whole.len() {
        fs::write(path, &whole[..bytes]).unwrap();
        fs::write(directory.path().join("marker"), &marker).unwrap();
        let (mut store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!((recovered.epoch, recovered.last_offset), (epoch, 2), "cut to {bytes}");
        assert_eq!(recovered.records, all[..2], "cut to {bytes}");
        assert_eq!(fs::metadata(path).unwrap().len(), good);
        store.append(&[Record { end: true, ..record(3, "other", "instead") }]).unwrap();
        kill(store);
        let (store, recovered) = Store::open(directory.path()).unwrap();
        assert_eq!(offsets(&recovered.records), [1, 2, 3]);
        assert_eq!(recovered.records[2].event.data(), "instead");
        kill(store);
    }
}

#[test]
fn a_segment_cut_in_its_title_goes_on() {
    for bytes in 0..=segment::TITLE.len() {
        let directory = TempDir::new().unwrap();
        let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
        store.bytes_max = 1;
        store.append(&records(1..=1)).unwrap();
        store.append(&records(2..=2)).unwrap();
        kill(store);
        let paths = segment_paths(directory.path());
        cut(&paths[1], bytes as u64).unwrap();
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
fn any_flipped_bit_is_found_and_changes_the_epoch() {
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
        let (found, wanted) = (&recovered.records, &all[..recovered.records.len()]);
        assert!(found.len() < 3 && *found == *wanted, "byte {at}");
        assert_ne!(recovered.epoch, epoch, "byte {at}");
        kill(store);
        // The damage is repaired: the next start keeps the epoch.
        let again = Store::open(directory.path()).unwrap().1;
        assert_eq!(again.epoch, recovered.epoch);
    }
}

#[test]
fn records_behind_a_damaged_segment_are_kept() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.bytes_max = 1;
    for offset in 1..=3 {
        store.append(&records(offset..=offset)).unwrap();
    }
    drop(store);
    // Also a torn end is damage, where no process can have been killed in it.
    let path = &segment_paths(directory.path())[1];
    cut(path, fs::metadata(path).unwrap().len() - 1).unwrap();
    let (store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!(offsets(&recovered.records), [1, 3]);
    assert_ne!(recovered.epoch, epoch);
    kill(store);
    assert_eq!(Store::open(directory.path()).unwrap().1.epoch, recovered.epoch);
}

#[test]
fn an_end_that_vanished_changes_the_epoch_once_and_gives_no_offset_twice() {
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
    kill(store);
    let (mut store, again) = Store::open(directory.path()).unwrap();
    assert_eq!((again.epoch, again.last_offset), (recovered.epoch, 9));
    store.append(&records(10..=10)).unwrap();
    kill(store);
    let last = Store::open(directory.path()).unwrap().1;
    assert_eq!((last.epoch, offsets(&last.records)), (recovered.epoch, vec![1, 10]));
}

#[test]
fn after_a_loss_of_power_the_epoch_is_new_and_the_history_is_kept() {
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
fn without_its_marker_the_epoch_is_new_and_the_history_is_kept() {
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
fn whole_segments_are_forgotten_and_offsets_go_on() {
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
fn a_batch_with_an_event_that_is_refused_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let (mut store, _) = Store::open(directory.path()).unwrap();
    let large = "x".repeat(crate::limits::EVENT_DATA_BYTES_MAX + 1);
    let refused = store.append(&[record(1, "news", "a"), record(2, "news", &large)]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
    store.append(&records(1..=1)).unwrap();
    drop(store);
    assert_eq!(Store::open(directory.path()).unwrap().1.records, records(1..=1));
}

const FULL_DISK_DIRECTORY: &str = "HEADWATER_TEST_FULL_DISK_DIRECTORY";

/// The operating system refuses to let any file of the process grow over a limit, after it has
/// written a beginning: what a full disk does, and it needs no disk and no rights.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_half_written() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    store.append(&records(1..=1)).unwrap();
    drop(store);
    // 64 blocks are 32 or 64 KiB, as the shell counts. The signal of the limit is ignored, or it kills.
    let script = "trap '' XFSZ && ulimit -f 64 && exec \"$0\" --exact --ignored --nocapture \
                  broker::store::tests::appends_until_the_disk_is_full";
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

/// What the test above runs in a process of its own.
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
fn a_torn_end_that_could_not_be_cut_at_once_is_cut_by_the_next_append() {
    let directory = TempDir::new().unwrap();
    let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
    for offset in 1..=4 {
        store.append(&records(offset..=offset)).unwrap();
        let active = store.active.as_mut().unwrap();
        (&*active.file).write_all(b"half").unwrap();
        active.is_torn = true;
        // Every second time the next append begins a segment.
        store.bytes_max = if offset % 2 == 0 { 1 } else { 1 << 20 };
    }
    kill(store);
    let (_store, recovered) = Store::open(directory.path()).unwrap();
    assert_eq!((recovered.epoch, recovered.records), (epoch, records(1..=4)));
    assert_eq!(names(directory.path()).len(), 2);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u64, String)>),
    Sync,
    ForgetBefore(u64),
    Close,
    Kill,
    KillInWrite(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let batch = prop::collection::vec((1..4u64, ".{0,40}"), 0..4);
    prop_oneof![
        4 => batch.prop_map(Step::Append),
        1 => Just(Step::Sync),
        2 => (0..60u64).prop_map(Step::ForgetBefore),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => prop::collection::vec(any::<u8>(), 1..super::record::HEAD_BYTES).prop_map(Step::KillInWrite),
    ]
}

/// Everything that was appended, and the offset below which some may be missing.
#[derive(Default)]
struct Model {
    records: Vec<Record>,
    forgotten_before: u64,
    last_offset: u64,
}

impl Model {
    fn check(&self, recovered: &Recovered) {
        assert_eq!(recovered.last_offset, self.last_offset);
        // Whole segments go, from the front: what is there is an end of what was appended...
        let missing = self.records.len() - recovered.records.len();
        assert_eq!(recovered.records, self.records[missing..]);
        // ...and only what was to be forgotten is missing, which the store knows.
        let lowest_missing_not_old = self.records[..missing].last().map_or(0, |it| it.offset);
        assert!(lowest_missing_not_old < self.forgotten_before.max(1));
        assert!(recovered.forgotten_to >= lowest_missing_not_old);
        let first = recovered.records.first().map_or(self.last_offset + 1, |it| it.offset);
        assert!(recovered.forgotten_to < first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_store_does_what_a_list_does(
        steps in prop::collection::vec(step(), 1..40),
        bytes_max in 1..1000u64,
    ) {
        let directory = TempDir::new().unwrap();
        let mut model = Model::default();
        let (mut store, Recovered { epoch, .. }) = Store::open(directory.path()).unwrap();
        store.bytes_max = bytes_max;
        for step in steps.into_iter().chain([Step::Close]) {
            let mut torn = Vec::new();
            match step {
                Step::Append(batch) => {
                    let mut records = Vec::new();
                    for (ahead, data) in batch {
                        model.last_offset += ahead;
                        records.push(record(model.last_offset, "news", &data));
                    }
                    store.append(&records).unwrap();
                    model.records.extend(records);
                    continue;
                }
                Step::Sync => {
                    store.sync().unwrap();
                    continue;
                }
                Step::ForgetBefore(offset) => {
                    forget_before(&mut store, offset);
                    model.forgotten_before = model.forgotten_before.max(offset);
                    continue;
                }
                Step::Close => drop(store),
                Step::Kill => kill(store),
                Step::KillInWrite(bytes) => {
                    kill(store);
                    torn = bytes;
                }
            }
            if let Some(path) = segment_paths(directory.path()).last()
                && fs::metadata(path).unwrap().len() > 0
            {
                OpenOptions::new().append(true).open(path).unwrap().write_all(&torn).unwrap();
            }
            let (reopened, recovered) = Store::open(directory.path()).unwrap();
            prop_assert_eq!(recovered.epoch, epoch);
            model.check(&recovered);
            store = reopened;
            store.bytes_max = bytes_max;
        }
    }

    #[test]
    fn garbage_in_any_file_is_no_panic(
        segments in prop::collection::btree_map(1..5u64, any::<Vec<u8>>(), 0..4),
        marker: Option<Vec<u8>>,
        channels: Option<Vec<u8>>,
        is_titled: bool,
    ) {
        let directory = TempDir::new().unwrap();
        for (first_offset, garbage) in segments {
            let title: &[u8] = if is_titled { &segment::TITLE } else { b"" };
            let path = directory.path().join(segment::file_name(first_offset));
            fs::write(path, [title, &garbage].concat()).unwrap();
        }
        if let Some(garbage) = marker {
            fs::write(directory.path().join("marker"), [b"headwater-store 1\n", &garbage[..]].concat()).unwrap();
        }
        if let Some(garbage) = channels {
            fs::write(directory.path().join("channels"), garbage).unwrap();
        }
        if let Ok((mut store, recovered)) = Store::open(directory.path()) {
            store.append(&[record(recovered.last_offset + 1, "news", "on")]).unwrap();
        }
    }
}
