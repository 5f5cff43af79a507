//! Who is who in the plane: certificates, tokens, kubeconfigs.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::sh;

/// The users of the token file, each with its groups. The audit log shows them by these names.
const USERS: [&str; 6] = ["admin", "kube-controller-manager", "kube-scheduler", "kwok", "flux", "actor"];

/// The CA, the API server's certificate, the service accounts' key and a token for everybody.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    tokens: Vec<(&'static str, String)>,
    /// The CA's certificate, PEM.
    pub ca: String,
}

impl Identity {
    /// Makes all of it in `dir`, the certificate for these names and addresses.
    ///
    /// # Errors
    /// Where openssl fails.
    pub fn make(dir: &Path, names: &[String]) -> Result<Self> {
        let alternative: Vec<String> = names
            .iter()
            .map(|name| if name.parse::<std::net::IpAddr>().is_ok() { format!("IP:{name}") } else { format!("DNS:{name}") })
            .collect();
        let script = r#"
            key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
            key ca.key; key server.key; key accounts.key
            openssl req -x509 -new -key ca.key -days 2 -out ca.pem -subj '/CN=lab' -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
            openssl req -new -key server.key -out server.csr -subj /CN=kube-apiserver
            printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$NAMES" >ext
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem 2>/dev/null
        "#;
        sh(&format!("NAMES={}\n{script}", alternative.join(",")), dir)?;
        let tokens = USERS.iter().map(|user| Ok((*user, random_hex(16)?))).collect::<Result<Vec<_>>>()?;
        let lines: Vec<String> = tokens.iter().map(|(user, token)| format!("{token},{user},{user},\"system:masters\"\n")).collect();
        std::fs::write(dir.join("tokens.csv"), lines.concat())?;
        let ca = std::fs::read_to_string(dir.join("ca.pem"))?;
        Ok(Self { dir: dir.to_owned(), tokens, ca })
    }

    /// The token of one of the plane's users.
    ///
    /// # Errors
    /// Where there is no such user.
    pub fn token(&self, user: &str) -> Result<&str> {
        let found = self.tokens.iter().find(|(name, _)| *name == user);
        Ok(&found.with_context(|| format!("the plane has no user {user}"))?.1)
    }

    /// Writes a kubeconfig and gives its path.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn kubeconfig(&self, user: &str, url: &str, token: &str) -> Result<PathBuf> {
        let path = self.dir.join(format!("{user}.kubeconfig"));
        self.write_kubeconfig(&path, user, url, token)?;
        Ok(path)
    }

    /// Writes a kubeconfig for a server at `url` to `path`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, user: &str, url: &str, token: &str) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let ca = sh(&format!("base64 -w0 {}", self.dir.join("ca.pem").display()), &self.dir)?;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  cluster: {{server: \"{url}\", certificate-authority-data: {ca}}}\nusers:\n- name: {user}\n  user: {{token: \"{token}\"}}\ncontexts:\n- name: lab\n  context: {{cluster: lab, user: {user}}}\n"
        );
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| path.display().to_string())
    }
}

/// Random bytes in hexadecimal.
///
/// # Errors
/// Where the kernel gives none.
pub(super) fn random_hex(bytes: usize) -> Result<String> {
    use std::fmt::Write as _;
    let mut raw = vec![0; bytes];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut raw)?;
    let mut text = String::new();
    for byte in &raw {
        write!(text, "{byte:02x}")?;
    }
    ensure!(text.len() == 2 * bytes);
    Ok(text)
}
