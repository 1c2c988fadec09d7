use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header, response};

use super::{Caller, Fill, Question, tell};
use crate::{
    entry::{Entry, Frames, Metadata, Record, Variants, detached},
    flight::State,
    inspect::Findings,
    key::Key,
    lookup::{Found, VARIANTS, look_up},
    observe::FillRecord,
    options::Mode,
    policy::{NotStored, Policy, Revision, Splice, Storing},
    shared::{Shared, contain},
    store::{Generation, Store},
    upstream::Opening,
};

/// How often variants are merged with those that others store at the same time.
const MERGES: usize = 4;

impl<St, P> Fill<St, P>
where
    St: Store,
    P: Policy,
{
    /// The entry as it will be stored, and the request fields that select it.
    pub(super) fn entry(
        &self,
        head: &response::Parts,
        storing: Storing,
        findings: Findings,
        frames: &[Bytes],
        trailers: Option<HeaderMap>,
        record: &FillRecord,
    ) -> (Entry, Option<Vec<HeaderName>>) {
        let mut metadata = Metadata {
            cached_at: Some(self.shared.settings.clock.now()),
            upstream_time: record.last_byte,
            upstream_first_byte: record.first_byte.unwrap_or_default(),
            usage: findings.usage,
            service_tier: record.service_tier.clone(),
            upstream_request_id: storing.upstream_request_id.map(Arc::from),
            ..Metadata::of(&self.options)
        };
        metadata.model = record.model.clone().or(metadata.model);
        metadata.add_tags(storing.tags);
        let entry = Entry {
            status: head.status,
            headers: detached(storing.headers),
            body: Frames::compact(frames),
            trailers: trailers.map(detached),
            lifetime: self.shared.settings.jittered(storing.lifetime),
            metadata,
        };
        (entry, storing.vary)
    }

    /// The key under which the answer to this request is stored if it varies by these fields.
    pub(super) fn variant(&self, fields: &[HeaderName]) -> Option<Key> {
        let shared = &self.shared;
        contain(&shared.core.counters, || shared.core.policy.variant(&shared.settings.envelope, &self.identity.key, &self.asked, fields))
            .flatten()
    }

    /// Goes where the entry is to be stored now that its response has said something new of that.
    pub(super) async fn relocate(&mut self, entry: &Entry) -> Result<(), NotStored> {
        let Shared { core, settings } = &self.shared;
        let identity = contain(&core.counters, || core.policy.relocate(&settings.envelope, &self.asked, &self.options, entry));
        let identity = identity.flatten().ok_or(NotStored::Panic)?;
        let (found, _) = look_up(&self.shared, &self.asked, &identity.key).await;
        // What was invalidated since the request began was so under its old key first.
        let unchanged = self.shared.get(&self.identity.key).await.map(|lookup| lookup.generation) == self.found.primary;
        if !unchanged {
            return Err(NotStored::Superseded);
        }
        (self.identity, self.found) = (Question::from(&identity), found);
        Ok(())
    }

    /// Stores an entry, unless it was superseded.
    pub(super) async fn commit(&self, entry: Entry, vary: Option<Vec<HeaderName>>) -> Result<(), NotStored> {
        self.until_stopped(self.put(Arc::new(entry), vary)).await.unwrap_or(Err(NotStored::Store))?;
        self.shared.core.flights.landed(&self.identity.key, self.lead.key());
        Ok(())
    }

    async fn put(&self, entry: Arc<Entry>, vary: Option<Vec<HeaderName>>) -> Result<(), NotStored> {
        let (primary, found) = (&self.identity.key, &self.found);
        let generation = found.primary.ok_or(NotStored::Store)?;
        let Some(fields) = vary else {
            return self.put_one(primary, Record::Response(entry), generation).await;
        };
        let selected = self.variant(&fields).ok_or(NotStored::Panic)?;
        let expires = entry.lifetime.expires();

        // First the response, then the way to it.
        let epoch = found.variants.as_ref().map_or_else(|| fastrand::u64(..), |known| known.epoch);
        let key = self.shared.settings.envelope.in_epoch(&selected, epoch);
        let noted = found.generation.filter(|_| found.key == key);
        let of_variant = match noted {
            Some(generation) => generation,
            // Nobody looked there before the call: what is there may have come since.
            None => {
                let there = self.shared.get(&key).await.ok_or(NotStored::Store)?;
                let since = there.record.and_then(Record::response).map(|there| there.lifetime.since);
                if since.is_some_and(|since| since >= entry.lifetime.since) {
                    return Err(NotStored::Superseded);
                }
                there.generation
            }
        };
        self.put_one(&key, Record::Response(Arc::clone(&entry)), of_variant).await?;

        let (mut known, mut generation) = (found.variants.clone(), generation);
        for _ in 0..MERGES {
            let mut merged = merge(known.as_deref(), &fields, epoch, expires);
            merged.note(&entry, &key);
            if self.put_one(primary, Record::Variants(Arc::new(merged)), generation).await.is_ok() {
                return Ok(());
            }
            let lookup = self.shared.get(primary).await.ok_or(NotStored::Store)?;
            match lookup.record {
                // Others put theirs at the same time: theirs is kept.
                Some(Record::Variants(variants)) if variants.epoch == epoch && noted.is_some() => {
                    (known, generation) = (Some(variants), lookup.generation);
                }
                // Whoever removed the way meant this one too, and it may have begun anew since. What was not noted before the call may have been removed as
                // well. That two began the way at once looks the same: one of them is not stored.
                _ => break,
            }
        }
        self.unplace(&key).await;
        Err(NotStored::Superseded)
    }

    /// Removes a variant that nothing leads to.
    async fn unplace(&self, key: &Key) {
        self.shared.attempt("remove", self.shared.core.store.remove(key)).await;
    }

    async fn put_one(&self, key: &Key, record: Record, generation: Generation) -> Result<(), NotStored> {
        let store = &self.shared.core.store;
        let put = async {
            match self.lease.as_ref().filter(|lease| key == self.lead.key() && lease.is_held()).map(|lease| lease.token) {
                Some(token) => self.shared.attempt("put", store.put_leased(key, record, generation, token)).await,
                None => self.shared.attempt("put", store.put(key, record, generation)).await,
            }
        };
        match self.until_stopped(put).await.flatten() {
            Some(true) => Ok(()),
            Some(false) => Err(NotStored::Superseded),
            None => Err(NotStored::Store),
        }
    }

    /// The entry that was found, or the variant that a 304 names, as the 304 freshens it.
    pub(super) async fn freshen(&self, head: &response::Parts) -> Option<Entry> {
        let (shared, named) = (&self.shared, self.named(head).await);
        let entry = self.found.entry.as_ref().or(named.as_ref())?;
        contain(&shared.core.counters, || shared.core.policy.freshen(&self.asked, entry, head, self.moment())).flatten()
    }

    /// The variant that a 304 names by its tag, where the request selected none of those that are stored and all were asked about.
    async fn named(&self, head: &response::Parts) -> Option<Arc<Entry>> {
        let variants = self.found.variants.as_ref().filter(|_| self.found.entry.is_none())?;
        let tag = head.headers.get(header::ETAG)?;
        let (_, key) = variants.tags.iter().find(|(known, _)| known == tag)?;
        self.shared.get(key).await?.record?.response()
    }

    /// The whole that the entry that was found and the rest of it make.
    pub(super) fn splice(&self, head: &response::Parts) -> Option<Splice> {
        let (shared, entry) = (&self.shared, self.found.entry.as_ref()?);
        contain(&shared.core.counters, || shared.core.policy.splice(&self.asked, entry, head, self.moment())).flatten()
    }

    /// What is stored in place of the entry that was found.
    pub(super) fn merge(&self, newer: Entry) -> Result<Entry, NotStored> {
        let Some(entry) = &self.found.entry else { return Ok(newer) };
        contain(&self.shared.core.counters, || self.shared.core.policy.merge(entry, newer)).ok_or(NotStored::Panic)
    }

    /// Heeds what a response that is not stored says of the entry that was found, before anyone sees the response.
    pub(super) async fn revise(&self, head: &response::Parts) {
        let (shared, Found { key, entry: Some(entry), generation: Some(generation), .. }) = (&self.shared, &self.found) else { return };
        if self.options.wishes().mode == Mode::ReadOnly {
            return;
        }
        match contain(&shared.core.counters, || shared.core.policy.revise(&self.asked, entry, head, self.moment())) {
            Some(Revision::Replace(entry)) => {
                let entry = Entry { headers: detached(entry.headers), ..*entry };
                drop(self.put_one(key, Record::Response(Arc::new(entry)), *generation).await);
            }
            Some(Revision::Remove) => drop(shared.attempt("remove", shared.core.store.remove(key)).await),
            Some(Revision::Keep) | None => {}
        }
    }

    /// Hands a freshened entry to all who wait, and stores it where it was.
    pub(super) async fn freshened<RB, E>(&self, entry: Entry, caller: &mut Option<Caller<RB, E>>) -> Result<(), NotStored> {
        let (lifetime, headers) = (self.shared.settings.jittered(entry.lifetime), detached(entry.headers));
        let entry = Arc::new(Entry { lifetime, headers, ..entry });
        self.lead.settle();
        self.lead.publish(State::Freshened(Arc::clone(&entry)));
        tell(caller, Opening::Freshened(Arc::clone(&entry)));
        if self.options.wishes().mode == Mode::ReadOnly {
            return Err(NotStored::ReadOnly);
        }
        let expires = entry.lifetime.expires();
        let generation = self.found.generation.ok_or(NotStored::Store)?;
        self.put_one(&self.found.key, Record::Response(entry), generation).await?;
        if let (Some(variants), Some(generation)) = (&self.found.variants, self.found.primary)
            && variants.expires < expires
        {
            // The way to it has to last as long.
            let longer = Variants { expires, ..Variants::clone(variants) };
            self.put_one(&self.identity.key, Record::Variants(Arc::new(longer)), generation).await?;
        }
        self.shared.core.flights.landed(&self.identity.key, self.lead.key());
        Ok(())
    }
}

/// The variants with one more, the most recent first.
fn merge(known: Option<&Variants>, fields: &[HeaderName], epoch: u64, expires: std::time::SystemTime) -> Variants {
    let mut all = vec![fields.to_vec()];
    let others = known.map_or(&[][..], |known| &known.fields);
    all.extend(others.iter().filter(|other| *other != fields).take(VARIANTS - 1).cloned());
    let tags = known.map_or_else(Vec::new, |known| known.tags.clone());
    Variants { fields: all, tags, epoch, expires: known.map_or(expires, |known| known.expires.max(expires)) }
}
