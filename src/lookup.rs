//! From a key to what is stored under it.

use std::sync::Arc;

use http::request;

use crate::{
    entry::{Entry, Record, Variants},
    key::Key,
    policy::Policy,
    shared::{Shared, contain},
    store::{Generation, Lookup, Store},
};

/// How many lists of selecting fields one primary key is looked up with.
pub(crate) const VARIANTS: usize = 8;

/// What a look-up brought.
#[derive(Clone)]
pub(crate) struct Found {
    /// Where the answer to the request is, or would be, as far as is known.
    pub(crate) key: Key,
    pub(crate) entry: Option<Arc<Entry>>,
    /// The generation of `key`; `None` if the store did not answer.
    pub(crate) generation: Option<Generation>,
    /// The generation of the primary key; `None` if the store did not answer.
    pub(crate) primary: Option<Generation>,
    /// What stands under the primary key, if it is not the answer itself.
    pub(crate) variants: Option<Arc<Variants>>,
}

/// Looks up in one step, or in two where the answer varies by request fields. Counts what failed.
pub(crate) async fn look_up<St, P>(shared: &Shared<St, P>, request: &request::Parts, primary: &Key) -> (Found, u32)
where
    St: Store,
    P: Policy,
{
    let nothing = |generation| Found { key: *primary, entry: None, generation, primary: generation, variants: None };
    let Some(Lookup { record, generation }) = shared.get(primary).await else { return (nothing(None), 1) };
    let variants = match record {
        None => return (nothing(Some(generation)), 0),
        Some(Record::Response(entry)) => return (Found { entry: Some(entry), ..nothing(Some(generation)) }, 0),
        Some(Record::Variants(variants)) => variants,
    };
    let mut found = Found { variants: Some(Arc::clone(&variants)), ..nothing(Some(generation)) };
    let mut failures = 0;
    for fields in variants.fields.iter().take(VARIANTS) {
        let key = contain(&shared.core.counters, || shared.core.policy.variant(&shared.settings.envelope, primary, request, fields));
        let Some(key) = key.flatten().map(|key| shared.settings.envelope.in_epoch(&key, variants.epoch)) else { continue };
        let lookup = shared.get(&key).await;
        failures += u32::from(lookup.is_none());
        let generation = lookup.as_ref().map(|lookup| lookup.generation);
        let entry = lookup.and_then(|lookup| lookup.record).and_then(Record::response);
        // The most recent of those that match (RFC 9111 section 4.1).
        let since = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|entry| entry.lifetime.since);
        if found.key == *primary || since(&entry) > since(&found.entry) {
            found = Found { key, entry, generation, ..found };
        }
        // Each of the others could take as long as a store may before it has failed as well.
        if failures > 0 {
            break;
        }
    }
    (found, failures)
}
