//! Golden images: fetched, verified, kept in the cache in a form that is read at random and checked on every read.

pub mod extents;
