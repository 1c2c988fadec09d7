//! What calls cost, and what answers from the cache save.
//!
//! A [`CostModel`] is a function from a call to its price. It is asked once per upstream call, and once per answer from the store: what it says then was saved. So a stored
//! answer is worth today's price, not the price of the day on which it was made. A request that shares another's call saves what that call cost. Unknown is `None`, never 0.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign},
    time::Duration,
};

use http::{HeaderMap, StatusCode, request};

use crate::entry::{Labels, Usage};

/// Prices calls.
///
/// It runs on the path of requests: it is to compute and not to wait. A panic in it is contained, and the cost is unknown then.
///
/// Any function is one. APIs that charge per call need no more than this:
///
/// ```
/// use tower_response_cache::{ApiPolicy, CacheLayer, NanoUsd, Sharing, cost::Call, store::Memory};
///
/// let layer = CacheLayer::new(Memory::new(64 << 20), ApiPolicy::new(Sharing::Shared))
///     // Half a cent for each answer; errors are free.
///     .cost(|call: &Call<'_>| Some(NanoUsd(if call.status.is_success() { 5_000_000 } else { 0 })));
/// # let _ = layer;
/// ```
///
/// For LLMs, there are [`LlmPrices`](crate::llm::LlmPrices), with the feature `llm`.
pub trait CostModel: Send + Sync + 'static {
    /// What the call costs; `None` if that is unknown.
    fn cost(&self, call: &Call<'_>) -> Option<NanoUsd>;
}

impl<F> CostModel for F
where
    F: Fn(&Call<'_>) -> Option<NanoUsd> + Send + Sync + 'static,
{
    fn cost(&self, call: &Call<'_>) -> Option<NanoUsd> {
        self(call)
    }
}

/// A call of the upstream: one that was made, or that an answer from the cache made unnecessary.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The head of the request.
    pub request: &'a request::Parts,
    /// The status of the response.
    pub status: StatusCode,
    /// The header fields of the response; of a stored one, those that are stored.
    pub headers: &'a HeaderMap,
    /// Tokens of the answer; `None` if they are unknown, as in answers that are not inspected.
    pub usage: Option<&'a Usage>,
    /// The model that answered, as the answer says.
    pub model: Option<&'a str>,
    /// Who answered: the `provider` label of the request that the answer was made for.
    pub provider: Option<&'a str>,
    /// The service tier, as the answer says.
    pub service_tier: Option<&'a str>,
    /// The labels of the request that is priced.
    pub labels: &'a Labels,
    /// How long the upstream took to the response head.
    pub first_byte: Duration,
    /// How long it took to the end of the body; 0 if the body is not watched.
    pub last_byte: Duration,
}

impl fmt::Debug for Call<'_> {
    /// Leaves out the heads, which hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("status", &self.status)
            .field("usage", &self.usage)
            .field("model", &self.model)
            .field("provider", &self.provider)
            .field("service_tier", &self.service_tier)
            .field("first_byte", &self.first_byte)
            .field("last_byte", &self.last_byte)
            .finish_non_exhaustive()
    }
}

/// An amount of money, in billionths of a US dollar. Sums saturate, at some 18 billion dollars.
///
/// ```
/// use tower_response_cache::NanoUsd;
///
/// assert_eq!((NanoUsd(1_250_000_000) + NanoUsd(500)).to_string(), "$1.2500005");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub u64);

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// In dollars, for display and for formats that know no integers of this size.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add for NanoUsd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for NanoUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for NanoUsd {
    /// In dollars, with two digits after the point or as many as it takes to say it exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let digits = format!("{nanos:09}");
        let least = digits.trim_end_matches('0').len().max(2);
        write!(f, "${dollars}.{}", &digits[..least])
    }
}

#[cfg(test)]
mod tests {
    use super::NanoUsd;

    #[test]
    fn money_is_shown_exactly_and_sums_never_wrap() {
        for (nanos, shown) in
            [(0, "$0.00"), (1, "$0.000000001"), (100_000_000, "$0.10"), (12_345_678_900, "$12.3456789"), (3_000_000_000, "$3.00")]
        {
            assert_eq!(NanoUsd(nanos).to_string(), shown);
        }
        assert_eq!([NanoUsd(u64::MAX), NanoUsd(1)].into_iter().sum::<NanoUsd>(), NanoUsd(u64::MAX));
    }
}
