//! The Lease by which one of two hosts commands, on a real API server.

use jiff::{SignedDuration, Timestamp};
use metis_tests::plane::{Options, Plane, available};
use metisd::cluster::port::Commander;
use metisd::peer::lease::{Watch, claim, release};
use metisd::site::{LeaseRecord, LeaseView};

use super::*;

const NAMESPACE: &str = "kube-system";
/// Shorter than metis' own, so that nobody has to wait for long.
const LASTS: Duration = seconds(3);

/// One of two hosts.
struct Host {
    name: &'static str,
    metis: Metis,
    watch: Watch,
    begun: std::time::Instant,
    /// How wrong its clock is.
    skew: SignedDuration,
}

impl Host {
    fn new(plane: &Plane, name: &'static str, minutes: i64) -> Self {
        let skew = SignedDuration::from_mins(minutes);
        Self { name, metis: Metis::of(plane), watch: Watch::default(), begun: std::time::Instant::now(), skew }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now() + self.skew
    }

    fn read(&mut self) -> (Option<LeaseRecord>, LeaseView) {
        let record = self.metis.run(self.metis.cluster.command_lease(NAMESPACE, seconds(5))).unwrap();
        let view = self.watch.observe(record.as_ref(), self.name, self.begun.elapsed());
        (record, view)
    }

    fn write(&self, record: &LeaseRecord) -> bool {
        let record = LeaseRecord { duration: LASTS, ..record.clone() };
        self.metis.run(self.metis.cluster.write_command_lease(NAMESPACE, &record, seconds(5))).unwrap()
    }

    /// As the daemon does it again and again.
    fn turn(&mut self, run: &str) -> LeaseView {
        let (record, view) = self.read();
        match claim(&view, record.as_ref(), self.name, run, self.wall()) {
            Some(wanted) if self.write(&wanted) => self.read().1,
            _ => view,
        }
    }
}

#[test]
fn one_of_two_hosts_commands_and_is_replaced_when_it_is_gone_whatever_the_clocks_say() {
    if !available("the Lease on an API server") {
        return;
    }
    let plane = Plane::start(&Options::default()).unwrap();
    let (mut db, mut tethys) = (Host::new(&plane, "titan-db", 0), Host::new(&plane, "tethys", -5));
    assert_eq!(db.read(), (None, LeaseView::Free));

    // Both see that nobody holds it, and both take it: one gets it.
    let wanted = |host: &mut Host| {
        let (record, view) = host.read();
        claim(&view, record.as_ref(), host.name, "startup-1", host.wall()).unwrap()
    };
    let (first, second) = (wanted(&mut db), wanted(&mut tethys));
    assert_eq!((db.write(&first), tethys.write(&second)), (true, false));

    // Its clock is five minutes ahead of the other's, and the other way round: renewed, it stays whose it is.
    for _ in 0..4 {
        assert_eq!(db.turn("startup-1"), LeaseView::Ours);
        assert_eq!(tethys.turn("startup-1").other(), Some(("titan-db", "startup-1")));
        std::thread::sleep(LASTS / 2);
    }
    // A write on what does not stand any more does nothing.
    let (stale, _) = db.read();
    db.turn("startup-1");
    assert!(!db.write(&stale.unwrap()));

    // It is gone: not at once, and not by its own clock.
    tethys.read();
    let gone = std::time::Instant::now();
    assert_ne!(tethys.turn("startup-1"), LeaseView::Ours);
    while tethys.turn("startup-1") != LeaseView::Ours {
        assert!(gone.elapsed() < seconds(60));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(gone.elapsed() + Duration::from_millis(300) >= LASTS, "{:?}", gone.elapsed());
    assert_eq!(db.turn("startup-1").other(), Some(("tethys", "startup-1")), "who comes back steps back");

    // A shutdown takes it from a start-up, and not from a shutdown.
    assert_eq!(db.turn("shutdown-2"), LeaseView::Ours);
    assert_eq!(tethys.turn("shutdown-9").other(), Some(("titan-db", "shutdown-2")));
    let (record, _) = db.read();
    assert!(db.write(&release(record.as_ref(), "titan-db", db.wall()).unwrap()));
    assert_eq!(tethys.turn("startup-3"), LeaseView::Ours, "what was given back is free at once");
    let renewed =
        plane.kubectl(&["-n", NAMESPACE, "get", "lease", "metis", "-o", "jsonpath={.spec.holderIdentity} {.metadata.annotations}"]);
    let shown = renewed.unwrap();
    assert!(shown.starts_with("tethys ") && shown.contains("startup-3"), "{shown}");
}
