use std::{collections::VecDeque, hash::Hasher as _, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream::once};
use http_body::SizeHint;
use tokio::time::timeout;
use twox_hash::XxHash3_64;

use super::{Caller, Fill, recording::Recording, tell, vigil::Vigil};
use crate::{
    body::tape::{Tape, Writer},
    error::{BoxError, Error},
    flight::{Head, Lead, Live, SETTLE, State},
    observe::Bill,
    policy::{Abandoned, Policy},
    shared::Shared,
    store::{LiveEnd, LiveHead, LivePart, Store, Token},
    upstream::Opening,
};

/// What became of the wish to follow another process.
pub(super) enum Followed {
    /// Someone here was shown the head, and then what came after it.
    Shown,
    /// What it makes is no answer to this request, or takes too long to begin.
    Unfit,
    /// There was nothing to be shown.
    Gone,
}

/// What another process says while it makes an answer.
struct Remote<'a, St, P> {
    shared: &'a Shared<St, P>,
    lead: &'a Lead,
    said: Pin<Box<dyn Stream<Item = Result<Vec<LivePart>, Error>> + Send + 'a>>,
    parts: VecDeque<LivePart>,
    token: Token,
    /// Others may join.
    is_shown: bool,
}

impl<St, P> Fill<St, P>
where
    St: Store,
    P: Policy,
{
    /// Puts on the tape, for all who wait here, what another process makes as it makes it, if that begins while there is patience.
    pub(super) async fn follow<RB, E>(&self, token: Token, patience: Duration, caller: &mut Option<Caller<RB, E>>) -> Followed {
        let shared = &self.shared;
        // Whether the call goes on is not ours to say.
        let mut vigil = Vigil::begin(&shared.core, self.lead.flight(), false, Abandoned::Cancel);
        let mut remote = Remote::new(shared, &self.lead, token);
        let head = match vigil.keep(&self.lead, timeout(patience, remote.next())).await {
            Ok(Ok(Some(LivePart::Head(head)))) if self.is_for_us(&head) => *head,
            // Lost, or nobody waits any more.
            Ok(Ok(Some(LivePart::Withdrawn) | None)) | Err(_) => return Followed::Gone,
            Ok(Ok(Some(_)) | Err(_)) => return Followed::Unfit,
        };

        // Those who wait.
        let promised = head.promised.map_or_else(SizeHint::new, SizeHint::with_exact);
        let (writer, tape) = Tape::new(promised, Arc::clone(&shared.core.budget));
        let Some(reader) = tape.read() else { return Followed::Gone };
        let LiveHead { status, version, headers, lifetime, vary, .. } = head;
        let head = Head { status, version, headers };
        let live = Arc::new(Live { head, tape, vary, lifetime: Some(lifetime), tab: Arc::clone(&self.tab.0), elsewhere: true });
        remote.show();
        self.lead.publish(State::Streaming(Arc::clone(&live)));
        tell(caller, Opening::Joined { live: Arc::clone(&live), reader });

        // The body.
        match self.copy(&mut remote, &live.head, &writer, &mut vigil).await {
            Ok(end) => {
                self.lead.heard_all();
                let LiveEnd { trailers, model, provider, usage, cost, .. } = end;
                self.tab.0.settle(Bill { model, provider, usage, cost, operation: None });
                writer.finish(trailers);
            }
            Err(error) => {
                writer.fail(error);
                return Followed::Shown;
            }
        }

        // Whoever has read it to its end is to find it stored.
        let settled = timeout(SETTLE, remote.next());
        drop(shared.core.stop.run_until_cancelled(settled).await);
        shared.core.flights.landed(&self.identity.key, self.lead.key());
        Followed::Shown
    }

    /// Is it an answer to this request, and still good?
    fn is_for_us(&self, head: &LiveHead) -> bool {
        let is_ours = match &head.vary {
            None => true,
            Some((fields, key)) => self.variant(fields) == Some(*key),
        };
        is_ours && head.lifetime.ttl(self.shared.settings.clock.now()).is_some()
    }

    /// Copies the body to its end, and makes sure that it is whole.
    async fn copy(&self, remote: &mut Remote<'_, St, P>, head: &Head, writer: &Writer, vigil: &mut Vigil) -> Result<LiveEnd, BoxError> {
        let mut recording = Recording::elsewhere(&self.shared.settings, &self.shared.core.counters);
        let (mut length, mut sum) = (0, XxHash3_64::with_seed(0));
        loop {
            let part = vigil.keep(&self.lead, remote.next()).await.map_err(|_| "nobody waits for the response any more")?;
            match part {
                Some(LivePart::Frames(frames)) => {
                    for frame in frames {
                        length += frame.len() as u64;
                        sum.write(&frame);
                        recording.put(frame, writer, &self.lead, length);
                        recording.wait_for_room(writer, vigil, &self.lead).await.map_err(|broken| broken.error)?;
                    }
                }
                Some(LivePart::End(end)) if end.length == length && end.checksum == sum.finish() => {
                    if self.is_cut_short(head.status, &head.headers, length) {
                        return Err("the response body is not as long as its content-length says".into());
                    }
                    return Ok(*end);
                }
                _ => return Err("the process that makes the response gave it up, or can no longer be followed".into()),
            }
        }
    }
}

impl<'a, St, P> Remote<'a, St, P>
where
    St: Store,
    P: Policy,
{
    fn new(shared: &'a Shared<St, P>, lead: &'a Lead, token: Token) -> Self {
        // Within the guard of whoever reads also what a store does before its first await.
        let said = Box::pin(once(async move { shared.core.store.follow(*lead.key(), token) }).flatten());
        Self { shared, lead, said, parts: VecDeque::new(), token, is_shown: false }
    }

    /// From now on, those who join go by when it was heard last.
    fn show(&mut self) {
        self.is_shown = true;
        self.lead.heard(self.token);
    }

    /// The next part; `None` if there will be none.
    async fn next(&mut self) -> Option<LivePart> {
        while self.parts.is_empty() {
            let over = || Err(Error::unavailable("a live stream ended before what it carries did"));
            let said = async { self.said.next().await.unwrap_or_else(over) };
            self.parts = self.shared.attempt("follow", said).await?.into();
            if self.is_shown && !self.parts.is_empty() {
                self.lead.heard(self.token);
            }
        }
        self.parts.pop_front()
    }
}
