//! The plain enum of everything that metis can do. `app::perform` is its one interpreter.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ImageRef, NodeName};

/// One effect on the world. A step names what to do; secrets and bulk data are looked up when it is performed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Step {
    /// Brings a golden image into the cache: fetched, verified, ingested.
    FetchImage {
        /// What and from where.
        image: ImageRef,
    },
    /// Resolves secrets, renders the node's files and lays them over the image.
    PrepareCard {
        /// For whom.
        node: NodeName,
        /// The image, as in [`Step::FetchImage`].
        image: ImageRef,
        /// The golden image as it is.
        no_inject: bool,
    },
    /// Writes the prepared card to a device of this host and reads it back.
    WriteCard {
        /// As the caller named it.
        device: PathBuf,
        /// `diskseq` of the device when it was planned (`/sys/block/*/diskseq`); 0 where the kernel has none.
        diskseq: u64,
        /// Waives the guard against devices that are not removable.
        allow_fixed: bool,
    },
    /// Streams the prepared card to the caller, who writes it and reports back.
    StreamImage {
        /// Where the caller writes it to, for the record.
        target: String,
    },
}

impl Step {
    /// The step's kind as users see it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FetchImage { .. } => "image.fetch",
            Self::PrepareCard { .. } => "card.prepare",
            Self::WriteCard { .. } => "card.write",
            Self::StreamImage { .. } => "image.stream",
        }
    }
}
