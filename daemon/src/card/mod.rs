//! Recovery cards: plan, image, injection, device.

mod prepared;
mod settings;

pub use prepared::{Extent, InjectedFile, Prepared, ReadAt, Verified};
pub use settings::Settings;
