//! How far a relay has come, in words: for the process that goes on with it, and back.

use super::half::{Fault, Half, Residue};
use super::relay::Relay;
use crate::handover;
use crate::id::Side;

/// What a direction holds beside the words.
#[derive(Debug)]
pub enum Held<B, P> {
    /// Nothing.
    Nothing,
    /// Bytes.
    Bytes(B),
    /// A pipe with bytes in it.
    Pipe(P),
}

impl<P> Half<P> {
    /// What it is, and what it holds.
    pub fn save(&self) -> (handover::Half, Held<&[u8], &P>) {
        let (held, beside) = match &self.residue {
            Residue::None => (handover::Held::Nothing, Held::Nothing),
            Residue::Buffer(rest) => {
                let bytes = &rest.bytes[rest.gone..];
                (handover::Held::Bytes(u32::try_from(bytes.len()).unwrap_or(u32::MAX)), Held::Bytes(bytes))
            }
            Residue::Pipe(pipe, left) => (handover::Held::Pipe(*left), Held::Pipe(pipe)),
        };
        let half = handover::Half {
            bytes: self.bytes,
            spliced: self.spliced,
            header_left: self.header_left,
            held,
            fin_announced: self.fin_announced,
            short_reads_mislead: self.short_reads_mislead,
            source_broken: self.source_broken.map(|fault| fault.as_str().to_owned()),
            eof: self.eof,
            over: self.over,
            streaming: self.streaming,
            streak: self.streak,
        };
        (half, beside)
    }

    /// The same direction, with what it holds. Nothing is known of its ends: it looks.
    pub fn resume(from: &handover::Half, held: Held<Vec<u8>, P>) -> Self {
        let residue = match (from.held, held) {
            (handover::Held::Bytes(_), Held::Bytes(bytes)) if !bytes.is_empty() => Residue::buffer(bytes),
            (handover::Held::Pipe(left), Held::Pipe(pipe)) => Residue::Pipe(pipe, left),
            _ => Residue::None,
        };
        Self {
            residue,
            bytes: from.bytes,
            spliced: from.spliced,
            header_left: from.header_left,
            source_ready: true,
            sink_ready: true,
            fin_announced: from.fin_announced,
            short_reads_mislead: from.short_reads_mislead,
            source_broken: from.source_broken.as_deref().map(Fault::named),
            eof: from.eof,
            over: from.over,
            streaming: from.streaming,
            streak: from.streak,
        }
    }

    /// Nothing is known of its ends any more: they were not watched for a while.
    fn look_again(&mut self) {
        (self.source_ready, self.sink_ready) = (true, true);
    }
}

impl<P> Relay<P> {
    /// Which side ended first (true = the client), and whether a side has failed.
    pub fn save(&self) -> (Option<bool>, bool) {
        (self.first_fin.map(|side| side == Side::Client), self.failing)
    }

    /// The same relay.
    pub fn resume(to_backend: Half<P>, to_client: Half<P>, client_ended_first: Option<bool>, failing: bool) -> Self {
        let first_fin = client_ended_first.map(|client| if client { Side::Client } else { Side::Backend });
        Self { to_backend, to_client, first_fin, failing }
    }

    /// Its sockets were not watched for a while: the next pump looks at both.
    pub fn look_again(&mut self) {
        self.to_backend.look_again();
        self.to_client.look_again();
    }
}

impl Fault {
    const ALL: [Self; 3] = [Self::Reset, Self::Lost, Self::Exhausted];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Lost => "lost",
            Self::Exhausted => "exhausted",
        }
    }

    fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|fault| fault.as_str() == name).unwrap_or(Self::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::relay::Readiness;

    /// There and back, as the other process has it.
    fn moved(half: &Half<u8>) -> Half<u8> {
        let (words, held) = half.save();
        let words = serde_json::from_slice(&serde_json::to_vec(&words).expect("words")).expect("the same words");
        let held = match held {
            Held::Nothing => Held::Nothing,
            Held::Bytes(bytes) => Held::Bytes(bytes.to_vec()),
            Held::Pipe(pipe) => Held::Pipe(*pipe),
        };
        Half::resume(&words, held)
    }

    #[test]
    fn a_direction_goes_on_where_it_was() {
        let mut half: Half<u8> = Half::default();
        half.preload(b"PROXY", b"hello");
        half.source_event(true);
        half.source_broke(Fault::Lost);
        half.distrust_short_reads();
        (half.spliced, half.streaming, half.streak) = (7, true, 2);
        if let Residue::Buffer(rest) = &mut half.residue {
            rest.gone = 3;
        }
        half.look_again();
        let moved = moved(&half);
        let Residue::Buffer(rest) = &moved.residue else { panic!("{moved:?}") };
        assert_eq!((&rest.bytes[..], rest.gone), (&b"XYhello"[..], 0), "what is gone is not sent along");
        let without = |half: &Half<u8>| format!("{half:?}").split_once(", bytes: 0").expect("counts").1.to_owned();
        assert_eq!(without(&moved), without(&half));
    }

    #[test]
    fn a_pipe_goes_along_as_it_is_and_the_first_end_stays_the_first() {
        let mut relay: Relay<u8> = Relay::default();
        relay.to_client.residue = Residue::Pipe(9, 1234);
        relay.first_fin = Some(Side::Backend);
        relay.event(Side::Client, Readiness { error: true, ..Readiness::default() });
        let (client_ended_first, failing) = relay.save();
        let moved = Relay::resume(moved(&relay.to_backend), moved(&relay.to_client), client_ended_first, failing);
        assert!(matches!(moved.to_client.residue, Residue::Pipe(9, 1234)));
        assert_eq!((moved.first_fin, moved.failing), (Some(Side::Backend), true));
    }
}
