//! The cluster: plans of a shutdown (pure), rules of a drain (pure), and the adapters for Kubernetes, Flux and Longhorn.

mod collect;
mod drain;
mod flux;
mod kube;
mod mark;
mod objects;
mod order;
pub mod port;
mod real;
mod settings;
pub mod shutdown;
#[cfg(test)]
mod tests;
mod volumes;

pub use kube::AccessError;
pub use mark::ANNOTATION;
pub use order::ShutdownOrder;
pub use real::{RIGHTS, RealCluster};
pub use settings::{Datastore, Protect, Settings, ShutdownMode, ShutdownSettings};
