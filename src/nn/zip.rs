//! Finds the entries of a zip archive that are stored as they are, which is how PyTorch writes them.
//! Must not know what they hold. Nothing is unpacked; files and entries over 4 GB (zip64) are understood.
//! Format: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// The fixed part of the record at the end of the file, and the longest comment behind it.
const END_BYTES: usize = 22;
const MAX_COMMENT: usize = 0xffff;
/// Fixed parts of an entry: in the directory, and in front of its data.
const DIRECTORY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// Stands where the number is in the 64-bit part instead.
const SEE_ZIP64: u64 = 0xffff_ffff;

/// An archive whose directory has been read.
pub(super) struct Zip<'a> {
    file: &'a File,
    bytes: u64,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    flags: u16,
    method: u16,
    /// As stored.
    bytes: u64,
    /// Where its local header starts.
    header: u64,
}

impl<'a> Zip<'a> {
    /// Reads the directory of `file`, which is `bytes` long.
    ///
    /// # Errors
    /// `InvalidData` where there is none or it leads out of the file.
    pub fn open(file: &'a File, bytes: u64) -> io::Result<Zip<'a>> {
        let place = directory(file, bytes)?;
        let directory = read_range(file, place)?;
        let mut entries = BTreeMap::new();
        let mut rest = directory.as_slice();
        while !rest.is_empty() {
            let (name, entry, after) = parse_entry(rest).ok_or_else(|| bad("a broken entry in the directory"))?;
            entries.insert(name, entry);
            rest = after;
        }
        Ok(Zip { file, bytes, entries })
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where in the file the content of `name` lies.
    ///
    /// # Errors
    /// `InvalidData` where there is no such entry or it leads out of the file, `Unsupported` where it is not stored as it is.
    pub fn place(&self, name: &str) -> io::Result<Range<u64>> {
        let entry = self.entries.get(name).ok_or_else(|| bad(format!("it has no entry `{name}`")))?;
        if entry.flags & 1 != 0 || entry.method != 0 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("its entry `{name}` is compressed or encrypted")));
        }
        let outside = || bad(format!("its entry `{name}` leads out of the file"));
        let fixed = entry.header.checked_add(LOCAL_BYTES as u64).filter(|&end| end <= self.bytes).ok_or_else(outside)?;
        let local = read_range(self.file, entry.header..fixed)?;
        if !local.starts_with(b"PK\x03\x04") {
            return Err(bad(format!("its entry `{name}` is not where the directory says")));
        }
        let start = fixed + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        let end = start.checked_add(entry.bytes).filter(|&end| end <= self.bytes).ok_or_else(outside)?;
        Ok(start..end)
    }
}

/// Where the directory lies, from the record at the end of the file.
fn directory(file: &File, bytes: u64) -> io::Result<Range<u64>> {
    let tail_start = bytes.saturating_sub((END_BYTES + MAX_COMMENT) as u64);
    let tail = read_range(file, tail_start..bytes)?;
    let is_end =
        |&at: &usize| tail[at..].starts_with(b"PK\x05\x06") && at + END_BYTES + usize::from(u16_at(&tail, at + 20)) == tail.len();
    let last = (tail.len() + 1).saturating_sub(END_BYTES);
    let at = (0..last).rev().find(is_end).ok_or_else(|| bad("its end is missing"))?;
    let (mut size, mut start) = (u64::from(u32_at(&tail, at + 12)), u64::from(u32_at(&tail, at + 16)));
    let locator = at.checked_sub(20).map(|l| &tail[l..at]).filter(|l| l.starts_with(b"PK\x06\x07"));
    if let Some(locator) = locator {
        let record = u64_at(locator, 8);
        let end =
            record.checked_add(56).filter(|&end| end <= bytes).ok_or_else(|| bad("its 64-bit end leads out of the file"))?;
        let record = read_range(file, record..end)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(bad("its 64-bit end is broken"));
        }
        (size, start) = (u64_at(&record, 40), u64_at(&record, 48));
    }
    let end = start.checked_add(size).filter(|&end| end <= tail_start + at as u64);
    Ok(start..end.ok_or_else(|| bad("its directory leads out of the file"))?)
}

/// The first entry of the directory and what comes after it.
fn parse_entry(bytes: &[u8]) -> Option<(String, Entry, &[u8])> {
    let (fixed, rest) = bytes.split_at_checked(DIRECTORY_BYTES)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        return None;
    }
    let (name, rest) = rest.split_at_checked(usize::from(u16_at(fixed, 28)))?;
    let (extra, rest) = rest.split_at_checked(usize::from(u16_at(fixed, 30)))?;
    let (_comment, rest) = rest.split_at_checked(usize::from(u16_at(fixed, 32)))?;
    let mut numbers = [u32_at(fixed, 24), u32_at(fixed, 20), u32_at(fixed, 42)].map(u64::from);
    let mut wide = zip64_part(extra).unwrap_or_default();
    // The unpacked size, the stored size and the place stand there in this order, each only where it is needed.
    for number in numbers.iter_mut().filter(|n| **n == SEE_ZIP64) {
        let (value, after) = wide.split_first_chunk()?;
        *number = u64::from_le_bytes(*value);
        wide = after;
    }
    let [_, bytes, header] = numbers;
    let entry = Entry { flags: u16_at(fixed, 8), method: u16_at(fixed, 10), bytes, header };
    Some((String::from_utf8_lossy(name).into_owned(), entry, rest))
}

fn zip64_part(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (head, rest) = extra.split_at_checked(4)?;
        let (part, after) = rest.split_at_checked(usize::from(u16_at(head, 2)))?;
        if u16_at(head, 0) == 1 {
            return Some(part);
        }
        extra = after;
    }
}

/// The bytes of a range that has been checked against the length of the file.
pub(super) fn read_range(mut file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let count = usize::try_from(range.end - range.start).map_err(|_| bad("more bytes than this machine can address"))?;
    let mut bytes = vec![0; count];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// What is wrong with the file itself.
pub(super) fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
