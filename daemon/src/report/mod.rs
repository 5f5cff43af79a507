//! Pure: a finished run to a report.
