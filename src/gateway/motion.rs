//! Whether what a request carries still moves: what stands still for too long holds a backend for nobody.
//!
//! With HTTP/1.1 that is seen by the connection's bytes, since it carries one request at a time. With HTTP/2 one request may
//! stand still while others move, and each is looked at by itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// What moves of a request: with HTTP/1.1 of the present one, and of all that follow it.
#[derive(Debug)]
pub struct Motion {
    /// Bodies under way, of the request and of its answer.
    bodies: Cell<u32>,
    /// Its answer has begun: from then on the client has to take it.
    is_answered: Cell<bool>,
    /// How long it may stand still; `None` = for ever.
    patience: Cell<Option<Duration>>,
    /// When a piece of a body passed last.
    moved: Cell<Instant>,
    is_ended: Cell<bool>,
    /// Who carries it.
    carrier: RefCell<Option<Waker>>,
}

impl Motion {
    /// Of a request that begins.
    pub fn new(now: Instant, patience: Duration) -> Self {
        Self {
            bodies: Cell::new(0),
            is_answered: Cell::new(false),
            patience: Cell::new(Some(patience)),
            moved: Cell::new(now),
            is_ended: Cell::new(false),
            carrier: RefCell::default(),
        }
    }

    /// A body more, or one less.
    pub fn count_body(&self, is_more: bool) {
        let bodies = self.bodies.get();
        self.bodies.set(if is_more { bodies + 1 } else { bodies - 1 });
    }

    /// Whether there is a body under way.
    pub fn has_bodies(&self) -> bool {
        self.bodies.get() > 0
    }

    /// A piece of a body has passed.
    pub fn note(&self, now: Instant) {
        self.moved.set(now);
    }

    /// Its answer begins.
    pub fn note_answer(&self, now: Instant) {
        self.is_answered.set(true);
        self.moved.set(now);
    }

    /// How long it may stand still.
    pub fn patience(&self) -> Option<Duration> {
        self.patience.get()
    }

    /// How long it may stand still from now on.
    pub fn set_patience(&self, patience: Option<Duration>) {
        self.patience.set(patience);
    }

    /// Whether something of it should have moved by now and has not.
    fn stands_still(&self, now: Instant) -> bool {
        let must_move = self.has_bodies() || self.is_answered.get();
        must_move
            && self.patience.get().is_some_and(|patience| now.saturating_duration_since(self.moved.get()) >= patience)
    }

    fn end(&self) {
        self.is_ended.set(true);
        if let Some(carrier) = self.carrier.take() {
            carrier.wake();
        }
    }

    /// Whether it has to end; whoever carries it is woken then.
    pub fn is_ended(&self, cx: &Context<'_>) -> bool {
        let mut carrier = self.carrier.borrow_mut();
        if !carrier.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *carrier = Some(cx.waker().clone());
        }
        self.is_ended.get()
    }
}

/// The requests that a connection with HTTP/2 carries.
#[derive(Debug, Default)]
pub struct Streams(RefCell<Slab<Rc<Motion>>>);

/// A place among them, until it is dropped.
#[derive(Debug)]
pub struct Seat<'s> {
    streams: &'s Streams,
    at: usize,
}

impl Streams {
    /// A request more.
    pub fn add(&self, motion: Rc<Motion>) -> Seat<'_> {
        Seat { streams: self, at: self.0.borrow_mut().insert(motion) }
    }

    /// Ends the requests that stand still. Tells whether none would be left: then none is ended here, but the connection
    /// is good for nothing.
    pub fn end_those_that_stand_still(&self, now: Instant) -> bool {
        let streams = self.0.borrow();
        let count = streams.iter().filter(|(_, motion)| motion.stands_still(now)).count();
        if count > 0 && count == streams.len() {
            return true;
        }
        if count > 0 {
            streams.iter().filter(|(_, motion)| motion.stands_still(now)).for_each(|(_, motion)| motion.end());
        }
        false
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.streams.0.borrow_mut().remove(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn only_those_that_should_move_and_do_not_are_ended() {
        #[allow(clippy::disallowed_methods)] // any moment will do
        let start = Instant::now();
        let (streams, cx) = (Streams::default(), Context::from_waker(Waker::noop()));
        let motions: Vec<_> = (0..5).map(|_| Rc::new(Motion::new(start, PATIENCE))).collect();
        let seats: Vec<_> = motions.iter().map(|motion| streams.add(motion.clone())).collect();
        let [waits, moves, still, answered, forever] = &motions[..] else { unreachable!("there are five") };
        [moves, still, forever].iter().for_each(|motion| motion.count_body(true));
        answered.note_answer(start);
        forever.set_patience(None);
        assert!(!streams.end_those_that_stand_still(start + PATIENCE / 2));
        moves.note(start + PATIENCE / 2);
        let ended = || motions.iter().map(|motion| motion.is_ended(&cx)).collect::<Vec<_>>();
        assert_eq!(ended(), [false; 5]);
        assert!(!streams.end_those_that_stand_still(start + PATIENCE));
        assert_eq!(ended(), [false, false, true, true, false], "{waits:?}");
        drop(seats);
        assert!(!streams.end_those_that_stand_still(start + 9 * PATIENCE), "nobody is left");
    }

    #[test]
    fn where_all_stand_still_it_is_the_connection_that_ends() {
        #[allow(clippy::disallowed_methods)] // any moment will do
        let start = Instant::now();
        let (streams, cx) = (Streams::default(), Context::from_waker(Waker::noop()));
        let motion = Rc::new(Motion::new(start, PATIENCE));
        motion.count_body(true);
        let _seat = streams.add(motion.clone());
        assert!(streams.end_those_that_stand_still(start + PATIENCE));
        assert!(!motion.is_ended(&cx));
        motion.count_body(false);
        assert!(
            !streams.end_those_that_stand_still(start + 9 * PATIENCE),
            "its body is over, and it has no answer yet"
        );
    }
}
