//! Header fields that a policy asks every request for.

use http::{HeaderMap, HeaderName};

/// Names of header fields, in an order. Those that a request has are found in one pass over the request: it has few, and most are none of these.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    names: Vec<HeaderName>,
    shapes: u64,
}

impl Names {
    pub(super) fn of(names: impl IntoIterator<Item = &'static str>) -> Self {
        let mut all = Self::default();
        names.into_iter().map(HeaderName::from_static).for_each(|name| all.add(name));
        all
    }

    /// Adds one at the end, if it is not there yet.
    pub(super) fn add(&mut self, name: HeaderName) {
        if !self.contains(&name) {
            self.shapes |= shape(&name);
            self.names.push(name);
        }
    }

    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.names.contains(name)
    }

    /// Those that are in `headers`, in the order of this list.
    pub(super) fn among(&self, headers: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
        let mut present = 0_u128;
        for name in headers.keys().filter(|name| self.shapes & shape(name) != 0) {
            if let Some(at) = self.names.iter().position(|one| one == name).filter(|at| *at < KNOWN) {
                present |= 1 << at;
            }
        }
        // Of those further back, all are told: whoever asks for them finds nothing.
        self.names.iter().enumerate().filter(move |(at, _)| *at >= KNOWN || present >> at & 1 == 1).map(|(_, name)| name)
    }
}

/// How many names are told apart.
const KNOWN: usize = u128::BITS as usize;

/// One of 64 bits, by which most names that are not the same are told apart at a glance.
fn shape(name: &HeaderName) -> u64 {
    let bytes = name.as_str().as_bytes();
    let (first, last) = (bytes[0], bytes[bytes.len() - 1]);
    1 << ((usize::from(first) * 7 + usize::from(last) * 3 + bytes.len()) % 64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_asked_for_and_there_is_told_in_order(asked in prop::collection::vec(0..300_u16, 0..200), there in prop::collection::vec(0..300_u16, 0..40)) {
            let name = |number: &u16| HeaderName::try_from(format!("x-{number}")).unwrap();
            let mut names = Names::default();
            asked.iter().map(name).for_each(|name| names.add(name));
            let headers: HeaderMap = there.iter().map(|number| (name(number), "".parse().unwrap())).collect();
            let told: Vec<_> = names.among(&headers).filter(|name| headers.contains_key(*name)).collect();
            let mut wanted: Vec<HeaderName> = Vec::new();
            for name in asked.iter().map(name) {
                if headers.contains_key(&name) && !wanted.contains(&name) {
                    wanted.push(name);
                }
            }
            prop_assert_eq!(told, wanted.iter().collect::<Vec<_>>());
        }
    }
}
