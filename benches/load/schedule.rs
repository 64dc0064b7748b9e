//! Fixed times at which something is begun, whatever became of what was begun before.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::now;

pub struct Schedule {
    period: Duration,
    next: Instant,
    /// Wakes at those times: what waits for events counts in milliseconds.
    timer: File,
}

impl Schedule {
    pub fn new(per_second: u64, poll: &Poll, token: Token) -> io::Result<Self> {
        let period = Duration::from_secs(1) / per_second.clamp(1, 1_000_000) as u32;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        // The clock is read before the timer is set, so that what it wakes for is due by then.
        let next = now() + period;
        let interval = Timespec { tv_sec: period.as_secs() as i64, tv_nsec: period.subsec_nanos().into() };
        let times = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        Ok(Self { period, next, timer: timer.into() })
    }

    /// To be called when the timer has woken: before it is read it does not wake again.
    pub fn wind(&mut self) -> io::Result<()> {
        self.timer.read_exact(&mut [0; 8])
    }

    /// The earliest of those times that is not after this one; each is given once.
    pub fn due(&mut self, time: Instant) -> Option<Instant> {
        let due = self.next;
        (due <= time).then(|| {
            self.next += self.period;
            due
        })
    }
}
