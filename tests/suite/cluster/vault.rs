//! Vault behind a real API server: each pod at its own address, unsealed with keys that nothing shows.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use metis_tests::plane::{Options, Plane, available};
use metis_tests::vault::{Identity, NAME, PORT, Server, StandIn};
use metisd::cluster::port::Vault as _;
use metisd::cluster::vault::{KeySource, Reach, RealVault, Stream, UnsealError, VaultPod, VaultSettings, VaultTls, Via, judge, sealed};
use metisd::host::break_glass;
use metisd::secrets;
use metisd::site::{Judged, SecretRef};
use serde_json::json;

use super::*;

const WRONG: [&str; 3] = [
    "d3JvbmctMS13cm9uZy0xLXdyb25nLTEtd3JvbmctMS13cg==",
    "d3JvbmctMi13cm9uZy0yLXdyb25nLTItd3JvbmctMi13cg==",
    "d3JvbmctMy13cm9uZy0zLXdyb25nLTMtd3JvbmctMy13cg==",
];

/// Pods on a plane, each with a Vault of its own.
struct Site {
    plane: Plane,
    metis: Metis,
    dir: tempfile::TempDir,
    identity: Identity,
}

impl Site {
    fn start() -> Self {
        let plane = Plane::start(&Options::default()).unwrap();
        plane.nodes(&["titan-13"], &[]).unwrap();
        plane.kubectl(&["create", "namespace", "vault"]).unwrap();
        let metis = Metis::of(&plane);
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::make(dir.path()).unwrap();
        Self { plane, metis, dir, identity }
    }

    /// A pod whose kubelet says that it runs at that address.
    fn pod(&self, name: &str, server: &dyn Server, restarts: u32) {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: vault, labels: {{component: server}}}}\nspec: {{nodeName: titan-13, containers: [{{name: vault, image: vault}}]}}\n"
        );
        self.plane.apply(&pod).unwrap();
        let status = json!({ "status": {
            "phase": "Running", "podIP": server.address().ip().to_string(), "podIPs": [{ "ip": server.address().ip().to_string() }],
            "containerStatuses": [{ "name": "vault", "image": "vault", "imageID": "", "ready": true, "restartCount": restarts }],
        } });
        let path = format!("/api/v1/namespaces/vault/pods/{name}/status");
        self.plane.api().unwrap().merge(&path, &status).unwrap();
    }

    fn settings(&self, pods: u32) -> VaultSettings {
        VaultSettings {
            namespace: "vault".to_owned(),
            selector: "component=server".to_owned(),
            pods,
            port: PORT,
            tls: Some(VaultTls { ca_file: Some(self.identity.ca()), server_name: NAME.to_owned() }),
            via: Via::Direct,
            keys: None,
            break_glass: Vec::new(),
            break_glass_timeout: seconds(20),
            timeout: seconds(60),
        }
    }

    fn vault(&self, settings: &VaultSettings, sources: Vec<KeySource>) -> RealVault {
        let dial =
            Arc::new(|pod: VaultPod, port: u16, _: Duration| -> futures::future::BoxFuture<'static, Result<Box<dyn Stream>, String>> {
                Box::pin(async move {
                    let stream = tokio::net::TcpStream::connect((pod.address.unwrap(), port)).await.map_err(|error| error.to_string())?;
                    Ok(Box::new(stream) as Box<dyn Stream>)
                })
            });
        self.metis.cluster.vault(settings, Reach { dial, sources })
    }

    /// A file of keys as a person makes it.
    fn file(&self, name: &str, keys: &[String]) -> KeySource {
        let path = self.dir.path().join(name);
        std::fs::write(&path, keys.join("\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        from_file(path)
    }

    /// A command that prints them, and what it finds of itself in /proc.
    fn command(&self, keys: &[String]) -> KeySource {
        let released = self.dir.path().join("released");
        std::fs::write(&released, keys.join("\n")).unwrap();
        let command = vec!["/bin/cat".to_owned(), released.display().to_string()];
        let read = Arc::new(move |within: Duration| -> futures::future::BoxFuture<'static, Result<Secret, String>> {
            let command = command.clone();
            Box::pin(async move { break_glass::printed(&command, within).await })
        });
        KeySource { name: "the break-glass command".to_owned(), read, once: true }
    }

    fn look(&self, vault: &RealVault, pods: u32) -> (Judged, Vec<VaultPod>) {
        let seen = self.metis.run(vault.look(seconds(20))).unwrap();
        (judge(&seen, pods), sealed(&seen))
    }

    fn unseal(&self, vault: &RealVault, pods: &[VaultPod]) -> Vec<Result<String, UnsealError>> {
        self.metis.run(vault.unseal(pods, seconds(60))).into_iter().map(|(_, done)| done).collect()
    }
}

fn from_file(path: PathBuf) -> KeySource {
    let reference = SecretRef::File(path);
    let name = reference.to_string();
    let read = Arc::new(move |_: Duration| -> futures::future::BoxFuture<'static, Result<Secret, String>> {
        let found = secrets::resolve(&reference, &secrets::Context::default()).map_err(|error| error.to_string());
        Box::pin(async move { found })
    });
    KeySource { name, read, once: false }
}

fn wrong() -> Vec<String> {
    WRONG.map(ToOwned::to_owned).to_vec()
}

fn green(judged: &Judged) -> bool {
    matches!(judged, Judged::Ready(_))
}

/// From sealed to unsealed, by every way there is.
fn goes_through_all_of_it(site: &Site, servers: &mut [Box<dyn Server>]) {
    let count = servers.len() as u32;
    for (at, server) in servers.iter().enumerate() {
        site.pod(&format!("vault-{at}"), server.as_ref(), 0);
    }
    let keys: Vec<Vec<String>> = servers.iter().map(|server| server.keys().to_vec()).collect();
    let all: Vec<String> = keys.concat();
    let hidden = |text: &str| assert!(!all.iter().any(|key| text.contains(key.as_str())), "{text}");
    let settings = site.settings(count);
    let idle = site.vault(&settings, Vec::new());
    let (judged, pods) = site.look(&idle, count);
    assert!(matches!(judged, Judged::NotReady { done: 0, .. }) && pods.len() == servers.len(), "{judged:?}");
    assert!(matches!(&site.unseal(&idle, &pods[..1])[0], Err(UnsealError::Keys(why)) if why.contains("no keys")));

    // Keys that are nobody's: said so, and nothing of them. Then the command that prints the right ones, which is asked after the file.
    let vault = site.vault(&settings, vec![site.file("wrong", &wrong())]);
    let done = site.unseal(&vault, &pods[..1]);
    let Err(UnsealError::Keys(why)) = &done[0] else { panic!("{done:?}") };
    assert!(why.contains("file:") && why.contains("no 3 of these 3 keys") && !why.contains(WRONG[0]), "{why}");
    assert_eq!(servers[0].status().unwrap()["progress"], 0);
    let vault = site.vault(&settings, vec![site.file("wrong", &wrong()), site.command(&keys[0])]);
    let done = site.unseal(&vault, &pods[..1]);
    assert_eq!(done, [Ok("unsealed with the keys of the break-glass command".to_owned())]);
    let (judged, left) = site.look(&vault, count);
    assert_eq!((left.len(), green(&judged)), (servers.len() - 1, servers.len() == 1), "{judged:?}");

    // The others by a file of mode 0600: one stale key among them, and somebody else's progress under way.
    for (at, pod) in left.iter().enumerate() {
        let server = &servers[at + 1];
        let mut mixed = vec![WRONG[0].to_owned()];
        mixed.extend_from_slice(server.keys());
        let vault = site.vault(&settings, vec![site.file("keys", &mixed)]);
        server.give(&server.keys()[4]).unwrap();
        assert_eq!(server.status().unwrap()["progress"], 1);
        let done = site.unseal(&vault, std::slice::from_ref(pod));
        assert!(done[0].as_ref().is_ok_and(|how| how.contains("unsealed with the keys of file:")), "{done:?}");
        hidden(&format!("{done:?}"));
    }
    assert!(green(&site.look(&idle, count).0), "{:?}", site.look(&idle, count));
    assert!(!green(&site.look(&idle, count + 1).0), "one pod is not there yet");

    // Started again, it is sealed again, and another cause.
    let before = site.metis.run(idle.look(seconds(20))).unwrap();
    servers[0].restart().unwrap();
    site.pod("vault-0", servers[0].as_ref(), 1);
    let (judged, pods) = site.look(&idle, count);
    assert!(
        matches!(&judged, Judged::NotReady { why, done } if why.contains("vault-0 is sealed") && *done == u64::from(count) - 1),
        "{judged:?}"
    );
    assert!(before.iter().all(|seen| seen.pod.cause() != pods[0].cause()));
    let vault = site.vault(&settings, vec![site.file("keys", &keys[0])]);
    assert!(site.unseal(&vault, &pods)[0].is_ok());
    assert!(green(&site.look(&idle, count).0));
    // Sealed by a person: the same start.
    servers[0].seal().unwrap();
    let (_, again) = site.look(&idle, count);
    assert_eq!(again[0].cause(), pods[0].cause());
    assert!(site.unseal(&vault, &again)[0].is_ok());

    // A file that others can read is no source of keys.
    std::fs::set_permissions(site.dir.path().join("keys"), PermissionsExt::from_mode(0o644)).unwrap();
    servers[0].restart().unwrap();
    let open = site.vault(&settings, vec![from_file(site.dir.path().join("keys"))]);
    let done = site.unseal(&open, &pods);
    assert!(matches!(&done[0], Err(UnsealError::Passing(why)) if why.contains("0644")), "{done:?}");
}

#[test]
fn sealed_pods_are_unsealed_one_by_one() {
    if !available("unsealing Vault") {
        return;
    }
    let site = Site::start();
    let keys = |of: usize| (0..5).map(|at| format!("c3RhbmQtaW4ta2V5LW51bWJlci0xMjM0NTY3ODk{of}{at}")).collect::<Vec<_>>();
    let strangers = tempfile::tempdir().unwrap();
    let stranger = StandIn::start(&Identity::make(strangers.path()).unwrap(), &keys(9)).unwrap();
    // Who has that address now is signed by somebody else: nothing is told to him.
    site.pod("vault-9", &stranger, 0);
    let vault = site.vault(&site.settings(1), vec![site.file("keys", &keys(9))]);
    let (judged, pods) = site.look(&vault, 1);
    assert!(matches!(&judged, Judged::CannotTell(why) if why.contains("TLS")) && pods.is_empty(), "{judged:?}");
    let seen = site.metis.run(vault.look(seconds(20))).unwrap();
    assert!(matches!(&site.unseal(&vault, &[seen[0].pod.clone()])[0], Err(UnsealError::Passing(why)) if why.contains("TLS")));
    assert_eq!(stranger.received(), Vec::<String>::new());
    site.plane.kubectl(&["-n", "vault", "delete", "pod", "vault-9", "--force", "--grace-period=0"]).unwrap();

    let new = StandIn::start(&site.identity, &[]).unwrap();
    site.pod("vault-8", &new, 0);
    let (judged, pods) = site.look(&vault, 1);
    assert!(judged.text().contains("vault-8 is not initialised: that is a person's work") && pods.is_empty(), "{judged:?}");
    site.plane.kubectl(&["-n", "vault", "delete", "pod", "vault-8", "--force", "--grace-period=0"]).unwrap();

    let start = |of| Box::new(StandIn::start(&site.identity, &keys(of)).unwrap()) as Box<dyn Server>;
    goes_through_all_of_it(&site, &mut [start(0), start(1)]);
    // An API server that says nothing is no news of Vault.
    site.plane.freeze().unwrap();
    assert!(site.metis.run(vault.look(seconds(2))).is_err());
    site.plane.thaw().unwrap();
}
