//! DOS and GUID partition tables.

use super::super::ReadAt;
use super::super::bytes::{byte, guid, le16, le32, le64, slice};
use super::super::media::read_up_to;
use super::{LayoutError, PartitionType, Table, probe};

/// A partition before anybody looked into it.
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) kind: PartitionType,
    pub(super) name: Option<String>,
}

const MBR: &str = "DOS partition table";
const GPT: &str = "GUID partition table";
const SECTOR: u64 = 512;
/// Of a GPT header.
const SIGNATURE: &[u8] = b"EFI PART";
const PROTECTIVE: u8 = 0xEE;
/// Extended partitions: CHS, LBA, Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];
/// A chain of logical partitions longer than this is a loop or nonsense; Linux stops at 256 minors too.
const MAX_LOGICAL: u32 = 128;
/// Space for 8192 GPT entries of the usual size.
const MAX_GPT_ENTRIES: u64 = 1 << 20;

/// The table and its partitions, ascending by offset and checked against each other and the image's size.
pub(super) fn read(data: &dyn ReadAt) -> Result<(Table, Vec<Entry>), LayoutError> {
    let sector = read_at(data, 0, SECTOR as usize)?;
    let (table, mut entries, reserved) = match slots(&sector) {
        Some(slots) if slots.iter().any(|slot| slot.kind == PROTECTIVE) => gpt(data)?,
        Some(slots) if !probe::is_fat(&sector) => {
            let (entries, reserved) = mbr(data, &slots)?;
            (Table::Mbr, entries, reserved)
        }
        _ => (Table::None, vec![whole(data.size())], Vec::new()),
    };
    check(&mut entries, &reserved, data.size())?;
    Ok((table, entries))
}

fn read_at(data: &dyn ReadAt, offset: u64, len: usize) -> Result<Vec<u8>, LayoutError> {
    read_up_to(data, offset, len).map_err(|source| LayoutError::Read { offset, source })
}

fn whole(size: u64) -> Entry {
    Entry { number: 0, offset: 0, len: size, kind: PartitionType::Whole, name: None }
}

fn damaged(table: &'static str, why: impl Into<String>) -> LayoutError {
    LayoutError::Damaged { table, why: why.into() }
}

/// One of the four entries of an MBR or EBR.
struct Slot {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// The four entries, if this sector is a table at all: signature, boot flags that are 0x00 or 0x80, and at least one entry in use.
fn slots(sector: &[u8]) -> Option<Vec<Slot>> {
    let used = |slot: &Slot| slot.kind != 0 && slot.sectors != 0;
    if le16(sector, 510) != 0xAA55 || (0..4).any(|i| byte(sector, 446 + 16 * i) & 0x7F != 0) {
        return None;
    }
    let slots: Vec<_> = (0..4).map(|i| slot(sector, i)).collect();
    slots.iter().any(used).then_some(slots)
}

fn slot(sector: &[u8], index: usize) -> Slot {
    let at = 446 + 16 * index;
    Slot { kind: byte(sector, at + 4), start: u64::from(le32(sector, at + 8)), sectors: u64::from(le32(sector, at + 12)) }
}

/// Partitions, and the ranges that none of the primary ones may touch: the table itself and the extended partition.
fn mbr(data: &dyn ReadAt, slots: &[Slot]) -> Result<(Vec<Entry>, Vec<Entry>), LayoutError> {
    if slots.iter().filter(|slot| EXTENDED.contains(&slot.kind)).count() > 1 {
        return Err(damaged(MBR, "it has two extended partitions"));
    }
    let mut entries = Vec::new();
    let mut reserved = vec![Entry { number: 0, offset: 0, len: SECTOR, kind: PartitionType::Whole, name: None }];
    for (number, slot) in (1..).zip(slots).filter(|(_, slot)| slot.kind != 0 && slot.sectors != 0) {
        let entry = mbr_entry(number, slot.start, slot);
        if EXTENDED.contains(&slot.kind) {
            in_range(&entry, data.size())?;
            entries.extend(logical(data, &entry)?);
            reserved.push(entry);
        } else {
            entries.push(entry);
        }
    }
    Ok((entries, reserved))
}

fn mbr_entry(number: u32, start: u64, slot: &Slot) -> Entry {
    Entry { number, offset: start * SECTOR, len: slot.sectors * SECTOR, kind: PartitionType::Mbr(slot.kind), name: None }
}

/// Follows the chain of extended boot records. Their first entry is relative to the record, the second to the extended partition.
fn logical(data: &dyn ReadAt, extended: &Entry) -> Result<Vec<Entry>, LayoutError> {
    let mut entries = Vec::new();
    let base = extended.offset / SECTOR;
    let mut record = base;
    for number in 5..5 + MAX_LOGICAL {
        let sector = read_at(data, record * SECTOR, SECTOR as usize)?;
        if le16(&sector, 510) != 0xAA55 {
            return Err(damaged(MBR, format!("the extended boot record at sector {record} has no signature")));
        }
        let (this, next) = (slot(&sector, 0), slot(&sector, 1));
        if this.kind != 0 && this.sectors != 0 {
            let entry = mbr_entry(number, record + this.start, &this);
            if entry.offset <= record * SECTOR || entry.offset + entry.len > extended.offset + extended.len {
                return Err(damaged(MBR, format!("logical partition {number} lies outside the extended partition")));
            }
            entries.push(entry);
        }
        if next.kind == 0 || next.sectors == 0 {
            return Ok(entries);
        }
        if !EXTENDED.contains(&next.kind) || next.start == 0 || next.start * SECTOR >= extended.len {
            return Err(damaged(MBR, format!("the extended boot record at sector {record} points outside the extended partition")));
        }
        record = base + next.start;
    }
    Err(damaged(MBR, format!("the chain of logical partitions does not end after {MAX_LOGICAL}")))
}

/// A damaged table is refused even where its spare at the end is whole: Linux reads the spare only when told to on its command line
/// (block/partitions/efi.c, `gpt`), so a card with such a table would not boot. What is said then is how to mend the image.
fn gpt(data: &dyn ReadAt) -> Result<(Table, Vec<Entry>, Vec<Entry>), LayoutError> {
    first_gpt(data).map_err(|error| match error {
        LayoutError::Damaged { table, why } => {
            let spare = if has_spare_gpt(data) {
                "its spare at the end of the image is whole, `sgdisk -e IMAGE` restores the table from it"
            } else {
                "there is no whole spare at the end of the image either"
            };
            LayoutError::Damaged { table, why: format!("{why} ({spare})") }
        }
        other => other,
    })
}

/// Whether the header in the last sector and its entries are whole.
fn has_spare_gpt(data: &dyn ReadAt) -> bool {
    [512, 4096].into_iter().filter_map(|size| Some((size, data.size().checked_sub(size)?))).any(|(sector_size, at)| {
        let header = read_at(data, at, sector_size as usize).unwrap_or_default();
        header.starts_with(SIGNATURE) && gpt_entries(data, &header, sector_size).is_ok()
    })
}

/// The sector size is not recorded anywhere: the header is at sector 1 of whichever it is.
fn first_gpt(data: &dyn ReadAt) -> Result<(Table, Vec<Entry>, Vec<Entry>), LayoutError> {
    for sector_size in [512, 4096] {
        let header = read_at(data, sector_size, sector_size as usize)?;
        if header.starts_with(SIGNATURE) {
            let (entries, reserved) = gpt_entries(data, &header, sector_size)?;
            return Ok((Table::Gpt, entries, reserved));
        }
    }
    Err(damaged(GPT, "the protective MBR is there, the GPT header is not"))
}

fn gpt_entries(data: &dyn ReadAt, header: &[u8], sector_size: u64) -> Result<(Vec<Entry>, Vec<Entry>), LayoutError> {
    let header_size = le32(header, 12) as usize;
    if !(92..=header.len()).contains(&header_size) {
        return Err(damaged(GPT, format!("its header claims {header_size} bytes")));
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..16]);
    crc.update(&[0; 4]);
    crc.update(&header[20..header_size]);
    if crc.finalize() != le32(header, 16) {
        return Err(damaged(GPT, "the checksum of its header is wrong"));
    }
    let (first_lba, count, entry_size) = (le64(header, 72), u64::from(le32(header, 80)), u64::from(le32(header, 84)));
    let bytes = count * entry_size;
    if entry_size < 128 || !entry_size.is_multiple_of(8) || bytes > MAX_GPT_ENTRIES {
        return Err(damaged(GPT, format!("it claims {count} entries of {entry_size} bytes")));
    }
    let offset = in_bytes(first_lba, sector_size)?;
    let array = read_at(data, offset, bytes as usize)?;
    if array.len() as u64 != bytes || crc32fast::hash(&array) != le32(header, 88) {
        return Err(damaged(GPT, "the checksum of its entries is wrong"));
    }
    let reserved = |offset, len| Entry { number: 0, offset, len, kind: PartitionType::Whole, name: None };
    let mut entries = Vec::new();
    for (number, raw) in (1..).zip(array.chunks_exact(entry_size as usize)) {
        entries.extend(gpt_entry(number, raw, sector_size)?);
    }
    Ok((entries, vec![reserved(0, 2 * sector_size), reserved(offset, bytes)]))
}

fn gpt_entry(number: u32, raw: &[u8], sector_size: u64) -> Result<Option<Entry>, LayoutError> {
    let Some(kind) = guid(raw, 0) else { return Ok(None) };
    let (first, last) = (le64(raw, 32), le64(raw, 40));
    let Some(sectors) = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1)) else {
        return Err(damaged(GPT, format!("partition {number} ends before it begins")));
    };
    let (offset, len) = (in_bytes(first, sector_size)?, in_bytes(sectors, sector_size)?);
    let units: Vec<u16> = slice(raw, 56, 72).chunks_exact(2).map(|unit| le16(unit, 0)).take_while(|&unit| unit != 0).collect();
    let name = String::from_utf16_lossy(&units);
    Ok(Some(Entry { number, offset, len, kind: PartitionType::Gpt(kind), name: (!name.is_empty()).then_some(name) }))
}

fn in_bytes(sectors: u64, sector_size: u64) -> Result<u64, LayoutError> {
    sectors.checked_mul(sector_size).ok_or_else(|| damaged(GPT, format!("sector number {sectors} is impossible")))
}

/// Sorts; refuses partitions that overlap each other or `reserved`, or that lie outside of the image. A partition of an extended
/// partition (numbers from 5) may lie within it.
fn check(entries: &mut [Entry], reserved: &[Entry], size: u64) -> Result<(), LayoutError> {
    entries.sort_by_key(|entry| (entry.offset, entry.number));
    for entry in entries.iter().chain(reserved) {
        in_range(entry, size)?;
    }
    for pair in entries.windows(2) {
        overlap(&pair[0], &pair[1])?;
    }
    for held in reserved {
        let logical = |entry: &Entry| held.number != 0 && entry.number > 4;
        for entry in entries.iter().filter(|entry| !logical(entry)) {
            overlap(held, entry)?;
        }
    }
    Ok(())
}

fn in_range(entry: &Entry, size: u64) -> Result<(), LayoutError> {
    let end = entry.offset.saturating_add(entry.len);
    if end > size {
        return Err(LayoutError::OutOfRange { number: entry.number, offset: entry.offset, end, size });
    }
    Ok(())
}

fn overlap(a: &Entry, b: &Entry) -> Result<(), LayoutError> {
    let (first, second) = if a.offset <= b.offset { (a, b) } else { (b, a) };
    if second.offset >= first.offset + first.len {
        return Ok(());
    }
    if first.number == 0 || second.number == 0 {
        let number = first.number.max(second.number);
        return Err(damaged("partition table", format!("partition {number} overlaps the table itself")));
    }
    Err(LayoutError::Overlap { first: first.number, second: second.number, at: second.offset })
}
