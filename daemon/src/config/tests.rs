//! The loader as a whole.

use std::path::Path;

use super::*;

fn shipped(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc").join(name)
}

#[test]
fn shipped_files_are_valid_and_harmless() {
    let loaded = load(&shipped("metis.yaml"), None);
    assert!(loaded.is_ok(), "{}", check_report(&loaded));
    let settings = loaded.unwrap();
    assert_eq!(settings.power.on_trigger, crate::site::OnTrigger::Observe);
    assert_eq!(settings.daemon.host_role, HostRole::Observer);
    assert!(settings.power.upses.is_empty() && settings.api.roles.is_empty());
    assert_eq!(settings.inventory.nodes.len(), 11);
    assert!(settings.inventory.classes.values().all(|class| class.image.is_none()));
}
