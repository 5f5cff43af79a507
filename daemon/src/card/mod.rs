//! Recovery cards: plan, image, injection, device.

mod bytes;
pub mod demo;
pub mod device;
mod ext;
pub mod image;
pub mod inject;
mod layout;
mod media;
pub mod merge;
pub mod plan;
mod prepared;
mod settings;

pub use layout::{FatBits, FileSystem, FsKind, Layout, LayoutError, Partition, PartitionType, Table};
pub use media::{FileImage, MemImage};
pub use prepared::{Extent, InjectedFile, Prepared, ReadAt, Verified};
pub use settings::Settings;

#[cfg(test)]
mod testing;
