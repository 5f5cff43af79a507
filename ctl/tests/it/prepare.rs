//! `prepare`: findings as people and programs see them.

use insta::assert_snapshot;
use metis_proto::v1;

use crate::fake::{Fake, Fault};
use crate::run;

fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: 1_800_000_000 + seconds, nanos: 0 }
}

/// A site with one of each; without its problem where it is to be green.
pub fn looked(green: bool) -> v1::LookResponse {
    let finding = |name: &str, level: v1::FindingLevel, message: &str, at, fix: &str| v1::Finding {
        name: name.into(),
        level: level.into(),
        message: message.into(),
        at,
        fix: fix.into(),
    };
    let mut findings = vec![
        finding("host", v1::FindingLevel::Problem, "titan-15: sudo asks metis for a password", None, ""),
        finding(
            "bundle",
            v1::FindingLevel::Warning,
            "harbor-bootstrap-2.11-arm64.tar.zst is old",
            Some(at(-200 * 86_400)),
            "metisctl harbor-bundle build --execute",
        ),
        finding("nut.remote", v1::FindingLevel::CannotTell, "MAXAGE of statera is in the files of tethys", None, ""),
        finding("clock", v1::FindingLevel::Ok, "this host's clock is synchronised", None, ""),
    ];
    if green {
        findings.remove(0);
    }
    v1::LookResponse { findings, green, recorded: green, at: Some(at(0)) }
}

#[test]
fn problems_first_each_with_its_age_and_what_to_do() {
    let fake = Fake::start(Fault::PlanRefuses);
    let ran = run(&fake.socket(), &["prepare"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_snapshot!("prepare", ran.out);
}

#[test]
fn green_is_exit_code_0_and_json_is_stable() {
    let fake = Fake::start(Fault::None);
    let ran = run(&fake.socket(), &["prepare", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_snapshot!("prepare_json", ran.out);
}

#[test]
fn a_draft_is_printed_as_it_is_and_remarks_do_not_spoil_it() {
    let fake = Fake::start(Fault::None);
    let ran = run(&fake.socket(), &["inventory", "import", "--ssh-port", "2277", "--network-prefix", "24"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "# port 2277, prefix 24\nnodes: {}\n", "compare each host key\n"));
    let json: serde_json::Value = serde_json::from_str(&run(&fake.socket(), &["inventory", "import", "-o", "json"]).out).unwrap();
    assert_eq!((&json["inventory"], &json["notes"][0]), (&"# port 0, prefix 0\nnodes: {}\n".into(), &"compare each host key".into()));
}
