//! Cordons on lease in virtual time: expiry, renewal, release, adoption.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Rehearsal;
use super::site::site;
use crate::app::leases;
use crate::control::{ClaimRecord, Reply, Request};
use crate::sim::site::{Fault, SimNode};
use crate::site::{Change, Claim, Mark, ObjectRef};

const HOUR: Duration = Duration::from_secs(3600);

fn mark(holder: &str, expires: Timestamp) -> Mark {
    Mark { holder: holder.into(), run: "shutdown-1".into(), step: "drain.titan-13".into(), reason: "storm".into(), expires: Some(expires) }
}

/// A site on which titan-13 is cordoned for an hour, by that holder; whether the journal knows of it.
async fn cordoned(holder: &str, known: bool) -> Rehearsal {
    let rehearsal = Rehearsal::start(site()).await;
    let expires = rehearsal.world.now().wall + SignedDuration::from_hours(1);
    if known {
        let claim = Claim { object: ObjectRef::new("Node", "", "titan-13"), change: Change::Cordoned, expires: Some(expires) };
        let adopt = Request::Adopt { run: "shutdown-1".into(), step: "drain.titan-13".into(), claim };
        assert_eq!(rehearsal.handle.request(adopt).await, Ok(Reply::Noted));
    }
    rehearsal.site.change(|model| {
        let node = model.nodes.get_mut("titan-13").unwrap();
        (node.unschedulable, node.mark) = (true, Some(mark(holder, expires)));
    });
    rehearsal
}

fn node(rehearsal: &Rehearsal) -> SimNode {
    rehearsal.site.model().nodes["titan-13"].clone()
}

fn held(rehearsal: &Rehearsal) -> Vec<ClaimRecord> {
    rehearsal.handle.view().claims.clone()
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_expires_is_cleared_where_all_is_well_again() {
    let rehearsal = cordoned("titan-db", true).await;
    tokio::time::sleep(HOUR.mul_f64(0.98)).await;
    assert!(node(&rehearsal).unschedulable, "not before its time");
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(!node(&rehearsal).unschedulable && node(&rehearsal).mark.is_none());
    assert_eq!(held(&rehearsal), Vec::new());
}

#[tokio::test(start_paused = true)]
async fn an_api_that_cannot_be_reached_never_means_that_nothing_is_held() {
    let rehearsal = cordoned("titan-db", true).await;
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::ApiFails);
    });
    tokio::time::sleep(HOUR * 5).await;
    assert_eq!(held(&rehearsal).len(), 1);
    rehearsal.site.change(|model| model.faults.clear());
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(!node(&rehearsal).unschedulable && held(&rehearsal).is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_the_node_is_not_well_a_person_is_asked_and_only_he_renews() {
    let rehearsal = cordoned("titan-db", true).await;
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::KubeletStays("titan-13".to_owned()));
    });
    tokio::time::sleep(HOUR + Duration::from_secs(200)).await;
    let because = node(&rehearsal).manual_action.expect("on the node");
    assert!(because.contains("has expired"), "{because}");
    assert!(held(&rehearsal)[0].marked.is_some() && node(&rehearsal).unschedulable);
    let problems = rehearsal.problems.facts().borrow().problems.clone();
    assert!(problems.iter().any(|problem| problem.contains("titan-13") && problem.contains("lease renew|release")), "{problems:?}");
    let until = rehearsal.world.now().wall + SignedDuration::from_hours(2);
    leases::renew(&rehearsal.world, &rehearsal.handle, "ada".to_owned(), "titan-13", until).await.unwrap();
    assert_eq!((node(&rehearsal).manual_action, node(&rehearsal).mark.unwrap().expires), (None, Some(until)));
    assert_eq!((held(&rehearsal)[0].claim.expires, &held(&rehearsal)[0].marked), (Some(until), &None));
    rehearsal.site.change(|model| model.faults.clear());
    tokio::time::sleep(HOUR).await;
    assert!(node(&rehearsal).unschedulable, "it was renewed");
    tokio::time::sleep(HOUR + Duration::from_secs(200)).await;
    assert!(!node(&rehearsal).unschedulable && held(&rehearsal).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_person_releases_what_metis_holds_and_nothing_else() {
    let rehearsal = cordoned("titan-db", true).await;
    leases::release(&rehearsal.world, &rehearsal.handle, "ada", "titan-13").await.unwrap();
    assert!(!node(&rehearsal).unschedulable && held(&rehearsal).is_empty());
    let foreign = leases::release(&rehearsal.world, &rehearsal.handle, "ada", "titan-15").await;
    assert!(foreign.is_err(), "{foreign:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_the_journal_does_not_know_is_adopted_and_the_peers_is_not() {
    let site = site();
    let expires = Timestamp::from_second(1_800_003_600).unwrap();
    site.change(|model| {
        for (name, holder) in [("titan-13", "titan-db"), ("titan-15", "tethys")] {
            let node = model.nodes.get_mut(name).unwrap();
            (node.unschedulable, node.mark) = (true, Some(mark(holder, expires)));
        }
        model.nodes.get_mut("titan-05").unwrap().unschedulable = true;
    });
    let rehearsal = Rehearsal::start(site).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let known: Vec<_> = held(&rehearsal).iter().map(|record| (record.claim.object.name.clone(), record.run.to_string())).collect();
    assert_eq!(known, [("titan-13".to_owned(), "shutdown-1".to_owned())]);
    tokio::time::sleep(HOUR * 3).await;
    let cordoned: Vec<_> = rehearsal.site.model().nodes.into_iter().filter(|(_, node)| node.unschedulable).map(|(name, _)| name).collect();
    assert_eq!(cordoned, ["titan-05", "titan-15"], "a foreign cordon, and the peer's");
}

#[tokio::test(start_paused = true)]
async fn a_cordon_that_somebody_ended_is_forgotten() {
    let rehearsal = cordoned("titan-db", true).await;
    rehearsal.site.change(|model| {
        let node = model.nodes.get_mut("titan-13").unwrap();
        (node.unschedulable, node.mark) = (false, None);
    });
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(held(&rehearsal), Vec::new());
}
