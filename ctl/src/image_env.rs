//! `METIS_IMAGE_<CLASS>` and `METIS_IMAGE_<CLASS>_SHA256`: images for one request.

use std::collections::HashMap;
use std::ffi::OsString;

use crate::errors::CtlError;

/// Overrides by class name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Where the image comes from.
    pub images: HashMap<String, String>,
    /// SHA-256, hex, of it.
    pub sha256: HashMap<String, String>,
}

/// Reads them; an empty value counts as unset.
pub fn read(env: &[(OsString, OsString)]) -> Result<Overrides, CtlError> {
    let mut found = Overrides::default();
    for (name, value) in env {
        let Some(class) = name.to_str().and_then(|n| n.strip_prefix("METIS_IMAGE_")) else { continue };
        let value = value.to_str().ok_or_else(|| CtlError::Usage(format!("METIS_IMAGE_{class}: not UTF-8")))?;
        let (map, class) = match class.strip_suffix("_SHA256") {
            Some(class) => (&mut found.sha256, class),
            None => (&mut found.images, class),
        };
        if !value.is_empty() && !class.is_empty() {
            map.insert(class.to_ascii_lowercase().replace('_', "-"), value.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read_from_the_names() {
        let env = [
            ("METIS_IMAGE_RPI4_ARMBIAN_STD", "file:/srv/a.img.xz"),
            ("METIS_IMAGE_RPI4_ARMBIAN_STD_SHA256", "00ff"),
            ("METIS_IMAGE_EMPTY", ""),
            ("METIS_SOCKET", "/x"),
            ("PATH", "/bin"),
        ];
        let env: Vec<_> = env.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect();
        let class = "rpi4-armbian-std".to_owned();
        let expected = Overrides {
            images: HashMap::from([(class.clone(), "file:/srv/a.img.xz".to_owned())]),
            sha256: HashMap::from([(class, "00ff".to_owned())]),
        };
        assert_eq!(read(&env).unwrap(), expected);
    }
}
