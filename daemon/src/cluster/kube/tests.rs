//! Endpoints that refuse, hang, and answer nonsense; a kubeconfig that asks for too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::site::Secret;

/// An API server that gives these answers in turn, the last one for ever; `None`: no answer at all.
struct Fake {
    url: String,
    asked: Arc<AtomicUsize>,
}

/// Status with headers, and body.
type Reply = Option<(&'static str, &'static str)>;

async fn fake(answers: &'static [Reply]) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut buffer = [0u8; 8192];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    let turn = count.fetch_add(1, Ordering::Relaxed);
                    match answers[turn.min(answers.len() - 1)] {
                        Some((head, body)) => {
                            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                        None => std::future::pending().await,
                    }
                }
            });
        }
    });
    Fake { url, asked }
}

fn api(urls: &[&str], call_timeout: Duration) -> Api {
    let config = |url: &&str| {
        let mut config = kube::Config::new(url.parse().unwrap());
        config.default_retry = false;
        config
    };
    Api::new(urls.iter().map(config).collect(), call_timeout).unwrap()
}

const OK: Reply = Some(("200 OK\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT", "{}"));
const BUSY: Reply = Some(("429 Too Many Requests\r\nretry-after: 1", ""));
const BROKEN: Reply = Some(("500 Internal Server Error", ""));
const FORBIDDEN: Reply = Some(("403 Forbidden", r#"{"reason":"Forbidden","message":"not metis"}"#));
const CLOSED: &str = "http://127.0.0.1:1";

fn in_(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[tokio::test]
async fn the_endpoint_that_answered_last_is_asked_first() {
    let good = fake(&[OK]).await;
    let api = api(&[CLOSED, &good.url], Duration::from_secs(5));
    let call = Call::get("/x", &[]);
    let answer = api.ask(&call, in_(5)).await.unwrap();
    assert_eq!((answer.body.as_slice(), answer.date.unwrap().to_string().as_str()), (b"{}".as_slice(), "2026-11-21T12:00:00Z"));
    assert_eq!(api.good.load(Ordering::Relaxed), 1);
    api.ask(&call, in_(5)).await.unwrap();
    assert_eq!(good.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn one_that_hangs_leaves_the_other_its_share_and_loses_its_connections() {
    let (hung, good) = (fake(&[None]).await, fake(&[OK]).await);
    let api = api(&[&hung.url, &good.url], Duration::from_secs(60));
    let began = Instant::now();
    api.ask(&Call::get("/x", &[]), Instant::now() + Duration::from_secs(2)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(api.endpoints[0].client().0, 1, "a new client, with connections of its own");
}

#[tokio::test]
async fn none_that_answers_holds_a_caller_longer_than_he_says() {
    let hung = fake(&[None]).await;
    let api = api(&[&hung.url], Duration::from_millis(200));
    let began = Instant::now();
    let failure = api.ask(&Call::get("/x", &[]), Instant::now() + Duration::from_secs(1)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(matches!(failure, Failure::Silent(_)));
    assert!(failure.to_string().contains(&format!("{}: no answer within ", hung.url)), "{failure}");
    assert!(
        matches!(failure.error("cordon of n1"), crate::cluster::port::ClusterError::Unreachable(text) if text.starts_with("cordon of n1: no API server"))
    );
}

#[tokio::test]
async fn what_passes_is_waited_for_and_what_does_not_is_not() {
    let busy = fake(&[BUSY, BROKEN, OK]).await;
    let began = Instant::now();
    api(&[&busy.url], Duration::from_secs(5)).ask(&Call::get("/x", &[]), in_(10)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After is kept");
    assert_eq!(busy.asked.load(Ordering::Relaxed), 3);

    let refusing = fake(&[FORBIDDEN]).await;
    let failure = api(&[&refusing.url], Duration::from_secs(5)).ask(&Call::get("/x", &[]), in_(10)).await.unwrap_err();
    assert_eq!(refusing.asked.load(Ordering::Relaxed), 1);
    assert_eq!(failure.to_string(), format!("{} answers 403 not metis", refusing.url));
    assert!(failure.error("nodes").to_string().ends_with("apply etc/kubernetes/metis-rbac.yaml"));

    let broken = fake(&[BROKEN]).await;
    let failure = api(&[&broken.url], Duration::from_secs(5)).ask(&Call::get("/x", &[]), in_(1)).await.unwrap_err();
    assert!(matches!(failure, Failure::Silent(ref why) if why.contains("500 Internal Server Error")), "{failure}");
}

#[tokio::test]
async fn an_eviction_is_asked_once_and_5xx_goes_to_the_next_endpoint() {
    let (broken, busy) = (fake(&[BROKEN]).await, fake(&[BUSY]).await);
    let api = api(&[&broken.url, &busy.url], Duration::from_secs(5));
    let failure = api.once(&Call::get("/x", &[]), in_(5)).await.unwrap_err();
    assert_eq!((failure.code(), failure.retry_after()), (Some(429), Some(Duration::from_secs(1))));
    assert_eq!((broken.asked.load(Ordering::Relaxed), busy.asked.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let pages = fake(&[
        Some(("200 OK", r#"{"metadata":{"continue":"a=/"},"items":[1,2]}"#)),
        Some(("410 Gone", r#"{"reason":"Expired"}"#)),
        Some(("200 OK", r#"{"metadata":{"continue":"b"},"items":[1,2]}"#)),
        Some(("200 OK", r#"{"items":[3]}"#)),
    ])
    .await;
    let list: List<u32> = api(&[&pages.url], Duration::from_secs(5)).list("/x", &[], in_(5)).await.unwrap();
    assert_eq!(list.items, [1, 2, 3], "a list that was compacted away in between is begun anew");
    let endless = fake(&[Some(("200 OK", r#"{"metadata":{"continue":"a"},"items":[]}"#))]).await;
    let failure = api(&[&endless.url], Duration::from_secs(5)).list::<u32>("/x", &[], in_(60)).await.unwrap_err();
    assert!(failure.to_string().contains("more than 200 pages"), "{failure}");
    let nonsense = fake(&[Some(("200 OK", "<ok>"))]).await;
    let failure = api(&[&nonsense.url], Duration::from_secs(5)).list::<u32>("/x", &[], in_(5)).await.unwrap_err();
    assert!(failure.to_string().contains("GET /x: the answer is not understood"), "{failure}");
}

#[test]
fn paths_and_queries_are_those_of_the_api() {
    assert_eq!(path("v1", "", "nodes", "titan-13"), "/api/v1/nodes/titan-13");
    assert_eq!(path("apps/v1", "web", "daemonsets", "a"), "/apis/apps/v1/namespaces/web/daemonsets/a");
    assert_eq!(path("policy/v1", "", "poddisruptionbudgets", ""), "/apis/policy/v1/poddisruptionbudgets");
    assert_eq!(path("v1", "a b", "pods", "../x"), "/api/v1/namespaces/a%20b/pods/..%2Fx");
    let call = Call::get("/api/v1/pods", &[("fieldSelector", "spec.nodeName=n1"), ("limit", "500")]);
    assert_eq!(call.request().unwrap().uri(), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=500");
}

fn kubeconfig(cluster: &str, user: &str) -> Secret {
    Secret::new(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://10.0.0.1:6443'{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    ))
}

#[tokio::test]
async fn a_kubeconfig_gives_one_configuration_for_each_endpoint() {
    let endpoints = ["https://a:6443".to_owned(), "https://b:6443".to_owned()];
    let all = configs(&kubeconfig("", "token: t"), &endpoints, None).await.unwrap();
    assert_eq!(all.iter().map(|config| config.cluster_url.to_string()).collect::<Vec<_>>(), ["https://a:6443/", "https://b:6443/"]);
    assert!(all.iter().all(|config| !config.default_retry && config.connect_timeout == Some(Duration::from_secs(3))));
    let one = configs(&kubeconfig("", "token: t"), &[], None).await.unwrap();
    assert_eq!(one[0].cluster_url.to_string(), "https://10.0.0.1:6443/");
}

#[tokio::test]
async fn a_kubeconfig_that_asks_for_more_is_refused_and_never_shown() {
    let cases = [
        (kubeconfig(", insecure-skip-tls-verify: true", "token: t"), "insecure-skip-tls-verify"),
        (kubeconfig(", certificate-authority: /ca.pem", "token: t"), "names another file or a proxy"),
        (kubeconfig(", proxy-url: 'http://proxy'", "token: t"), "names another file or a proxy"),
        (kubeconfig("", "exec: {apiVersion: v1, command: hunter2}"), "credentials from a command"),
        (kubeconfig("", "tokenFile: /hunter2"), "names other files"),
        (kubeconfig("", "client-key: /hunter2"), "names other files"),
        (Secret::new("token: hunter2: ["), "is not valid YAML"),
        (Secret::new([0xff, 0xfe]), "is not valid YAML"),
        (Secret::new("apiVersion: v1\nkind: Config\n"), "cannot be used"),
    ];
    for (kubeconfig, expected) in cases {
        let error = configs(&kubeconfig, &[], None).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "expected {expected}, found {error}");
    }
    // A CA of one's own replaces the file that the kubeconfig names.
    let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = configs(&kubeconfig(", certificate-authority: /ca.pem", "token: t"), &[], Some(pem)).await.map(|all| all.len());
    assert_eq!(error, Ok(1));
}
