//! Nouns that every room shares: pure data, no effects, no imports from other rooms.

mod cause;
mod claim;
mod gate;
mod guard;
mod host;
mod ids;
mod inventory;
mod now;
mod peer;
mod power;
mod repair;
mod secret;
mod service;
pub mod step;

pub use cause::{Cause, Learned};
pub use claim::{Change, Claim, Mark, ObjectRef};
pub use gate::{Gate, Judged};
pub use guard::{Guard, Progress};
pub use host::{Access, Host, HostSettings, Returns, Topology};
pub use ids::{BootId, ClassName, DomainName, NodeName, RunId, SettingsDigest, StepId, UpsName};
pub use inventory::{
    Arch, Class, HostKeyAlgorithm, ImageRef, Inventory, JournaldSettings, K3sRole, K3sSettings, MergedNode, NetworkRenderer,
    NetworkSettings, Node, NodeSettings, SeedPlace, SshSettings, SshUser,
};
pub use now::Now;
pub use peer::{Answer, Asker, Doing, Ended, Intent, LeaseRecord, LeaseView, Word, is_shutdown};
pub use power::{OnBoot, OnTrigger, PowerDomain, Reading, Verdict};
pub use repair::{Repair, RepairCase};
pub use secret::{Secret, SecretRef};
pub use service::{Scheme, Service, ServiceKind, Target};
pub use step::Step;
