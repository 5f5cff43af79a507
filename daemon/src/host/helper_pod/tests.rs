//! Helper pods against an API that does as it is told, in virtual time.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use serde_json::json;

use super::*;
use crate::host::testing::ssh_host;
use crate::site::Access;

/// An API server and a kubelet in one.
#[derive(Default)]
struct Fake {
    state: Mutex<Model>,
}

#[derive(Default)]
struct Model {
    pods: BTreeMap<String, Value>,
    made: u32,
    removed: Vec<String>,
    /// `create`, `get`, `delete` or `of_node`: it hangs.
    hangs: Option<&'static str>,
    /// So many of the next looks fail.
    looks_fail: u32,
    /// What becomes of a pod, by the number of the look.
    course: Vec<Value>,
    looks: usize,
}

impl Fake {
    fn with(course: Vec<Value>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Model { course, ..Model::default() }) })
    }

    fn now(&self) -> MutexGuard<'_, Model> {
        self.state.lock().unwrap()
    }

    async fn hang(&self, verb: &str) {
        let hangs = self.now().hangs;
        if hangs == Some(verb) {
            std::future::pending::<()>().await;
        }
    }

    fn put(&self, name: &str, holder: Option<&str>, status: Value) {
        let mut labels = json!({});
        if let Some(holder) = holder {
            labels[manifest::HOLDER] = json!(holder);
        }
        let pod = json!({ "metadata": { "name": name, "labels": labels }, "status": status });
        self.now().pods.insert(name.to_owned(), pod);
    }
}

#[tonic::async_trait]
impl Pods for Fake {
    async fn create(&self, pod: &Value, _within: Duration) -> Result<(), HostError> {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let mut made = pod.clone();
        made["status"] = json!({ "phase": "Pending" });
        // The request arrives in any case.
        self.now().pods.insert(name, made);
        self.now().made += 1;
        self.hang("create").await;
        Ok(())
    }

    async fn get(&self, name: &str, _within: Duration) -> Result<Option<Value>, HostError> {
        self.hang("get").await;
        let mut now = self.now();
        if now.looks_fail > 0 {
            now.looks_fail -= 1;
            return Err(HostError::Unreachable("no API server answers".to_owned()));
        }
        let look = now.looks.min(now.course.len().saturating_sub(1));
        now.looks += 1;
        let status = now.course.get(look).cloned();
        if status == Some(Value::Null) {
            now.pods.remove(name);
        }
        if let (Some(pod), Some(status)) = (now.pods.get_mut(name), status) {
            pod["status"] = status;
        }
        Ok(now.pods.get(name).cloned())
    }

    async fn of_node(&self, _node: &str, _labels: &str, _within: Duration) -> Result<Vec<Value>, HostError> {
        self.hang("of_node").await;
        Ok(self.now().pods.values().cloned().collect())
    }

    async fn delete(&self, name: &str, _within: Duration) -> Result<(), HostError> {
        self.hang("delete").await;
        let mut now = self.now();
        now.pods.remove(name);
        now.removed.push(name.to_owned());
        Ok(())
    }
}

fn container(state: Value) -> Value {
    json!({ "phase": "Running", "containerStatuses": [{ "name": "helper", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": state }] })
}

fn running() -> Value {
    container(json!({ "running": {} }))
}

fn ended(code: i32) -> Value {
    container(json!({ "terminated": { "exitCode": code, "message": "out\n\n--- stderr ---\nerr\n" } }))
}

fn host() -> Host {
    Host { access: Access::HelperPod, ..ssh_host("127.0.0.1", 22) }
}

fn command() -> Command {
    Command { argv: vec!["true".to_owned()], root: true }
}

const WITHIN: Duration = Duration::from_secs(20);

/// Runs a command; how it ended, and after what time.
async fn run(fake: &Arc<Fake>) -> (Result<Output, HostError>, Duration) {
    let helper = HelperPod::new(Arc::clone(fake) as _, "image");
    let began = Instant::now();
    let done = helper.run(&host(), &command(), WITHIN).await;
    let took = began.elapsed();
    // Removals go on beside it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    (done, took)
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_made_watched_and_removed() {
    let fake = Fake::with(vec![json!({ "phase": "Pending" }), running(), ended(0)]);
    let (done, took) = run(&fake).await;
    assert_eq!(done, Ok(Output { stdout: "out\n".to_owned(), stderr: "err\n".to_owned() }));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(fake.now().pods.is_empty() && fake.now().removed.len() == 1 && fake.now().made == 1);

    let (failed, _) = run(&Fake::with(vec![ended(7)])).await;
    assert_eq!(failed, Err(HostError::Failed("titan-13: the command of the helper pod ended with status 7: err".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_the_time_is_kept_and_the_pod_removed() {
    for hangs in ["create", "get", "of_node"] {
        let fake = Fake::with(vec![running()]);
        fake.now().hangs = Some(hangs);
        let (failed, took) = run(&fake).await;
        assert!(failed.is_err() && took <= WITHIN + Duration::from_millis(1), "{hangs}: {failed:?} after {took:?}");
        assert_eq!(
            fake.now().removed.len(),
            usize::from(hangs != "of_node"),
            "{hangs}: a pod whose creation was not answered may be there"
        );
    }
    // Its removal hangs: whoever waits for the command does not wait for that.
    let fake = Fake::with(vec![ended(0)]);
    fake.now().hangs = Some("delete");
    let (done, took) = run(&fake).await;
    assert!(done.is_ok() && took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_end_is_told_from_one_that_does_not_begin() {
    let (failed, took) = run(&Fake::with(vec![running()])).await;
    assert!(matches!(&failed, Err(HostError::TimedOut(why)) if why.contains("may still run")), "{failed:?}");
    assert!(took >= WITHIN && took <= WITHIN + Duration::from_millis(1), "{took:?}");
    let (failed, _) = run(&Fake::with(vec![json!({ "phase": "Pending" })])).await;
    assert!(matches!(&failed, Err(HostError::Unreachable(why)) if why.contains("is the kubelet of titan-13 up?")), "{failed:?}");
    let pull = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image \"image\"" } });
    let (failed, took) = run(&Fake::with(vec![container(pull)])).await;
    assert!(
        matches!(&failed, Err(HostError::Failed(why)) if why.contains("Back-off pulling image")) && took < Duration::from_secs(1),
        "{failed:?}"
    );
    let late = json!({ "phase": "Failed", "reason": "DeadlineExceeded" });
    assert!(matches!(run(&Fake::with(vec![late])).await.0, Err(HostError::TimedOut(_))));
    let (failed, _) = run(&Fake::with(vec![running(), Value::Null])).await;
    assert!(matches!(&failed, Err(HostError::Failed(why)) if why.contains("removed by somebody else")), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_away_for_a_while_is_waited_for() {
    let fake = Fake::with(vec![ended(0)]);
    fake.now().looks_fail = 10;
    let (done, took) = run(&fake).await;
    assert!(done.is_ok() && took >= Duration::from_secs(5), "{done:?} {took:?}");
    // To the end: what it says then is that there is none.
    let fake = Fake::with(vec![ended(0)]);
    fake.now().looks_fail = u32::MAX;
    let (failed, _) = run(&fake).await;
    assert!(matches!(&failed, Err(HostError::Unreachable(why)) if why.contains("no API server answers")), "{failed:?}");
    // An order that may have taken the API along was taken, if it was seen to run.
    let fake = Fake::with(vec![running()]);
    let helper = HelperPod::new(Arc::clone(&fake) as _, "image");
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        fake.now().looks_fail = u32::MAX;
    };
    let (host, command) = (host(), command());
    assert_eq!(tokio::join!(helper.order(&host, &command, WITHIN), later).0, Ok(Order::TakenThenLost));
}

#[tokio::test(start_paused = true)]
async fn leftovers_are_its_own_and_what_has_ended() {
    let fake = Fake::with(vec![ended(0)]);
    let holder = HelperPod::new(Arc::clone(&fake) as _, "image").holder;
    fake.put("own", Some(&holder), running());
    fake.put("nobodys", None, running());
    fake.put("other-runs", Some("another"), running());
    fake.put("other-ended", Some("another"), ended(0));
    run(&fake).await.0.unwrap();
    let removed = fake.now().removed.clone();
    assert_eq!(removed[..3], ["nobodys", "other-ended", "own"], "{removed:?}");
    assert_eq!(fake.now().pods.keys().collect::<Vec<_>>(), ["other-runs"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_any_more_and_the_next_one_finds_a_clean_node() {
    let fake = Fake::with(vec![running()]);
    let helper = HelperPod::new(Arc::clone(&fake) as _, "image");
    let dropped = tokio::time::timeout(Duration::from_secs(3), helper.run(&host(), &command(), WITHIN)).await;
    assert!(dropped.is_err());
    fake.now().course = vec![ended(0)];
    helper.run(&host(), &command(), WITHIN).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = fake.now();
    assert!(now.pods.is_empty() && now.made == 2 && now.removed.len() == 2, "{:?}", now.removed);
}
