//! The store against a model, a list of records, and against garbage in its files.

use std::fs;
use std::io::Write as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::tests::{crash, forget_before, record, segment_paths};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u64, String)>),
    Sync,
    ForgetBefore(u64),
    Close,
    Crash,
    CrashInWrite(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let batch = prop::collection::vec((1..4u64, ".{0,40}"), 0..4);
    prop_oneof![
        4 => batch.prop_map(Step::Append),
        1 => Just(Step::Sync),
        2 => (0..60u64).prop_map(Step::ForgetBefore),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
        1 => prop::collection::vec(any::<u8>(), 1..super::record::HEAD_BYTES)
            .prop_map(Step::CrashInWrite),
    ]
}

/// All appended records, and the offset below which some may be missing.
#[derive(Default)]
struct Model {
    records: Vec<Record>,
    forgotten_before: u64,
    last_offset: u64,
}

impl Model {
    fn check(&self, recovered: &Recovered) {
        assert_eq!(recovered.last_offset, self.last_offset);
        // Segments are deleted from the front, so the remaining records are the last of the model.
        let missing = self.records.len() - recovered.records.len();
        assert_eq!(recovered.records, self.records[missing..]);
        // Only records that were to be deleted are missing, and the store knows up to where.
        let last_missing = self.records[..missing].last().map_or(0, |it| it.offset);
        assert!(last_missing < self.forgotten_before.max(1));
        assert!(recovered.forgotten_to >= last_missing);
        let first = recovered.records.first().map_or(self.last_offset + 1, |it| it.offset);
        assert!(recovered.forgotten_to < first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_store_behaves_like_a_list(
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
                Step::Crash => crash(store),
                Step::CrashInWrite(bytes) => {
                    crash(store);
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
    fn garbage_in_any_file_does_not_panic(
        segments in prop::collection::btree_map(1..5u64, any::<Vec<u8>>(), 0..4),
        marker: Option<Vec<u8>>,
        channels: Option<Vec<u8>>,
        has_title: bool,
    ) {
        let directory = TempDir::new().unwrap();
        for (first_offset, garbage) in segments {
            let title: &[u8] = if has_title { &segment::TITLE } else { b"" };
            let path = directory.path().join(segment::file_name(first_offset));
            fs::write(path, [title, &garbage].concat()).unwrap();
        }
        if let Some(garbage) = marker {
            let marker = [b"headwater-store 1\n", &garbage[..]].concat();
            fs::write(directory.path().join("marker"), marker).unwrap();
        }
        if let Some(garbage) = channels {
            fs::write(directory.path().join("channels"), garbage).unwrap();
        }
        if let Ok((mut store, recovered)) = Store::open(directory.path()) {
            store.append(&[record(recovered.last_offset + 1, "news", "on")]).unwrap();
        }
    }
}
