//! Pages of history that are being read, so that streams that resume together cause one read from
//! the broker. It does no IO. Look here for how long a page is shared.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::sync::OnceCell;

use crate::broker::{History, ReadRange};
use crate::channel::Channel;

/// One page: filled by the first stream that needs it; `None` if the broker denies reading.
pub(super) type Page = OnceCell<Option<History>>;

pub(super) type PageKey = (Channel, ReadRange);

/// The pages that streams wait for. Nothing else is retained, so there are at most as many pages as
/// streams that replay.
#[derive(Default)]
pub(super) struct Pages(HashMap<PageKey, Weak<Page>>);

impl Pages {
    /// The page, shared with the streams that are reading it.
    pub(super) fn join(&mut self, key: PageKey) -> Arc<Page> {
        if let Some(page) = self.0.get(&key).and_then(Weak::upgrade) {
            return page;
        }
        // Streams that are dropped while they wait leave their entries behind.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, page| page.strong_count() > 0);
        }
        let page = Arc::default();
        self.0.insert(key, Arc::downgrade(&page));
        page
    }

    /// Removes a page that was read: later streams read it again, since there may be more events.
    pub(super) fn leave(&mut self, key: &PageKey, page: &Arc<Page>) {
        let is_same = |other: &Weak<Page>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(page));
        if self.0.get(key).is_some_and(is_same) {
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
    fn a_page_is_shared_while_it_is_read_and_read_again_afterwards() {
        let mut pages = Pages::default();
        let (one, two, other) = (pages.join(key(1)), pages.join(key(1)), pages.join(key(2)));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        pages.leave(&key(1), &one);
        let next = pages.join(key(1));
        assert!(!Arc::ptr_eq(&one, &next));
        pages.leave(&key(1), &two);
        assert!(Arc::ptr_eq(&next, &pages.join(key(1))), "a late leave removes no other page");
    }

    #[test]
    fn pages_of_dropped_streams_do_not_accumulate() {
        let mut pages = Pages::default();
        (0..10_000).for_each(|offset| drop(pages.join(key(offset))));
        assert!(pages.0.len() < 100, "{}", pages.0.len());
    }
}
