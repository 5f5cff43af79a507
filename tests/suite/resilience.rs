//! What a crash and a bad disk leave behind: the real metisd and metisctl, killed at every journal write and put on journals and state
//! directories that fail.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod resilience {
    mod burn;
    mod case;
    mod clock;
    mod disk;
    mod ended;
    mod journal;
    mod kills;
    mod lab;
    mod outage;
    mod site;
}
