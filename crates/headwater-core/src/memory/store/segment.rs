//! One file of the log: a title, then records. Look here for how a segment is named and read, and
//! for the difference between a torn end and damage.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::file::{io_error, reject};
use super::record::{HEAD_BYTES, Record, decode_head};
use crate::error::{Error, ErrorKind};

/// The first bytes of every segment; the last character but one is the format.
pub(super) const TITLE: [u8; 8] = *b"HWTRLG1\n";
const FORMAT_AT: usize = 6;

const READ_BUFFER_BYTES: usize = 256 << 10;

/// The name of a segment: the lowest offset it can hold, padded so that names sort as offsets do.
pub(super) fn file_name(first_offset: u64) -> String {
    format!("{first_offset:020}.log")
}

/// The lowest offset that a segment can hold, if this is the name of a segment.
pub(super) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

/// The result of reading a segment.
pub(super) struct Outcome {
    /// The length of the valid part: the title and complete records.
    pub(super) valid_bytes: u64,
    /// The length of the file.
    pub(super) file_bytes: u64,
    /// The offset of the last complete record; that of an earlier segment if there is none.
    pub(super) last_offset: u64,
    pub(super) end: End,
}

/// How the records of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With a complete record.
    Whole,
    /// With a record that the end of the file cuts short: the process crashed during the write,
    /// before it acknowledged the event.
    Torn,
    /// With bytes that no crash leaves. Acknowledged events may be lost.
    Damaged,
}

/// Reads a segment from its beginning, one record at a time. Offsets must increase, and start above
/// `last_offset`.
pub(super) fn read(
    path: &Path,
    last_offset: u64,
    each: &mut dyn FnMut(Record),
) -> Result<Outcome, Error> {
    let file = File::open(path).map_err(|error| io_error("open", path, error))?;
    let file_bytes = file.metadata().map_err(|error| io_error("read", path, error))?.len();
    let mut reader = Reader {
        file: BufReader::with_capacity(READ_BUFFER_BYTES, file),
        payload: Vec::new(),
        outcome: Outcome { valid_bytes: 0, file_bytes, last_offset, end: End::Whole },
    };
    let title = reader.title().map_err(|error| io_error("read", path, error))?;
    if let Some(found) = title {
        check_title(path, found)?;
        reader.outcome.end = reader.records(each).map_err(|error| io_error("read", path, error))?;
    }
    Ok(reader.outcome)
}

fn check_title(path: &Path, found: [u8; TITLE.len()]) -> Result<(), Error> {
    if found == TITLE {
        return Ok(());
    }
    let mut known = TITLE;
    known[FORMAT_AT] = found[FORMAT_AT];
    let why = if found == known && found[FORMAT_AT].is_ascii_digit() {
        "has a newer format than this version of Headwater supports: run the version that wrote it"
    } else {
        "does not start like a Headwater segment: move it out of the directory"
    };
    Err(reject(ErrorKind::Invalid, path, why))
}

struct Reader {
    file: BufReader<File>,
    payload: Vec<u8>,
    outcome: Outcome,
}

impl Reader {
    /// The title; `None` if the file is shorter than a title.
    fn title(&mut self) -> io::Result<Option<[u8; TITLE.len()]>> {
        let mut title = [0; TITLE.len()];
        if read_up_to(&mut self.file, &mut title)? < TITLE.len() {
            self.outcome.end = if self.outcome.file_bytes == 0 { End::Whole } else { End::Torn };
            return Ok(None);
        }
        self.outcome.valid_bytes = TITLE.len() as u64;
        Ok(Some(title))
    }

    fn records(&mut self, each: &mut dyn FnMut(Record)) -> io::Result<End> {
        loop {
            let mut head = [0; HEAD_BYTES];
            match read_up_to(&mut self.file, &mut head)? {
                0 => return Ok(End::Whole),
                HEAD_BYTES => {}
                _ => return Ok(End::Torn),
            }
            let Some((length, crc)) = decode_head(head) else { return Ok(End::Damaged) };
            self.payload.resize(length, 0);
            if read_up_to(&mut self.file, &mut self.payload)? < length {
                return Ok(End::Torn);
            }
            if crc32fast::hash(&self.payload) != crc {
                return Ok(End::Damaged);
            }
            let Some(record) = Record::decode(&self.payload) else { return Ok(End::Damaged) };
            if record.offset <= self.outcome.last_offset {
                return Ok(End::Damaged);
            }
            self.outcome.last_offset = record.offset;
            self.outcome.valid_bytes += (HEAD_BYTES + length) as u64;
            each(record);
        }
    }
}

/// Reads until the buffer is full or the file ends. Returns the number of bytes read.
fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The segments of a directory with their lowest offsets, in order.
pub(super) fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| io_error("read", directory, error))? {
        let entry = entry.map_err(|error| io_error("read", directory, error))?;
        if let Some(first) = entry.file_name().to_str().and_then(parse_file_name) {
            segments.push((first, entry.path()));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}
