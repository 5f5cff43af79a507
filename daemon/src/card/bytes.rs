//! Little-endian fields of on-disk structures. A field past the end of its buffer reads as zero, so no input can make these panic.

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|field| field.try_into().ok()).unwrap_or([0; N])
}

pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// `len` bytes from `at`; fewer where the buffer ends.
pub(super) fn slice(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let start = at.min(bytes.len());
    &bytes[start..start.saturating_add(len).min(bytes.len())]
}

/// Text up to the first NUL, without surrounding blanks; `None` where nothing is left.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A UUID whose 16 bytes are stored in the order they are written (RFC 9562), as ext4 does; `None` for the nil UUID.
pub(super) fn uuid(bytes: &[u8], at: usize) -> Option<String> {
    let raw: [u8; 16] = array(bytes, at);
    (raw != [0; 16]).then(|| dashed(&raw))
}

/// A GUID as GPT stores it: the first three fields little-endian (UEFI 2.10, appendix A); `None` for the nil GUID.
pub(super) fn guid(bytes: &[u8], at: usize) -> Option<String> {
    let mut raw: [u8; 16] = array(bytes, at);
    raw[0..4].reverse();
    raw[4..6].reverse();
    raw[6..8].reverse();
    (raw != [0; 16]).then(|| dashed(&raw))
}

fn dashed(raw: &[u8; 16]) -> String {
    let hex = hex(raw);
    [&hex[0..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
