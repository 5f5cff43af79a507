//! References to secrets. What stands in such a place is never shown: it may be the secret itself.

use crate::config::cursor::Slot;
use crate::config::tree::{Entry, Value};
use crate::config::values::absolute;
use crate::site::SecretRef;

/// `{ file: /path }` or `{ credential: name }`.
pub fn secret(slot: &Slot<'_>) -> Option<SecretRef> {
    slot.with_replaced(|slot| {
        let reference = match &slot.node.value {
            Value::Refused => return None,
            Value::Map(entries) => reference(entries),
            _ => None,
        };
        if reference.is_none() {
            slot.error(
                "must say where the secret is kept, not the secret itself: { file: /absolute/path } or { credential: name } \
                 (what stands here is not shown)",
            );
        }
        reference
    })
}

fn reference(entries: &[Entry]) -> Option<SecretRef> {
    let [entry] = entries else { return None };
    let Value::Scalar(scalar) = &entry.node.value else { return None };
    match entry.key.as_str() {
        "file" => absolute(&scalar.text).map(SecretRef::File),
        "credential" if is_credential_name(&scalar.text) => Some(SecretRef::Credential(scalar.text.clone())),
        _ => None,
    }
}

/// systemd.exec(5): a valid file name.
fn is_credential_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !text.is_empty() && text.len() <= 255 && text.chars().all(inner) && !text.starts_with('.')
}
