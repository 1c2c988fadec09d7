use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, request, response};

use super::RequestRecord;
use crate::{
    cost::Call,
    inspect::Inspector,
    shared::{Settings, contain},
};

/// An upstream call past the cache, whose response is looked at on its way to the caller: what did it cost?
pub(super) struct Passing {
    request: Box<request::Parts>,
    status: StatusCode,
    headers: HeaderMap,
    first_byte: Duration,
    /// `None` if the policy has none for this response, or if it panicked.
    inspector: Option<Box<dyn Inspector>>,
}

impl Passing {
    /// From the head of the response on, which came after this time.
    pub(super) fn begin(settings: &Settings, request: Box<request::Parts>, response: &response::Parts, first_byte: Duration) -> Self {
        let inspector = settings.inspect.as_ref().and_then(|inspect| contain(&settings.counters, || inspect.begin(&request, response))?);
        Self { request, status: response.status, headers: response.headers.clone(), first_byte, inspector }
    }

    pub(super) fn frame(&mut self, settings: &Settings, data: &[u8]) {
        if let Some(inspector) = &mut self.inspector
            && contain(&settings.counters, || inspector.frame(data)).is_none()
        {
            self.inspector = None;
        }
    }

    /// Adds to the record what the call did and cost, this long after it was made. That is owed also if it broke off.
    pub(super) fn close(self, settings: &Arc<Settings>, record: &mut RequestRecord, last_byte: Duration) {
        let findings = self.inspector.and_then(|inspector| contain(&settings.counters, || inspector.end())).unwrap_or_default();
        let call = Call {
            request: &self.request,
            status: self.status,
            headers: &self.headers,
            usage: findings.usage.as_ref(),
            model: findings.model.as_deref(),
            provider: record.labels.get("provider"),
            service_tier: findings.service_tier.as_deref(),
            labels: &record.labels,
            first_byte: self.first_byte,
            last_byte,
        };
        record.billed = settings.price(&settings.counters, &call);
        settings.counters.billed_nanos.add(record.billed.unwrap_or_default().0);
        (record.model, record.operation, record.usage) = (findings.model.map(Arc::from), findings.operation, findings.usage);
    }
}
