//! SQLite: versioned facts, runs, blobs; writer thread and reader.
