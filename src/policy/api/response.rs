use http::{HeaderMap, HeaderName, Method, Version, header, request, response::Parts};

use super::{ApiPolicy, Sharing};
use crate::{
    entry::Lifetime,
    options::CacheOptions,
    policy::{Moment, NotStored, Storing, http::Directives, strip_hop_by_hop},
};

/// Fields that speak of one exchange or of whose account it was on, and would mislead in another.
const OF_ONE_EXCHANGE: &[&str] = &[
    "age",
    "anthropic-organization-id",
    "authentication-info",
    "openai-organization",
    "openai-processing-ms",
    "openai-project",
    "retry-after",
    "server-timing",
    "set-cookie2",
    "www-authenticate",
    "x-envoy-upstream-service-time",
];

/// Families of such fields: rate limits, and permissions for one origin.
const OF_ONE_EXCHANGE_PREFIXES: &[&str] = &["x-ratelimit", "ratelimit", "x-rate-limit", "anthropic-ratelimit", "access-control-"];

/// Under which names upstreams tell their request ids.
const REQUEST_IDS: &[&str] = &["x-request-id", "request-id", "x-amzn-requestid", "apim-request-id", "cf-ray", "x-cloud-trace-context"];

impl ApiPolicy {
    pub(super) fn storing(
        &self,
        request: &request::Parts,
        options: &CacheOptions,
        response: &Parts,
        len: Option<u64>,
        moment: Moment,
    ) -> Result<Storing, NotStored> {
        let headers = &response.headers;
        self.check_addressee(options, response)?;
        let negative = self.negative.as_ref().filter(|(statuses, _)| statuses.contains(&response.status)).map(|(_, cap)| *cap);
        if (negative.is_none() && !self.statuses.contains(&response.status)) || headers.contains_key(header::CONTENT_RANGE) {
            return Err(NotStored::Status);
        }
        let stream = media_type(headers).eq_ignore_ascii_case("text/event-stream");
        if is_encoded(headers) && stream {
            return Err(NotStored::Encoded);
        }
        let promised = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()).or(len);
        if promised.is_some_and(|promised: u64| promised > self.max_body as u64) {
            return Err(NotStored::TooLarge);
        }
        let ttl = options.wishes().ttl.map_or(self.ttl, |ttl| ttl.clamp(self.ttl_bounds.0, self.ttl_bounds.1));
        let ttl = negative.map_or(ttl, |cap| options.wishes().ttl.map_or(cap, |_| ttl.min(cap)));
        if ttl.is_zero() {
            return Err(NotStored::Forbidden);
        }
        if self.store_if.as_ref().is_some_and(|predicate| !predicate(response)) {
            return Err(NotStored::Predicate);
        }
        Ok(Storing {
            moved: false,
            headers: self.kept(headers),
            lifetime: match negative {
                Some(_) => Lifetime::fresh(moment.now, ttl),
                None => Lifetime {
                    stale_while_revalidate: self.stale_while_revalidate,
                    stale_if_error: self.stale_if_error,
                    ..Lifetime::fresh(moment.now, ttl)
                },
            },
            max_body: self.max_body,
            tags: if self.response_tags { tags(headers)? } else { Vec::new() },
            vary: None,
            needs_proof: !self.close_delimited && request.method != Method::HEAD && promised.is_none() && is_close_delimited(response),
            upstream_request_id: request_id(headers),
        })
    }

    /// Is the response for this one caller alone? Asked first, for what is not stored for another reason may still be shared with those who
    /// wait for it.
    fn check_addressee(&self, options: &CacheOptions, response: &Parts) -> Result<(), NotStored> {
        let headers = &response.headers;
        if self.honour_no_store && Directives::of(headers).no_store {
            return Err(NotStored::Forbidden);
        }
        let of_the_caller = match response.status.as_u16() {
            // These answer a condition or a range, which are not in the key.
            206 | 304 | 412 | 416 => true,
            // These refuse the caller's credentials.
            401 | 403 | 407 => !self.keys_credentials(options),
            _ => false,
        };
        if of_the_caller {
            return Err(NotStored::Personal);
        }
        if is_encoded(headers) && !self.encoded {
            return Err(NotStored::Encoded);
        }
        self.check_vary(options, headers)
    }

    /// Do those who share have the same credentials? Not where a scope was named for them.
    fn keys_credentials(&self, options: &CacheOptions) -> bool {
        matches!(self.sharing, Sharing::PerCredential) && options.wishes().scope.is_none()
    }

    /// A response that varies by something that is not in the key would reach callers that it is not for.
    fn check_vary(&self, options: &CacheOptions, headers: &HeaderMap) -> Result<(), NotStored> {
        let fields = headers.get_all(header::VARY).iter().flat_map(|line| line.to_str().unwrap_or("*").split(','));
        for field in fields.map(str::trim).filter(|field| !field.is_empty()) {
            let keyed = match HeaderName::from_bytes(field.as_bytes()) {
                // Without `content-encoding` there is nothing to choose; what depends on the origin alone is not kept.
                Ok(header::ACCEPT_ENCODING | header::ORIGIN | header::CONTENT_TYPE) => true,
                Ok(name) if name.as_str().starts_with("access-control-request-") => true,
                Ok(name) => self.headers.contains(&name) || (self.credentials.contains(&name) && self.keys_credentials(options)),
                Err(_) => false,
            };
            if !keyed {
                return Err(NotStored::Vary);
            }
        }
        Ok(())
    }

    fn kept(&self, headers: &HeaderMap) -> HeaderMap {
        let mut kept = headers.clone();
        strip_hop_by_hop(&mut kept);
        if !self.set_cookie {
            kept.remove(header::SET_COOKIE);
        }
        let of_one_exchange = |name: &HeaderName| {
            let name = name.as_str();
            OF_ONE_EXCHANGE.contains(&name)
                || REQUEST_IDS.contains(&name)
                || OF_ONE_EXCHANGE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let doomed: Vec<HeaderName> = kept.keys().filter(|name| of_one_exchange(name)).cloned().collect();
        for name in doomed {
            kept.remove(name);
        }
        kept
    }
}

/// Did the call succeed, if it was a gRPC call? Its status stands in the trailers, or in the head if there is nothing else (gRPC over HTTP/2, "Responses").
pub(super) fn grpc_succeeded(response: &Parts, trailers: Option<&HeaderMap>) -> Result<(), NotStored> {
    const STATUS: &str = "grpc-status";
    const GRPC: &str = "application/grpc";
    let is_grpc = media_type(&response.headers).get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC));
    match trailers.and_then(|trailers| trailers.get(STATUS)).or_else(|| response.headers.get(STATUS)) {
        Some(status) if status == "0" => Ok(()),
        Some(_) => Err(NotStored::GrpcStatus),
        None if is_grpc => Err(NotStored::Incomplete),
        None => Ok(()),
    }
}

const MAX_TAGS: usize = 256;
const MAX_TAG: usize = 1024;

/// Tags as Fastly (`surrogate-key`) and Cloudflare (`cache-tag`) have them.
fn tags(headers: &HeaderMap) -> Result<Vec<String>, NotStored> {
    let mut tags = Vec::new();
    for (field, separator) in [("surrogate-key", ' '), ("cache-tag", ',')] {
        for line in headers.get_all(field) {
            // One that cannot be read cannot be asked for either.
            let line = std::str::from_utf8(line.as_bytes()).map_err(|_| NotStored::TooLarge)?;
            tags.extend(line.split(separator).map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned));
        }
    }
    if tags.len() > MAX_TAGS || tags.iter().any(|tag| tag.len() > MAX_TAG) {
        return Err(NotStored::TooLarge);
    }
    Ok(tags)
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Does nothing but the end of the connection end the body (RFC 9112 section 6.3)? HTTP/2 and later end every body explicitly.
fn is_close_delimited(response: &Parts) -> bool {
    response.version <= Version::HTTP_11 && !response.headers.contains_key(header::TRANSFER_ENCODING)
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    REQUEST_IDS.iter().find_map(|name| Some(headers.get(*name)?.to_str().ok()?.to_owned()))
}
