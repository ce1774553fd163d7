//! Members that the activation gate does not wait for: excluded by an operator, by name and for a time.
//!
//! An exclusion ends by itself, in the service time of the node that was told ([`crate::elapsed`]): no clock that
//! jumps ends it early, and none makes it last.

use std::{collections::BTreeMap, time::Duration};

use keymoot_types::NodeName;

/// Who is excluded, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions(BTreeMap<NodeName, Duration>);

impl Exclusions {
    /// Excludes a member until then. The newest word counts, also where it ends sooner.
    pub fn exclude(&mut self, node: NodeName, until: Duration) {
        self.0.insert(node, until);
    }

    /// Whether a member is excluded now.
    pub fn excludes(&self, node: &NodeName, now: Duration) -> bool {
        self.0.get(node).is_some_and(|until| now < *until)
    }

    /// Who is excluded now, and for how much longer, ascending by name.
    pub fn left(&self, now: Duration) -> impl Iterator<Item = (&NodeName, Duration)> {
        let left = self.0.iter().map(move |(node, until)| (node, until.saturating_sub(now)));
        left.filter(|(_, left)| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusion_ends_and_the_newest_word_counts() {
        let (db3, second): (NodeName, _) = ("db3".parse().unwrap(), Duration::from_secs);
        let mut exclusions = Exclusions::default();
        assert!(!exclusions.excludes(&db3, second(0)));
        exclusions.exclude(db3.clone(), second(10));
        assert!(exclusions.excludes(&db3, second(9)));
        assert_eq!(exclusions.left(second(9)).collect::<Vec<_>>(), [(&db3, second(1))]);
        assert!(!exclusions.excludes(&db3, second(10)));
        assert_eq!(exclusions.left(second(10)).count(), 0);
        exclusions.exclude(db3.clone(), second(5));
        assert!(!exclusions.excludes(&db3, second(6)));
    }
}
