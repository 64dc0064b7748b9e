//! What was sent, what of it was answered, and when: every reply is held against it.

use std::time::Duration;

use crate::histogram::Histogram;
use crate::payload::Stamp;

/// A place for one datagram in flight. Sequence numbers count up by one, so the last ones are kept as bits.
#[derive(Clone, Copy, Default)]
struct Slot {
    sequence: u32,
    /// Bit n: the datagram n before this one was answered.
    answered: u64,
    sent: Duration,
    is_waiting: bool,
}

pub struct Ledger {
    run: u32,
    in_flight: usize,
    slots: Vec<Slot>,
    /// Datagrams of each flow that wait for their replies.
    waiting: Vec<u32>,
    pub latencies: Histogram,
    pub sent: u64,
    pub lost: u64,
    /// Replies to what had been given up.
    pub late: u64,
    /// Replies to what had been answered.
    pub duplicates: u64,
    /// Replies that nobody can have sent: of another length, of other bytes, to another flow.
    pub corrupt: u64,
}

impl Ledger {
    pub fn new(run: u32, flows: usize, in_flight: usize) -> Self {
        Self {
            run,
            in_flight,
            slots: vec![Slot::default(); flows * in_flight],
            waiting: vec![0; flows],
            latencies: Histogram::new(),
            sent: 0,
            lost: 0,
            late: 0,
            duplicates: 0,
            corrupt: 0,
        }
    }

    /// How many of a flow's datagrams are in flight.
    pub fn waiting(&self, flow: usize) -> u32 {
        self.waiting[flow]
    }

    pub fn all_waiting(&self) -> u64 {
        self.waiting.iter().map(|count| u64::from(*count)).sum()
    }

    /// Whether a flow's slot is free; from now on it is in flight.
    pub fn begin(&mut self, flow: usize, number: usize, now: Duration) -> Option<Stamp> {
        let slot = &mut self.slots[flow * self.in_flight + number];
        if slot.is_waiting {
            return None;
        }
        *slot =
            Slot { sequence: slot.sequence.wrapping_add(1), answered: slot.answered << 1, sent: now, is_waiting: true };
        self.waiting[flow] += 1;
        self.sent += 1;
        Some(Stamp { run: self.run, flow: flow as u32, slot: number as u32, sequence: slot.sequence })
    }

    /// A datagram has come to a flow; `None` = nothing that makes sense.
    pub fn reply(&mut self, flow: usize, stamp: Option<Stamp>, now: Duration) {
        let known = |stamp: &Stamp| stamp.flow as usize == flow && (stamp.slot as usize) < self.in_flight;
        let Some(stamp) = stamp.filter(|stamp| stamp.run != self.run || known(stamp)) else {
            self.corrupt += 1;
            return;
        };
        if stamp.run != self.run {
            self.late += 1;
            return;
        }
        let slot = &mut self.slots[flow * self.in_flight + stamp.slot as usize];
        let bit = 1u64.checked_shl(slot.sequence.wrapping_sub(stamp.sequence)).unwrap_or(0);
        if slot.answered & bit != 0 {
            self.duplicates += 1;
        } else if bit == 1 && slot.is_waiting {
            slot.is_waiting = false;
            self.waiting[flow] -= 1;
            self.latencies.record(now - slot.sent);
        } else {
            self.late += 1;
        }
        slot.answered |= bit;
    }

    /// Gives up what a flow has sent before this time, and says whether there was any.
    pub fn give_up(&mut self, flow: usize, before: Duration) -> bool {
        let lost = self.lost;
        for slot in &mut self.slots[flow * self.in_flight..][..self.in_flight] {
            if slot.is_waiting && slot.sent < before {
                slot.is_waiting = false;
                self.waiting[flow] -= 1;
                self.lost += 1;
            }
        }
        self.lost > lost
    }
}
