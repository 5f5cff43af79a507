//! Several API servers.

use std::time::Duration;

use metis_tests::plane::{Options, Plane, available};
use metisd::cluster::port::Cluster;
use nix::sys::signal::Signal;

use super::*;

#[test]
fn one_that_hangs_or_is_gone_leaves_the_other() {
    if !available("several API servers") {
        return;
    }
    let mut plane = Plane::start(&Options { more_servers: 1, ..Options::default() }).unwrap();
    plane.nodes(&["titan-13"], &[]).unwrap();
    let endpoints = format!("    endpoints: ['{}', '{}']", plane.url_of(0), plane.url_of(1));
    let metis = Metis::new(plane.metis_kubeconfig(), &endpoints, "");
    let collect = || {
        let began = std::time::Instant::now();
        let facts = metis.run(metis.cluster.collect(seconds(10))).unwrap();
        assert_eq!((facts.nodes.len(), facts.unseen), (1, Vec::new()));
        began.elapsed()
    };
    collect();
    plane.server(0).signal(Signal::SIGSTOP).unwrap();
    let first = collect();
    assert!(first < seconds(9), "{first:?}");
    let second = collect();
    assert!(second < Duration::from_millis(1500), "the one that answered is asked first: {second:?}");
    plane.server(0).signal(Signal::SIGCONT).unwrap();
    plane.server(1).kill();
    collect();
}
