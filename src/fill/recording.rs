use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use tokio::{
    task::coop::consume_budget,
    time::{Instant, timeout},
};

use super::{
    Verdict,
    vigil::{Unwanted, Vigil},
};
use crate::{
    body::{
        poll_bytes,
        tape::{PER_FRAME, Writer},
    },
    error::BoxError,
    flight::Lead,
    inspect::{Findings, Inspector},
    observe::{Counters, FillRecord},
    policy::{NotStored, Storing},
    shared::{Settings, contain},
};

/// How much of a response that will not be stored is kept for those who wait for it but have not begun to read.
const KEEP_UNSTORED: usize = 64 << 10;

/// What the frames of a response may take besides its bytes, where the policy's limit is less: a body in single bytes would take many times
/// its length.
const LEAST_FOR_FRAMES: usize = 1 << 20;

/// Puts a response body on the tape, and watches what goes by.
pub(super) struct Recording<'a> {
    storing: Option<Storing>,
    why_not: Option<NotStored>,
    inspector: Option<Box<dyn Inspector>>,
    limit: usize,
    frames: usize,
    stall_limit: Duration,
    /// Since when all readers are to read how many frames.
    lap: Option<(Instant, usize)>,
    counters: &'a Arc<Counters>,
}

/// A body that did not end as it should.
pub(super) struct Broken {
    pub(super) reason: NotStored,
    pub(super) error: BoxError,
}

impl<'a> Recording<'a> {
    pub(super) fn begin(verdict: Verdict, settings: &Settings, counters: &'a Arc<Counters>) -> Self {
        let Verdict { storing, why_not, inspector } = verdict;
        Self {
            limit: storing.as_ref().map_or(KEEP_UNSTORED, |storing| storing.max_body),
            frames: 0,
            storing,
            why_not,
            inspector,
            stall_limit: settings.stall_limit,
            lap: None,
            counters,
        }
    }

    /// Of a body that another process stores.
    pub(super) fn elsewhere(settings: &Settings, counters: &'a Arc<Counters>) -> Self {
        let verdict = Verdict::not_stored(NotStored::Elsewhere);
        // Its publisher keeps to a bound.
        Self { limit: usize::MAX, ..Self::begin(verdict, settings, counters) }
    }

    /// Goes through the body to its end, and returns its trailers.
    pub(super) async fn run<RB>(
        &mut self,
        body: RB,
        writer: &Writer,
        vigil: &mut Vigil,
        lead: &Lead,
        record: &mut FillRecord,
    ) -> Result<Option<HeaderMap>, Broken>
    where
        RB: Body<Error: Into<BoxError>>,
    {
        let mut body = pin!(body);
        let mut trailers = None;
        while let Some(frame) = vigil.keep(lead, poll_fn(|cx| poll_bytes(body.as_mut(), cx))).await.map_err(unwanted)? {
            match frame.map_err(|error| Broken { reason: NotStored::Incomplete, error })?.into_data() {
                Ok(data) => {
                    if !data.is_empty() {
                        record.bytes += data.len() as u64;
                        if writer.promised() == Some(record.bytes) && self.stores() {
                            lead.settle();
                        }
                        self.inspect(&data);
                        self.put(data, writer, lead, record.bytes);
                        self.wait_for_room(writer, vigil, lead).await?;
                        if self.why_not.is_some() && lead.close_if_unwanted() {
                            return Err(unwanted(Unwanted::Abandoned));
                        }
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
            // A body that is always ready would keep other tasks from running.
            consume_budget().await;
        }
        Ok(trailers)
    }

    /// Is the response to be stored, as far as is known?
    pub(super) fn stores(&self) -> bool {
        self.why_not.is_none()
    }

    pub(super) fn put(&mut self, data: Bytes, writer: &Writer, lead: &Lead, len: u64) {
        let kept = writer.push(data);
        self.frames += 1;
        if !kept || len > self.limit as u64 || self.frames * PER_FRAME > self.limit.max(LEAST_FOR_FRAMES) {
            if kept {
                writer.window();
            }
            // Newcomers could not read it from its start.
            lead.close();
            self.why_not.get_or_insert(NotStored::TooLarge);
        }
    }

    /// Waits while a tape that keeps only a window is full.
    pub(super) async fn wait_for_room(&mut self, writer: &Writer, vigil: &mut Vigil, lead: &Lead) -> Result<(), Broken> {
        while !writer.has_room() {
            // One that reads a frame now and then holds up the others as well: it has to get to where the writer was.
            let lap = self.lap.filter(|(_, count)| !writer.is_read_to(*count));
            let (since, count) = *self.lap.insert(lap.unwrap_or_else(|| (Instant::now(), writer.count())));
            let room = timeout(self.stall_limit.saturating_sub(since.elapsed()), poll_fn(|cx| writer.poll_room(cx)));
            if vigil.keep(lead, room).await.map_err(unwanted)?.is_err() {
                writer.cut_laggards(count);
                self.lap = None;
            }
        }
        Ok(())
    }

    fn inspect(&mut self, data: &[u8]) {
        if let Some(inspector) = &mut self.inspector
            && contain(self.counters, || inspector.frame(data)).is_none()
        {
            self.inspector = None;
            self.why_not.get_or_insert(NotStored::Panic);
        }
    }

    /// What the inspector found until now; `None` if it panicked. What an answer cost is owed also if it broke off.
    pub(super) fn look(&mut self, record: &mut FillRecord) -> Option<Findings> {
        let findings = match self.inspector.take() {
            None => Findings::default(),
            Some(inspector) => contain(self.counters, || inspector.end())?,
        };
        record.model = findings.model.as_deref().map(Arc::from);
        record.usage = findings.usage;
        record.service_tier = findings.service_tier.as_deref().map(Arc::from);
        record.operation.clone_from(&findings.operation);
        Some(findings)
    }

    /// The body ended cleanly. May it be stored, then?
    pub(super) fn finish(mut self, has_trailers: bool, record: &mut FillRecord) -> Result<(Storing, Findings), NotStored> {
        let findings = self.look(record).ok_or(NotStored::Panic)?;
        if let Some(reason) = self.why_not {
            return Err(reason);
        }
        if let Some(objection) = findings.objection {
            return Err(NotStored::Objection(objection));
        }
        let storing = self.storing.ok_or(NotStored::Failed)?;
        if storing.needs_proof && !findings.proven && !has_trailers {
            return Err(NotStored::Incomplete);
        }
        Ok((storing, findings))
    }
}

fn unwanted(why: Unwanted) -> Broken {
    let error = match why {
        Unwanted::Abandoned => "nobody waits for the response any more",
        Unwanted::Stopped => "the cache shut down before the response ended",
    };
    Broken { reason: NotStored::Abandoned, error: error.into() }
}
