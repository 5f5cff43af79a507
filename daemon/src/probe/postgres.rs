//! PostgreSQL's first words (protocol 3.0, "Start-up" of its manual). A server that recovers, starts or stops accepts connections and
//! says 57P03 before it asks who we are, so that no account is needed to tell.

/// A start-up message of a user that need not exist.
pub fn start_up() -> Vec<u8> {
    const VERSION: u32 = 3 << 16;
    let mut body = VERSION.to_be_bytes().to_vec();
    for word in ["user", "metis", "database", "postgres", ""] {
        body.extend_from_slice(word.as_bytes());
        body.push(0);
    }
    let length = u32::try_from(body.len() + 4).unwrap_or(0);
    [length.to_be_bytes().to_vec(), body].concat()
}

/// Whether the first message is there as a whole.
pub fn is_whole(words: &[u8]) -> bool {
    words.first_chunk::<5>().is_some_and(|head| {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        words.len() > length as usize
    })
}

/// Why its answer is not that of a server that takes connections (PQping(3): any other error than 57P03 comes from one that does). One
/// that has no slot left takes none either.
pub fn trouble(words: &[u8]) -> Option<String> {
    match words.first() {
        None => Some("closed the connection without a word".to_owned()),
        Some(b'R') if words.len() >= 9 => None,
        Some(b'E') if is_whole(words) => match (field(words, b'C').as_deref(), field(words, b'M').unwrap_or_default()) {
            (Some(code @ ("57P03" | "53300")), message) => Some(format!("takes no connection ({code}: {message})")),
            (Some(code), _) if code.len() == 5 => None,
            (_, message) => Some(format!("refuses with an error that is not PostgreSQL's: {message}")),
        },
        Some(_) => Some("does not speak PostgreSQL's protocol".to_owned()),
    }
}

/// A field of an ErrorResponse, bounded and on one line.
fn field(words: &[u8], wanted: u8) -> Option<String> {
    let fields = words.get(5..)?.split(|byte| *byte == 0);
    let found = fields.filter_map(|field| field.split_first()).find(|(kind, _)| **kind == wanted)?;
    Some(String::from_utf8_lossy(found.1).chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect())
}
