//! Connections to backends, so that an operator or a backend's death can end them.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::id::BackendId;
use crate::reason::CloseReason;
use crate::tls::ToBackends;

/// What ends one connection: whoever reads from it, now or later, finds it broken.
#[derive(Debug, Default)]
pub struct Handle {
    /// How TLS is spoken over it; `None` = not at all.
    tls: Option<Arc<ToBackends>>,
    ended: Cell<Option<CloseReason>>,
    is_doubtful: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Handle {
    /// Whether a new connection would speak TLS in the same way.
    pub fn speaks(&self, tls: Option<&Arc<ToBackends>>) -> bool {
        match (&self.tls, tls) {
            (Some(mine), Some(tls)) => Arc::ptr_eq(mine, tls),
            (mine, tls) => mine.is_none() && tls.is_none(),
        }
    }

    /// Ends it.
    pub fn end(&self, reason: CloseReason) {
        self.ended.set(Some(reason));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Why it was ended, if it was.
    pub fn ended(&self) -> Option<CloseReason> {
        self.ended.get()
    }

    /// Its other end may be gone.
    pub fn doubt(&self) {
        self.is_doubtful.set(true);
    }

    /// Whether its other end may be gone: then it is not used for anything new.
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful.get()
    }

    /// Who is to be woken.
    pub fn note_reader(&self, cx: &Context<'_>) {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
    }
}

/// Those of one thread, idle or not. Those that are gone are forgotten when there is no room for another one: there are
/// never more than twice as many as there were connections at once.
#[derive(Default)]
pub struct Links(RefCell<Vec<(BackendId, Weak<Handle>)>>);

impl Links {
    /// A new connection.
    pub fn add(&self, backend: BackendId, tls: Option<Arc<ToBackends>>) -> Rc<Handle> {
        let handle = Rc::new(Handle { tls, ..Handle::default() });
        let mut links = self.0.borrow_mut();
        if links.len() == links.capacity() {
            links.retain(|(_, handle)| handle.strong_count() > 0);
        }
        links.push((backend, Rc::downgrade(&handle)));
        handle
    }

    /// The connections to this backend.
    pub fn of(&self, backend: BackendId) -> Vec<Rc<Handle>> {
        let links = self.0.borrow();
        links.iter().filter(|(of, _)| *of == backend).filter_map(|(_, handle)| handle.upgrade()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let links = Links::default();
        let kept: Vec<_> = (0..3).map(|_| links.add(BackendId(1), None)).collect();
        for _ in 0..10_000 {
            links.add(BackendId(2), None);
        }
        assert_eq!(links.of(BackendId(1)).len(), kept.len());
        assert!(links.of(BackendId(2)).is_empty());
        assert!(links.0.borrow().capacity() < 100);
    }

    #[test]
    fn who_reads_is_woken_at_the_end() {
        let handle = Handle::default();
        handle.note_reader(&Context::from_waker(Waker::noop()));
        assert_eq!(handle.ended(), None);
        handle.end(CloseReason::Killed);
        assert!(handle.ended() == Some(CloseReason::Killed) && handle.reader.borrow().is_none());
    }
}
