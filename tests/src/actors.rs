//! Actors of the lab: they play, against the real API server, the controllers that cannot be had. Each is a thread that ends when it is dropped.

mod helm;
mod volumes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

pub use helm::releases;
pub use volumes::{Volume, Volumes, storage_plane, volume};

use crate::plane::api::Api;

/// How often an actor looks.
const PERIOD: Duration = Duration::from_millis(250);

/// A running actor.
#[derive(Debug)]
pub struct Actor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Actor {
    /// Repeats `step` until the actor is dropped. A step that fails is repeated like any other: controllers outlive an API server that is gone.
    pub(crate) fn start(api: Api, mut step: impl FnMut(&Api) -> Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut trouble = None;
            while !stopped.load(Ordering::Relaxed) {
                trouble = step(&api).err().map(|e| format!("{e:#}"));
                std::thread::sleep(PERIOD);
            }
            trouble
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it and gives what its last step failed with, if it did.
    pub fn stop(mut self) -> Option<String> {
        self.end()
    }

    fn end(&mut self) -> Option<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()?
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.end();
    }
}
