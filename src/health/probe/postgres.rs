//! The `postgres` check: PostgreSQL's start-up (protocol 3.0), up to the answer that tells whether it takes clients.
//!
//! Up: any request for authentication (a password, SASL, …): the backend read our start-up message, is not starting,
//! stopping or full, and knows us well enough to ask. We then leave; an end of the stream in place of a password is
//! silent in PostgreSQL's log. Where no password is wanted (`trust`) we wait for ReadyForQuery and send Terminate.
//!
//! Down: an error of class 57 (operator intervention: 57P03 starting up, shutting down, in recovery without hot
//! standby), 53 (no resources: 53300 too many connections), 58 and XX (system and internal errors). Any other error
//! (28xxx no entry in pg_hba.conf or no such role, 3D000 no such database) means that a live backend has turned *us*
//! away: up. PostgreSQL itself logs such a refusal as FATAL, so name a role and a database that exist and that
//! pg_hba.conf lets in; it needs no rights, and with a password method not even a valid password.
//!
//! Source: PostgreSQL documentation, "Frontend/Backend Protocol: Message Flow, Message Formats", "Error Codes".

use super::{ANSWER_MAX, Failure, Io, Talk, text};

/// 3.0.
const PROTOCOL: i32 = 3 << 16;
const TERMINATE: &[u8] = b"X\0\0\0\x04";

pub(super) async fn probe<S: Io>(stream: &mut S, user: &str, database: &str) -> Result<(), Failure> {
    let mut talk = Talk::new(stream);
    talk.say(&startup(user, database)).await?;
    loop {
        let (kind, body) = message(&mut talk).await?;
        match kind {
            // AuthenticationOk: what follows may still be an error, such as "too many connections".
            b'R' if body == [0, 0, 0, 0] => {}
            b'R' => return Ok(()),
            b'Z' => {
                // It is up already; whether the goodbye arrives changes nothing.
                let _ = talk.say(TERMINATE).await;
                return Ok(());
            }
            b'E' => return judge_error(&body),
            // ParameterStatus, BackendKeyData, NoticeResponse, NegotiateProtocolVersion.
            b'S' | b'K' | b'N' | b'v' => {}
            _ => return Err(not_postgres(&[&[kind], body.as_slice()].concat())),
        }
    }
}

fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for text in ["user", user, "database", database, "application_name", "evener-health"] {
        // A NUL would end the text early.
        body.extend(text.bytes().filter(|&byte| byte != 0));
        body.push(0);
    }
    body.push(0);
    // Names are lines of a file, far below 4 GiB.
    let length = (body.len() + 4) as u32;
    [&length.to_be_bytes(), body.as_slice()].concat()
}

async fn message<S: Io>(talk: &mut Talk<'_, S>) -> Result<(u8, Vec<u8>), Failure> {
    let head = talk.take(5).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    // A backend that cannot even fork says so in the format of protocol 2, text without a length.
    if !(4..=ANSWER_MAX).contains(&length) {
        let rest = std::mem::take(&mut talk.heard);
        return Err(not_postgres(&[head, rest].concat()));
    }
    Ok((head[0], talk.take(length - 4).await?))
}

/// ErrorResponse: fields of one type byte and a text that ends with NUL.
fn judge_error(body: &[u8]) -> Result<(), Failure> {
    let field = |kind| body.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(&[kind])).unwrap_or_default();
    let (severity, code, message) = (text(field(b'S')), text(field(b'C')), text(field(b'M')));
    match code.get(..2) {
        Some("53" | "57" | "58" | "XX") | None => Err(Failure::new(format!("{severity}: {message} ({code})"))),
        Some(_) => Ok(()),
    }
}

fn not_postgres(answer: &[u8]) -> Failure {
    Failure::new(format!("not a PostgreSQL answer: {}", text(answer)))
}
