//! Which units of this host's systemd are active (org.freedesktop.systemd1(5)). Reading is allowed to everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use zbus::{Connection, OwnedObjectPath, OwnedVariant};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: (&str, &str) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const NOT_LOADED: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What systemd says of some units.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Units {
    /// Active, or being started, reloaded or stopped.
    pub active: BTreeSet<String>,
    /// Could not be asked, with the reason.
    pub unknown: BTreeMap<String, String>,
}

/// Asks for each of them, all within `within`. Where systemd does not run (sd_booted(3)) no unit is active.
pub async fn ask(units: &BTreeSet<String>, within: Duration) -> Units {
    if !Path::new("/run/systemd/system").is_dir() {
        return Units::default();
    }
    let asked = async {
        let bus = Connection::system().await.map_err(|error| format!("no system bus: {error}"))?;
        let mut found = Units::default();
        for unit in units {
            match is_active(&bus, unit).await {
                Ok(true) => _ = found.active.insert(unit.clone()),
                Ok(false) => {}
                Err(why) => _ = found.unknown.insert(unit.clone(), why),
            }
        }
        Ok(found)
    };
    let late = || Err(format!("systemd did not answer within {} s", within.as_secs()));
    tokio::time::timeout(within, asked).await.unwrap_or_else(|_| late()).unwrap_or_else(|why: String| Units {
        active: BTreeSet::new(),
        unknown: units.iter().map(|unit| (unit.clone(), why.clone())).collect(),
    })
}

async fn is_active(bus: &Connection, unit: &str) -> Result<bool, String> {
    let path: OwnedObjectPath = match bus.call_method(Some(SYSTEMD), MANAGER.0, Some(MANAGER.1), "GetUnit", &(unit,)).await {
        Ok(reply) => reply.body().deserialize().map_err(|error| error.to_string())?,
        Err(zbus::Error::MethodError(name, _, _)) if name.as_str() == NOT_LOADED => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    let asked = ("org.freedesktop.systemd1.Unit", "ActiveState");
    let reply = bus.call_method(Some(SYSTEMD), &path, Some("org.freedesktop.DBus.Properties"), "Get", &asked).await;
    let value: OwnedVariant = reply.and_then(|reply| reply.body().deserialize()).map_err(|error| error.to_string())?;
    let state = String::try_from(value).map_err(|error| error.to_string())?;
    Ok(!matches!(state.as_str(), "inactive" | "failed" | "maintenance"))
}
