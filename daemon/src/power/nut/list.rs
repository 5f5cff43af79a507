//! Pure: the lines of a `LIST` answer, from `BEGIN` to `END`, bounded.

use super::error::ErrCode;
use super::line::words;

/// Longest list in lines; a large UPS has some 200 variables.
pub const MAX_LIST_ROWS: usize = 4096;
/// Longest list in bytes.
pub const MAX_LIST_BYTES: usize = 512 * 1024;

/// Collects one `LIST` answer.
#[derive(Debug)]
pub struct List {
    head: Vec<String>,
    begun: bool,
    rows: Vec<Vec<String>>,
    lines: usize,
    bytes: usize,
}

/// What a line did to the list.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    /// More to come.
    More,
    /// That was its end.
    Done,
}

/// Why a line does not belong to the list.
#[derive(Debug, PartialEq, Eq)]
pub enum ListError {
    /// `ERR …` in its place.
    Refused(ErrCode),
    /// Too many lines or bytes.
    TooLong,
    /// Something else in its place.
    Unexpected,
}

impl List {
    /// For the answer to `LIST <kind> <args…>`.
    pub fn new(kind: &str, args: &[&str]) -> Self {
        let head = std::iter::once(kind).chain(args.iter().copied()).map(str::to_owned).collect();
        Self { head, begun: false, rows: Vec::new(), lines: 0, bytes: 0 }
    }

    /// Takes the next line.
    pub fn feed(&mut self, line: &[u8]) -> Result<Fed, ListError> {
        self.lines += 1;
        self.bytes += line.len();
        if self.lines > MAX_LIST_ROWS || self.bytes > MAX_LIST_BYTES {
            return Err(ListError::TooLong);
        }
        let Ok(words) = words(line) else {
            // Framing is by line: a row that cannot be read costs one variable, not the reading.
            return if self.begun { Ok(Fed::More) } else { Err(ListError::Unexpected) };
        };
        match words.first().map(String::as_str) {
            Some("ERR") => Err(ListError::Refused(ErrCode::parse(words.get(1).map_or("", String::as_str)))),
            Some("BEGIN") if !self.begun && self.is_bracket(&words) => {
                self.begun = true;
                Ok(Fed::More)
            }
            Some("END") if self.begun && self.is_bracket(&words) => Ok(Fed::Done),
            Some(_) if self.begun && words.starts_with(&self.head) => {
                self.rows.push(words[self.head.len()..].to_vec());
                Ok(Fed::More)
            }
            _ => Err(ListError::Unexpected),
        }
    }

    /// The rows, without the words that they all start with.
    pub fn into_rows(self) -> Vec<Vec<String>> {
        self.rows
    }

    fn is_bracket(&self, words: &[String]) -> bool {
        words.get(1).is_some_and(|word| word == "LIST") && words.get(2..).is_some_and(|rest| rest == self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(lines: &[&str]) -> (List, Result<Fed, ListError>) {
        let mut list = List::new("VAR", &["ups"]);
        let mut last = Ok(Fed::More);
        for line in lines {
            last = list.feed(line.as_bytes());
        }
        (list, last)
    }

    #[test]
    fn rows_are_collected() {
        let (list, end) = feed(&["BEGIN LIST VAR ups", r#"VAR ups a "1""#, r#"VAR ups bad "x"#, r#"VAR ups b "2""#, "END LIST VAR ups"]);
        assert_eq!(end, Ok(Fed::Done));
        assert_eq!(list.into_rows(), [["a", "1"], ["b", "2"]]);
    }

    #[test]
    fn what_does_not_belong_is_an_error() {
        assert_eq!(feed(&["ERR DATA-STALE"]).1, Err(ListError::Refused(ErrCode::DataStale)));
        assert_eq!(feed(&["ERR"]).1, Err(ListError::Refused(ErrCode::Other(String::new()))));
        let wrong = [&["OK"][..], &[""], &[r#"VAR ups a "1""#], &["BEGIN LIST VAR other"], &["BEGIN LIST VAR ups", r#"VAR other a "1""#]];
        for lines in wrong {
            assert_eq!(feed(lines).1, Err(ListError::Unexpected), "{lines:?}");
        }
    }

    #[test]
    fn a_list_without_end_is_cut() {
        let mut list = List::new("VAR", &["ups"]);
        assert_eq!(list.feed(b"BEGIN LIST VAR ups"), Ok(Fed::More));
        let end = (0..=MAX_LIST_ROWS).map(|_| list.feed(br#"VAR ups a "1""#)).find(|fed| *fed != Ok(Fed::More));
        assert_eq!(end, Some(Err(ListError::TooLong)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_lines_are_taken(lines in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            "(BEGIN LIST |END LIST |ERR |)(VAR|UPS)( ups)?( [a-z.\\\\\"]{0,8})?".prop_map(String::into_bytes),
        ], 0..40)) {
            let mut list = List::new("VAR", &["ups"]);
            for line in &lines {
                let _ = list.feed(line);
            }
            prop_assert!(list.into_rows().len() <= lines.len());
        }
    }
}
