//! Section `card` of the configuration, validated.

use std::path::PathBuf;

use serde::Serialize;

/// Section `card`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// `card.cache_dir`: golden images by digest.
    pub cache_dir: PathBuf,
    /// `card.free_space_floor`: bytes that must stay free on the cache's file system.
    pub free_space_floor: u64,
    /// `card.max_image_size`: an unpacked image may not be larger, in bytes.
    pub max_image_size: u64,
    /// `card.ca_file`: PEM file with the CAs trusted for `https:` images; absent: the host's.
    pub ca_file: Option<PathBuf>,
    /// `card.writer_socket`: socket of the card writer's unit; absent: the daemon starts a child process.
    pub writer_socket: Option<PathBuf>,
}
