//! Streams a prepared card to the caller, who writes it with his own rights and reports back.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::perform::{failed_or_cancelled, permanent};
use super::world::World;
use crate::api::port::{CardFacts, ImageIn, ImageOut, ImagePipe};
use crate::card::{Extent, Prepared};
use crate::control::{Event, Handle, Job};
use crate::runbook::StepResult;
use crate::site::Progress;

/// Bytes of one piece; gRPC refuses messages over 4 MiB.
const CHUNK: u64 = 1 << 20;

/// What lies below is sent last: without it no partition table is valid.
const HEAD: u64 = 1 << 20;

/// How long the caller may take to attach, and to say anything while he writes.
const PATIENCE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(600);

/// Performs `Step::StreamImage`.
pub async fn stream(world: &World, job: &Job, handle: &Handle) -> StepResult {
    let Some(card) = world.card(&job.run) else {
        return permanent("there is no prepared card: metisd was restarted meanwhile; start again".to_owned());
    };
    let Ok(Ok(pipe)) = tokio::time::timeout(PATIENCE, world.pipe(&job.run)).await else {
        return permanent(format!("no caller took the image within {} s", PATIENCE.as_secs()));
    };
    let total = card.extents().iter().map(|e| e.len).sum();
    let ImagePipe { out, back } = pipe;
    let sender = tokio::spawn(send(card, out));
    let told = tokio::select! {
        told = listen(job, total, back) => told,
        () = job.cancel.cancelled() => Err("the caller's copy is not finished".to_owned()),
    };
    match told {
        Ok(()) => {
            // The caller has everything, so the sender has ended too.
            handle
                .send(Event::Milestone { run: job.run.clone(), step: job.step.clone(), message: "read back by the caller".to_owned() })
                .await;
            StepResult::Done { detail: format!("{total} bytes written and read back by the caller") }
        }
        Err(why) => {
            sender.abort();
            let sent = match sender.await {
                Ok(Err(error)) => format!("; sending: {error}"),
                _ => String::new(),
            };
            failed_or_cancelled(&job.cancel, format!("{why}{sent}"))
        }
    }
}

/// What the caller reports, until he says how it ended.
async fn listen(job: &Job, total: u64, mut back: mpsc::Receiver<ImageIn>) -> Result<(), String> {
    loop {
        match tokio::time::timeout(SILENCE, back.recv()).await {
            Err(_) => return Err(format!("the caller said nothing for {} s", SILENCE.as_secs())),
            Ok(None | Some(ImageIn::Gone)) => return Err("the caller went away before his copy was finished".to_owned()),
            Ok(Some(ImageIn::Result(result))) => return result.map_err(|e| format!("the caller could not write it: {e}")),
            Ok(Some(ImageIn::Progress { written, verified })) => {
                let (stage, done) = if verified > 0 { ("verify", verified) } else { ("write", written) };
                job.progress.report(Progress { stage, done, total });
            }
        }
    }
}

/// Sends the header, the extents with those below 1 MiB last, and the digest. Ends early when the caller is gone.
async fn send(card: Prepared, out: mpsc::Sender<ImageOut>) -> Result<(), String> {
    let facts = CardFacts {
        instance_id: card.instance_id().to_owned(),
        image_sha256: card.image_sha256().to_owned(),
        files: card.files().to_vec(),
    };
    let header = ImageOut::Header { size: card.size(), extents: card.extents().to_vec(), card: facts };
    let gone = |_| "the caller went away".to_owned();
    out.send(header).await.map_err(gone)?;
    let (head, body) = pieces(card.extents());
    let mut hasher = Sha256::new();
    let mut heads = Vec::new();
    for piece in head {
        let (data, hashed) = read(&card, piece, hasher).await?;
        hasher = hashed;
        heads.push(ImageOut::Chunk { offset: piece.offset, data });
    }
    for piece in body {
        let (data, hashed) = read(&card, piece, hasher).await?;
        hasher = hashed;
        out.send(ImageOut::Chunk { offset: piece.offset, data }).await.map_err(gone)?;
    }
    for chunk in heads {
        out.send(chunk).await.map_err(gone)?;
    }
    let mut sha256 = String::new();
    for byte in hasher.finalize() {
        let _ = write!(sha256, "{byte:02x}");
    }
    out.send(ImageOut::Trailer { sha256 }).await.map_err(gone)
}

/// Reads a piece and hashes it, off the runtime.
async fn read(card: &Prepared, piece: Extent, mut hasher: Sha256) -> Result<(Vec<u8>, Sha256), String> {
    let data = Arc::clone(card.data());
    let task = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; piece.len as usize];
        data.read_exact_at(&mut buffer, piece.offset)?;
        hasher.update(&buffer);
        Ok::<_, std::io::Error>((buffer, hasher))
    });
    let read = task.await.map_err(|e| e.to_string())?;
    read.map_err(|e| format!("reading the prepared card at offset {}: {e}; fetch the image again", piece.offset))
}

/// The extents cut into pieces: those below 1 MiB, and the others; both ascending.
fn pieces(extents: &[Extent]) -> (Vec<Extent>, Vec<Extent>) {
    let cut = extents.iter().flat_map(|extent| {
        let end = extent.offset + extent.len;
        let mut at = extent.offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let border = (at / CHUNK + 1) * CHUNK;
            let piece = Extent { offset: at, len: border.min(end) - at };
            at += piece.len;
            Some(piece)
        })
    });
    cut.partition(|piece| piece.offset < HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_extents_once_and_never_cross_the_head() {
        let extents = [Extent { offset: 0, len: 3 << 20 }, Extent { offset: (5 << 20) + 4096, len: 4096 }];
        let (head, body) = pieces(&extents);
        assert_eq!(head, [Extent { offset: 0, len: 1 << 20 }]);
        assert_eq!(body.iter().map(|p| (p.offset >> 20, p.len)).collect::<Vec<_>>(), [(1, 1 << 20), (2, 1 << 20), (5, 4096)]);
        let total: u64 = head.iter().chain(&body).map(|p| p.len).sum();
        assert_eq!(total, (3 << 20) + 4096);
    }
}
