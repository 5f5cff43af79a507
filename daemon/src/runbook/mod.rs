//! Pure: plans as data, and the runner over them. Knows no domain words.
