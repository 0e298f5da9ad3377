//! The applier: follows the stream in order and is the only one that changes generations and heads.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use stream::{Record, Subscription};
use tokio::sync::{mpsc, oneshot};

use super::{
    Applied, Generations, Inner,
    frame::{self, Frame},
    recent::{Generation, Key},
};
use crate::model::ObservationId;

/// A generation that will not change any more, and the offset after its last record.
pub(super) struct Turned {
    pub generation: Arc<Generation>,
    pub next: u64,
}

pub(super) async fn run(
    inner: Arc<Inner>,
    mut subscription: Subscription,
    mut turns: mpsc::Receiver<oneshot::Sender<Turned>>,
) {
    loop {
        tokio::select! {
            biased;
            () = inner.stopped.cancelled() => return,
            Some(reply) = turns.recv() => turn(&inner, reply),
            records = subscription.next() => match records {
                Ok(records) => apply(&inner, &records),
                Err(error) => {
                    // Nothing is lost: what is durable stays so, writers wait, and the subscription is taken up again.
                    tracing::error!(%error, "the stream cannot be read; trying again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    let next = *inner.applied.borrow();
                    if let Ok(again) = inner.topic.subscribe(stream::Offset(next)).await {
                        subscription = again;
                    }
                }
            }
        }
    }
}

fn apply(inner: &Inner, records: &[Record]) {
    let Some(last) = records.last() else { return };
    // Only `turn` opens one, and it runs between two calls of this. The one being sealed may be let go of meanwhile; what it says of its rows stays true.
    let generations = inner.unsealed.generations.load_full();
    let (open, sealing) = (&*generations.open, generations.sealing.as_deref());
    let listened = inner.live.receiver_count() > 0;
    for record in records {
        let frame = match frame::decode(&record.payload) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(offset = record.offset.0, %error, "skipped a record");
                continue;
            }
        };
        match &frame {
            Frame::Observed(batch) => batch.runs().iter().for_each(|run| observed(inner, open, sealing, run)),
            Frame::Removed(ids) => ids.iter().for_each(|id| removed(inner, open, sealing, id)),
            Frame::Dropped(id) => {
                open.drop_datastream(*id);
                inner.heads.forget(id.0);
            }
        }
        if listened {
            // No receiver is not an error: subscribers come and go.
            let _ = inner.live.send(Arc::new(Applied { offset: record.offset.0, at: record.at, frame }));
        }
    }
    let next = last.offset.0 + 1;
    inner.unsealed.next.store(next, Relaxed);
    inner.applied.send_replace(next);
    if open.rows() >= inner.options.seal_rows {
        inner.seal_now.notify_one();
    }
}

fn observed(inner: &Inner, open: &Generation, sealing: Option<&Generation>, run: &super::Run) {
    inner.heads.change(run.datastream.0, |head| {
        // The usual case in one step: in order, and later than everything in memory.
        let first = run.times.first().map(|&at| Key { at, feature: run.feature.0, result_time: None });
        let is_later = sealing.is_none_or(|g| g.with(run.datastream, |s| s.last() < first).unwrap_or(true));
        if run.is_plain() && is_later && open.put_plain(run) {
            head.saw_run(run);
            return;
        }
        let mut row = 0;
        // A row counts as fresh when no generation in memory held it; the lake is asked only for rows before its own end.
        open.put(run, |key, new| {
            let known = new && sealing.is_some_and(|g| g.with(run.datastream, |s| s.contains(&key)).unwrap_or(false));
            let end = run.extra(row).and_then(|e| e.end).map_or(key.at, |e| e.as_micros());
            let this = row;
            head.saw(|| run.observation(this), &key, end, new && !known);
            row += 1;
        });
    });
}

fn removed(inner: &Inner, open: &Generation, sealing: Option<&Generation>, id: &ObservationId) {
    let key = Key::of(id);
    let in_sealing = sealing.is_some_and(|g| g.with(id.datastream, |s| s.contains(&key)).unwrap_or(false));
    let in_open = open.remove(id);
    inner.heads.change(id.datastream.0, |head| head.lost(&key, in_open && !in_sealing));
}

/// Freezes the open generation. Runs between records, so a generation always ends where a record does.
fn turn(inner: &Inner, reply: oneshot::Sender<Turned>) {
    let before = inner.unsealed.generations.load_full();
    debug_assert!(before.sealing.is_none(), "one seal at a time");
    for id in
        before.open.datastreams().into_iter().chain(before.open.dropped()).collect::<std::collections::BTreeSet<_>>()
    {
        inner.heads.change(id, super::head::Entry::turn);
    }
    let generation = before.open.clone();
    let next = *inner.applied.borrow();
    let (sealing, from) = (Some(generation.clone()), before.from);
    inner.unsealed.generations.store(Arc::new(Generations { open: Arc::default(), sealing, open_from: next, from }));
    // The sealer waits for this answer; if it is gone the program is stopping.
    let _ = reply.send(Turned { generation, next });
}
