//! Names and identifiers as types, so that one cannot stand where another belongs.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }
    };
}

name!(
    /// A run, as people type it: kind and number, e.g. `burn-17`.
    RunId
);
name!(
    /// A step, unique within its run, e.g. `card.write`.
    StepId
);
name!(
    /// A node of the inventory, e.g. `titan-13`.
    NodeName
);
name!(
    /// A class of nodes of the inventory, e.g. `rpi4-armbian-longhorn`.
    ClassName
);
name!(
    /// A UPS as NUT names it: `ups@host[:port]`, e.g. `pyrphoros@localhost`.
    UpsName
);
name!(
    /// A power domain: what fails together, e.g. `pyrphoros`.
    DomainName
);
name!(
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
    BootId
);
name!(
    /// SHA-256, hex, of the settings that a run is pinned to.
    SettingsDigest
);
