//! The end of an output, bounded.

/// Of each output so many bytes are kept, the last ones.
pub const KEPT: usize = 64 << 10;

/// The last [`KEPT`] bytes of something.
#[derive(Debug, Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// Of a text.
    #[cfg(test)]
    pub fn of(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// Adds to it.
    pub fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        if self.0.len() > 2 * KEPT {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let over = self.0.len().saturating_sub(KEPT);
        self.0.drain(..over);
    }

    /// As text, at most [`KEPT`] bytes of it.
    pub fn into_text(mut self) -> String {
        self.trim();
        let mut text = String::from_utf8_lossy(&self.0).into_owned();
        // A cut or foreign character became one of three bytes.
        let over = text.len().saturating_sub(KEPT);
        let at = (over..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        text.drain(..at);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_end_of_an_output_is_kept(parts in prop::collection::vec(0_usize..50_000, 0..12), byte in any::<u8>()) {
            let mut tail = Tail::default();
            let mut all = Vec::new();
            for (at, length) in parts.into_iter().enumerate() {
                let part = vec![byte.wrapping_add(at as u8); length];
                all.extend_from_slice(&part);
                tail.push(&part);
                prop_assert!(tail.0.len() <= 2 * KEPT);
            }
            let text = tail.into_text();
            prop_assert!(text.len() <= KEPT);
            if all.is_ascii() {
                prop_assert_eq!(text.as_bytes(), &all[all.len().saturating_sub(KEPT)..]);
            }
        }
    }
}
