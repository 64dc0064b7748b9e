//! Whether a request still moves and is in time: what stands still for too long holds a backend for nobody.
//!
//! Whoever watches over the connection looks once a second: a timer for each request would cost more than finding its
//! route.
//!
//! With HTTP/1.1 that is seen by the connection's bytes, since it carries one request at a time. With HTTP/2 one request may
//! stand still while others move, and each is looked at by itself.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// How often is looked.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What moves of a request: with HTTP/1.1 of the present one, and of all that follow it.
#[derive(Debug)]
pub struct Motion {
    /// Bodies under way, of the request and of its answer.
    bodies: Cell<u32>,
    /// How many there have been.
    begun: Cell<u32>,
    /// Its answer has begun: from then on the client has to take it.
    is_answered: Cell<bool>,
    /// How long it may stand still; `None` = for ever.
    patience: Cell<Option<Duration>>,
    /// When a piece of a body passed last.
    moved: Cell<Instant>,
    is_ended: Cell<bool>,
    /// By when what it waits for has to come.
    due: Cell<Option<Instant>>,
    is_late: Cell<bool>,
    /// Who carries it.
    carrier: RefCell<Option<Waker>>,
}

impl Motion {
    /// Of a request that begins.
    pub fn new(now: Instant, patience: Duration) -> Self {
        Self {
            bodies: Cell::new(0),
            begun: Cell::new(0),
            is_answered: Cell::new(false),
            patience: Cell::new(Some(patience)),
            moved: Cell::new(now),
            is_ended: Cell::new(false),
            due: Cell::new(None),
            is_late: Cell::new(false),
            carrier: RefCell::default(),
        }
    }

    /// A body begins.
    pub fn begin_body(&self) {
        self.bodies.set(self.bodies.get() + 1);
        self.begun.set(self.begun.get().wrapping_add(1));
    }

    /// A body is over.
    pub fn end_body(&self) {
        self.bodies.set(self.bodies.get() - 1);
    }

    /// How many bodies have begun: what had to wait before has its time from then on.
    pub fn begun(&self) -> u32 {
        self.begun.get()
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

    /// Waits for this until then; `None` when it has not come.
    pub async fn by<T>(&self, due: Instant, now: Instant, mut what: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        if due.saturating_duration_since(now) <= LOOK_INTERVAL {
            return tokio::time::timeout_at(due.into(), what).await.ok();
        }
        self.due.set(Some(due));
        let _whatever_becomes_of_it = Wait(self);
        poll_fn(|cx| match what.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.is_late.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// When to look again, where that is sooner than usual; `None` = it waits in vain, and is to be carried on at once.
    pub fn look(&self, now: Instant, again: Instant) -> Option<Instant> {
        match self.due.get() {
            Some(due) if due <= now => {
                self.is_late.set(true);
                self.due.set(None);
                None
            }
            due => Some(due.map_or(again, |due| due.min(again))),
        }
    }

    /// Whether something of it should have moved by now and has not.
    fn stands_still(&self, now: Instant) -> bool {
        let must_move = self.has_bodies() || self.is_answered.get();
        must_move
            && self.patience.get().is_some_and(|patience| now.saturating_duration_since(self.moved.get()) >= patience)
    }

    fn end(&self) {
        self.is_ended.set(true);
        self.wake();
    }

    fn wake(&self) {
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

/// Something is waited for.
struct Wait<'m>(&'m Motion);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.due.set(None);
        self.0.is_late.set(false);
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

    /// Ends the requests that stand still, and lets those go on that have waited in vain; tells when to look again. `None` =
    /// no request would be left: then none is ended here, but the connection is good for nothing.
    pub fn look(&self, now: Instant, mut again: Instant) -> Option<Instant> {
        let streams = self.0.borrow();
        let count = streams.iter().filter(|(_, motion)| motion.stands_still(now)).count();
        if count > 0 && count == streams.len() {
            return None;
        }
        for (_, motion) in streams.iter() {
            if motion.stands_still(now) {
                motion.end();
            }
            match motion.look(now, again) {
                Some(sooner) => again = sooner,
                None => motion.wake(),
            }
        }
        Some(again)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.streams.0.borrow_mut().remove(self.at);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn any_moment() -> Instant {
        #[allow(clippy::disallowed_methods)] // any one will do
        Instant::now()
    }

    #[test]
    fn only_those_that_should_move_and_do_not_are_ended() {
        let (start, streams, cx) = (any_moment(), Streams::default(), Context::from_waker(Waker::noop()));
        let look = |now| streams.look(now, now + LOOK_INTERVAL);
        let motions: Vec<_> = (0..5).map(|_| Rc::new(Motion::new(start, PATIENCE))).collect();
        let seats: Vec<_> = motions.iter().map(|motion| streams.add(motion.clone())).collect();
        let [waits, moves, still, answered, forever] = &motions[..] else { unreachable!("there are five") };
        [moves, still, forever].iter().for_each(|motion| motion.begin_body());
        answered.note_answer(start);
        forever.set_patience(None);
        assert_eq!(look(start + PATIENCE / 2), Some(start + PATIENCE / 2 + LOOK_INTERVAL));
        moves.note(start + PATIENCE / 2);
        let ended = || motions.iter().map(|motion| motion.is_ended(&cx)).collect::<Vec<_>>();
        assert_eq!(ended(), [false; 5]);
        assert!(look(start + PATIENCE).is_some());
        assert_eq!(ended(), [false, false, true, true, false], "{waits:?}");
        drop(seats);
        assert!(look(start + 9 * PATIENCE).is_some(), "nobody is left");
    }

    #[test]
    fn where_all_stand_still_it_is_the_connection_that_ends() {
        let (start, streams, cx) = (any_moment(), Streams::default(), Context::from_waker(Waker::noop()));
        let look = |now| streams.look(now, now + LOOK_INTERVAL);
        let motion = Rc::new(Motion::new(start, PATIENCE));
        motion.begin_body();
        let _seat = streams.add(motion.clone());
        assert_eq!(look(start + PATIENCE), None);
        assert!(!motion.is_ended(&cx));
        motion.end_body();
        assert!(look(start + 9 * PATIENCE).is_some(), "its body is over, and it has no answer yet");
    }

    #[test]
    fn what_is_waited_for_comes_in_time_or_is_given_up_at_the_next_look() {
        let (start, motion) = (any_moment(), Motion::new(any_moment(), PATIENCE));
        let (due, mut cx) = (start + PATIENCE, Context::from_waker(Waker::noop()));
        let again = |now| now + LOOK_INTERVAL;
        {
            let seven = pin!(ready(7));
            let mut comes = pin!(motion.by(due, start, seven));
            assert_eq!(comes.as_mut().poll(&mut cx), Poll::Ready(Some(7)));
        }
        assert_eq!(motion.look(due, again(due)), Some(again(due)), "nothing is waited for any more");
        {
            let nothing = pin!(pending::<u8>());
            let mut never = pin!(motion.by(due, start, nothing));
            assert_eq!(never.as_mut().poll(&mut cx), Poll::Pending);
            assert_eq!(motion.look(start, again(start)), Some(again(start)));
            assert_eq!(motion.look(due - LOOK_INTERVAL / 2, again(due)), Some(due), "looked for just then");
            assert_eq!(never.as_mut().poll(&mut cx), Poll::Pending);
            assert_eq!(motion.look(due, again(due)), None);
            assert_eq!(never.as_mut().poll(&mut cx), Poll::Ready(None));
        }
        let nothing = pin!(pending::<u8>());
        let mut next = pin!(motion.by(due, start, nothing));
        assert_eq!(next.as_mut().poll(&mut cx), Poll::Pending, "what follows has a time of its own");
    }
}
