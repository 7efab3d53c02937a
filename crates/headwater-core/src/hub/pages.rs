//! Pages of history that are being read, so that streams that resume together ask the broker once. No
//! IO in here.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::sync::OnceCell;

use crate::broker::{History, ReadRange};
use crate::channel::Channel;

/// One page: filled by the first who asks, `None` if the broker refuses.
pub(super) type Page = OnceCell<Option<History>>;

pub(super) type PageKey = (Channel, ReadRange);

/// The pages that somebody waits for. Nothing is kept beyond that, so there are at most as many as
/// streams that replay.
#[derive(Default)]
pub(super) struct Pages(HashMap<PageKey, Weak<Page>>);

impl Pages {
    /// The page, shared with whoever is reading it.
    pub(super) fn join(&mut self, key: PageKey) -> Arc<Page> {
        if let Some(page) = self.0.get(&key).and_then(Weak::upgrade) {
            return page;
        }
        // Streams that were dropped while they waited left theirs behind.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, page| page.strong_count() > 0);
        }
        let page = Arc::default();
        self.0.insert(key, Arc::downgrade(&page));
        page
    }

    /// The page was read: who asks from now on reads anew, since there may be more.
    pub(super) fn leave(&mut self, key: &PageKey, page: &Arc<Page>) {
        let is_it = |other: &Weak<Page>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(page));
        if self.0.get(key).is_some_and(is_it) {
            self.0.remove(key);
        }
        if self.0.is_empty() {
            self.0 = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(offset: u64) -> PageKey {
        (Channel::new("a").unwrap(), ReadRange::After { offset, count: 1 })
    }

    #[test]
    fn a_page_is_shared_while_it_is_read_and_read_anew_after() {
        let mut pages = Pages::default();
        let (one, two, other) = (pages.join(key(1)), pages.join(key(1)), pages.join(key(2)));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        pages.leave(&key(1), &one);
        let anew = pages.join(key(1));
        assert!(!Arc::ptr_eq(&one, &anew));
        pages.leave(&key(1), &two);
        assert!(Arc::ptr_eq(&anew, &pages.join(key(1))), "who is late takes away no other page");
    }

    #[test]
    fn pages_of_streams_that_were_dropped_do_not_pile_up() {
        let mut pages = Pages::default();
        (0..10_000).for_each(|offset| drop(pages.join(key(offset))));
        assert!(pages.0.len() < 100, "{}", pages.0.len());
    }
}
