//! Responses as callers get them: with what the cache has to say of each.

use std::{future::Future, pin::Pin, sync::Arc};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, request};
use http_body::Body;
use tokio::time::timeout;

use crate::{
    body::ResponseBody,
    cost::NanoUsd,
    error::BoxError,
    flight::Head,
    flow::Step,
    observe::{Ending, Recorder},
    policy::{Bypass, Deadline},
    shared::Settings,
    status::{CACHE_STATUS, CacheStatus, Outcome},
};

/// What a request comes to.
pub(crate) type Answer<RB, E> = Result<Response<ResponseBody<RB>>, E>;

/// Tells what an answer cost that needed no upstream call, and what it saved.
pub(crate) fn tell_cost(saved: Option<NanoUsd>, headers: &mut HeaderMap) {
    headers.insert(&X_CACHE_COST_USD, HeaderValue::from_static("0"));
    headers.remove(&X_CACHE_SAVED_USD);
    let saved = saved.map(|saved| saved.to_string());
    if let Some(saved) = saved.and_then(|saved| HeaderValue::from_str(saved.trim_start_matches('$')).ok()) {
        headers.insert(&X_CACHE_SAVED_USD, saved);
    }
}

static X_CACHE_COST_USD: HeaderName = HeaderName::from_static("x-cache-cost-usd");
static X_CACHE_SAVED_USD: HeaderName = HeaderName::from_static("x-cache-saved-usd");

pub(crate) fn respond<RB>(
    settings: &Settings,
    head: Head,
    room: Extensions,
    status: CacheStatus,
    body: ResponseBody<RB>,
) -> Response<ResponseBody<RB>> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    *response.headers_mut() = head.headers;
    *response.extensions_mut() = room;
    tell(settings, status, &mut response);
    response
}

pub(crate) fn tell<RB>(settings: &Settings, status: CacheStatus, response: &mut Response<ResponseBody<RB>>) {
    if settings.status_header {
        status.append(&settings.name, settings.show_key, response.headers_mut());
    }
    response.extensions_mut().insert(status);
}

/// Waits for an answer no longer than the caller does. A call that was made for it goes on, as for any caller that leaves.
pub(crate) async fn within<RB, E>(
    deadline: Deadline,
    settings: Arc<Settings>,
    mut run: Pin<Box<impl Future<Output = Step<RB, E>>>>,
) -> Answer<RB, E>
where
    RB: Body,
    RB::Error: Into<BoxError>,
{
    let whole = async {
        match run.as_mut().await {
            Step::Done(answer) => answer,
            Step::On(rest) => rest.await,
        }
    };
    match timeout(deadline.within, whole).await {
        Ok(answer) => answer,
        Err(_) => {
            let mut response = (deadline.answer)().map(|()| ResponseBody::default());
            tell(&settings, CacheStatus::of(Outcome::Unanswered), &mut response);
            Ok(response)
        }
    }
}

/// Passes a request on as if the cache were not there.
pub(crate) async fn pass<RB, E>(
    settings: &Settings,
    asked: Option<Box<request::Parts>>,
    call: impl Future<Output = Result<Response<RB>, E>>,
    reason: Bypass,
    mut recorder: Recorder,
) -> Answer<RB, E>
where
    RB: Body,
    RB::Error: Into<BoxError>,
{
    recorder.outcome(Outcome::Bypass(reason));
    match call.await {
        Ok(response) => Ok(passed(settings, asked, response, reason, recorder)),
        Err(error) => {
            recorder.end(Ending::Failed);
            Err(error)
        }
    }
}

/// The response to a request that was passed on; `asked` is that request, if [the books are kept](Settings::keeps_books). Its extensions stay as they are: otherwise a bypass allocates
/// nothing.
pub(crate) fn passed<RB>(
    settings: &Settings,
    asked: Option<Box<request::Parts>>,
    response: Response<RB>,
    reason: Bypass,
    mut recorder: Recorder,
) -> Response<ResponseBody<RB>>
where
    RB: Body,
    RB::Error: Into<BoxError>,
{
    recorder.outcome(Outcome::Bypass(reason));
    let (mut head, body) = response.into_parts();
    recorder.pass(asked, &head);
    recorder.head(head.status);
    if settings.status_header {
        head.headers.append(&CACHE_STATUS, settings.bypass_status(reason));
    }
    Response::from_parts(head, ResponseBody::pass(body, recorder))
}
