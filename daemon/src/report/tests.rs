use super::*;
use crate::runbook::{Mode, Runbook};
use crate::site::StepId;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn run() -> Run<Step> {
    let step = |id: &str, title: &str| {
        let action = Step::StreamImage { target: "x.img".into() };
        PlannedStep { predicted: Duration::from_secs(30), ..PlannedStep::act(id, title, action, Duration::from_secs(60)) }
    };
    let phases = vec![
        Phase::serial("image", vec![step("image.fetch", "fetch the image")]),
        Phase::serial("card", vec![step("card.prepare", "prepare the card"), step("card.write", "write the card")]),
    ];
    Run::new(Runbook { warnings: vec!["the card is small".into()], ..Runbook::new("burn", "burn titan-13 to /dev/sdz", phases) })
}

fn walk(run: &mut Run<Step>, step: &str, attempt: u32, from: i64, to: i64, status: Status, detail: &str) {
    let id = StepId::new(step);
    let boot = Duration::from_secs(from.unsigned_abs());
    run.started(&id, Mode::Act, attempt, boot, boot, at(from));
    run.settled(&id, status, detail, boot, at(to));
}

fn reported(run: &Run<Step>, ended: i64, reason: &str) -> Report {
    report(&Subject {
        id: &RunId::new("burn-17"),
        run,
        requester: "ada (uid 1000)",
        settings: &SettingsDigest::new("d1"),
        boot_id: &BootId::new("b"),
        started: at(0),
        ended: at(ended),
        reason,
    })
}

#[test]
fn a_run_that_is_done() {
    let mut run = run();
    walk(&mut run, "image.fetch", 1, 1, 13, Status::Done, "from the cache");
    walk(&mut run, "card.prepare", 1, 13, 20, Status::Done, "");
    walk(&mut run, "card.write", 2, 20, 272, Status::Done, "");
    run.finished(Outcome::Done);
    let report = reported(&run, 272, "");
    assert_eq!(
        report.story(),
        "burn-17: burn titan-13 to /dev/sdz, asked for by ada (uid 1000): done after 4 min 32 s. Time line: fetch the image 12 s, prepare \
         the card 7 s, write the card 4 min 12 s (2 attempts)."
    );
    assert_eq!(report.phases[1].span, Some(Span::new(at(13), at(272))));
    assert_eq!(report.phases[0].steps[0].detail, "from the cache");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["phases"][1]["steps"][1]["span"]["seconds"], 252);
    assert_eq!(
        (&json["outcome"], &json["settings_digest"], &json["warnings"][0]),
        (&"done".into(), &"d1".into(), &"the card is small".into())
    );
}

#[test]
fn a_run_that_failed_says_where_and_what_never_began() {
    let mut run = run();
    walk(&mut run, "image.fetch", 1, 1, 4, Status::Failed, "404");
    run.finished(Outcome::Failed);
    let report = reported(&run, 4, "fetch the image: 404");
    assert_eq!(
        report.story(),
        "burn-17: burn titan-13 to /dev/sdz, asked for by ada (uid 1000): failed after 4 s: fetch the image: 404. Time line: fetch the image \
         3 s (failed). Never begun: prepare the card, write the card."
    );
    assert_eq!(report.phases[1].span, None);
}

#[test]
fn a_clock_that_was_set_back_makes_no_negative_times() {
    assert_eq!(Span::new(at(100), at(40)).seconds, 0);
    assert_eq!(words(Duration::from_secs(2 * 3600 + 3 * 60 + 59)), "2 h 03 min");
}
