//! Lines of the protocol: words, quotes, escapes (NUT's parseconf rules).

/// Longest line that is accepted, line end not counted. upsd's own are under 2 KiB.
pub const MAX_LINE: usize = 8 * 1024;

/// Why bytes are not a line, or text cannot be sent as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A quoted word does not end.
    #[error("a quoted word does not end")]
    Unterminated,
    /// A backslash stands last.
    #[error("nothing follows the last backslash")]
    DanglingEscape,
    /// NUT has no way to say a control character.
    #[error("control characters cannot be sent to upsd")]
    Control,
    /// Longer than [`MAX_LINE`].
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
}

/// Splits a line into words. A backslash takes the next byte as it is, inside quotes and outside (`\"`, `\\`, and upsd's `\=` and `\#`).
/// Bytes that are not UTF-8 become U+FFFD: one odd byte in a model name must not hide the battery.
pub fn words(line: &[u8]) -> Result<Vec<String>, LineError> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                let escaped = bytes.next().ok_or(LineError::DanglingEscape)?;
                word.get_or_insert_default().push(escaped);
            }
            b'"' => {
                quoted = !quoted;
                // An empty pair of quotes is a word, too.
                word.get_or_insert_default();
            }
            _ if byte.is_ascii_whitespace() && !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    if quoted {
        return Err(LineError::Unterminated);
    }
    words.extend(word);
    Ok(words.into_iter().map(|word| String::from_utf8_lossy(&word).into_owned()).collect())
}

/// Appends `word` to `line`, after a space, quoted and escaped. upsd takes `#` inside quotes for a comment that breaks the word, hence `\#`.
pub fn quote(word: &[u8], line: &mut Vec<u8>) -> Result<(), LineError> {
    if word.iter().any(u8::is_ascii_control) {
        return Err(LineError::Control);
    }
    if word.len() > MAX_LINE / 2 {
        return Err(LineError::TooLong);
    }
    line.extend_from_slice(b" \"");
    for byte in word {
        if matches!(byte, b'"' | b'\\' | b'#' | b'=') {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    line.push(b'"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_real_upsds() {
        let table: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"OK\r", &["OK"]),
            (b"ERR DATA-STALE", &["ERR", "DATA-STALE"]),
            (br#"VAR ups ups.status "OB LB DISCHRG""#, &["VAR", "ups", "ups.status", "OB LB DISCHRG"]),
            (br#"UPS ups """#, &["UPS", "ups", ""]),
            (br#"VAR u m "say \"hi\" \\ \= \# x""#, &["VAR", "u", "m", r#"say "hi" \ = # x"#]),
            (br#"VAR u a.b\=c "1""#, &["VAR", "u", "a.b=c", "1"]),
            (b"VAR u m \"caf\xe9\"", &["VAR", "u", "m", "caf\u{fffd}"]),
            (b"  two   spaces\tand tab ", &["two", "spaces", "and", "tab"]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line).unwrap(), *expected, "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(words(br#"VAR u m "never ends"#), Err(LineError::Unterminated));
        assert_eq!(words(br#"VAR u m "x\"#), Err(LineError::DanglingEscape));
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for word in [b"a\nLOGOUT".as_slice(), b"a\0b", b"\x7f", b"\t"] {
            assert_eq!(quote(word, &mut Vec::new()), Err(LineError::Control));
        }
        assert_eq!(quote(&vec![b'x'; MAX_LINE], &mut Vec::new()), Err(LineError::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_bytes_are_a_line_or_an_error(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = words(&line);
        }

        #[test]
        fn what_is_quoted_is_one_word_again(text in "[ -~äß€]{0,60}") {
            let mut line = b"PASSWORD".to_vec();
            quote(text.as_bytes(), &mut line).unwrap();
            prop_assert_eq!(words(&line).unwrap(), vec!["PASSWORD".to_owned(), text]);
        }
    }
}
