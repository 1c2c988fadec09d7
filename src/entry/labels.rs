use std::{fmt, ops::Deref, sync::Arc};

/// Names and values that a request goes by for observers, metadata and invalidation by pattern; no key material. Clones share them.
#[derive(Clone, Default)]
pub struct Labels(Option<Arc<Vec<(String, String)>>>);

impl Labels {
    /// None.
    pub const NONE: Self = Self(None);

    /// Adds one. Names may be there more than once; the first counts.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        Arc::make_mut(self.0.get_or_insert_default()).push((name.into(), value.into()));
    }

    /// The value of the first label of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

impl Deref for Labels {
    type Target = [(String, String)];

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().map_or(&[], |labels| labels)
    }
}

impl From<Vec<(String, String)>> for Labels {
    fn from(labels: Vec<(String, String)>) -> Self {
        Self(Some(labels).filter(|labels| !labels.is_empty()).map(Arc::new))
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        labels.into_iter().collect::<Vec<_>>().into()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Labels {}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_counts_and_clones_are_their_own_once_they_differ() {
        let mut labels = Labels::default();
        assert_eq!((labels.get("model"), labels.len(), &labels), (None, 0, &Labels::from(Vec::new())));
        labels.push("model", "m");
        let before = labels.clone();
        labels.push("model", "other");
        assert_eq!((labels.get("model"), labels.len(), before.len()), (Some("m"), 2, 1));
        assert_eq!(format!("{before:?}"), r#"[("model", "m")]"#);
    }
}
