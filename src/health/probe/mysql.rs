//! The `mysql` check: the handshake of MySQL and MariaDB, with a log-in without password, and COM_QUIT.
//!
//! What the backend counts, as seen on MariaDB 10.11 with `max_connect_errors = 10` and 300 checks:
//! - the account exists without password (best: `CREATE USER 'evener'@'%'`, which has no rights beyond logging in):
//!   nothing. A good log-in even resets the host's SUM_CONNECT_ERRORS.
//! - the account does not exist or has a password: each check adds one to Aborted_connects and to
//!   Access_denied_errors, and a warning to the log when log_warnings is 2 or more. SUM_CONNECT_ERRORS stays: only
//!   handshakes that are broken off count towards `max_connect_errors`, so the host is never blocked.
//!
//! Leaving after the greeting would be such a broken handshake and would block the host (error 1129); hence the log-in.
//!
//! Up: a log-in, and a refusal of our account (1045 and the like): the backend is alive and only we were turned away.
//! Down: an error in place of the greeting (1040 too many connections, 1129 host blocked, 1130 host not allowed; all
//! of them hold for clients too, for they come from the same address), and 1040, 1053 (shutting down) and 1129 later.
//!
//! Source: MySQL internals manual and MariaDB Knowledge Base, "Connecting", "Initial Handshake Packet",
//! "HandshakeResponse41", "Authentication Switch Request", "COM_QUIT".

use super::{ANSWER_MAX, Failure, Io, Talk, text};

/// CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION: the least that both still speak.
const CAPABILITIES: u32 = 0x0000_0200 | 0x0000_8000;
const CLIENT_PLUGIN_AUTH: u32 = 0x0008_0000;
const PACKET_MAX: u32 = 1 << 24;
/// utf8_general_ci: known to every version.
const CHARSET: u8 = 33;
const OK: u8 = 0x00;
const ERROR: u8 = 0xff;
const SWITCH: u8 = 0xfe;
const MORE: u8 = 0x01;
const COM_QUIT: &[u8] = &[1, 0, 0, 0, 1];
/// Errors after the greeting that hold for every client: too many connections, shutting down, host blocked.
const DOWN: [u16; 3] = [1040, 1053, 1129];

pub(super) async fn probe<S: Io>(stream: &mut S, user: &str) -> Result<(), Failure> {
    let mut talk = Talk::new(stream);
    let (sequence, greeting) = packet(&mut talk).await?;
    match greeting.first() {
        Some(&ERROR) => return Err(refusal(&greeting).1),
        Some(&10) => {}
        _ => return Err(Failure::new(format!("not a MySQL greeting: {}", text(&greeting)))),
    }
    let plugin = plugin(&greeting).ok_or_else(|| Failure::new("a broken MySQL greeting"))?;
    say_packet(&mut talk, sequence, &login(user, &plugin)).await?;
    loop {
        let (sequence, answer) = packet(&mut talk).await?;
        match answer.first() {
            Some(&OK) => {
                // It is up already; whether the goodbye arrives changes nothing.
                let _ = talk.say(COM_QUIT).await;
                return Ok(());
            }
            Some(&ERROR) => {
                let (code, failure) = refusal(&answer);
                return if DOWN.contains(&code) { Err(failure) } else { Ok(()) };
            }
            Some(&SWITCH) => {
                let plugin = answer[1..].split(|&byte| byte == 0).next().unwrap_or_default();
                say_packet(&mut talk, sequence, no_password(plugin)).await?;
            }
            Some(&MORE) => say_packet(&mut talk, sequence, &[]).await?,
            _ => return Err(Failure::new(format!("not a MySQL answer: {}", text(&answer)))),
        }
    }
}

/// The authentication plugin that the greeting offers; `None` when the greeting is cut short.
///
/// After the version's NUL: thread id 4, nonce 8, filler 1, capabilities 2, charset 1, status 2, capabilities 2, length
/// of the nonce 1, reserved 10, rest of the nonce, the plugin's name with NUL.
fn plugin(greeting: &[u8]) -> Option<Vec<u8>> {
    let version = greeting.iter().position(|&byte| byte == 0)?;
    let fixed = greeting.get(version + 1..version + 1 + 31)?;
    let capabilities = u32::from_le_bytes([fixed[13], fixed[14], fixed[18], fixed[19]]);
    if capabilities & CLIENT_PLUGIN_AUTH == 0 {
        return Some(Vec::new());
    }
    let nonce_rest = usize::from(fixed[20]).saturating_sub(8).max(13);
    let name = greeting.get(version + 1 + 31 + nonce_rest..)?;
    Some(name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec())
}

/// HandshakeResponse41 without password and database; an empty `plugin` = the backend knows no plugins.
fn login(user: &str, plugin: &[u8]) -> Vec<u8> {
    let capabilities = if plugin.is_empty() { CAPABILITIES } else { CAPABILITIES | CLIENT_PLUGIN_AUTH };
    let mut packet = [capabilities.to_le_bytes(), PACKET_MAX.to_le_bytes()].concat();
    packet.push(CHARSET);
    packet.extend([0; 23]);
    // A NUL would end the text early.
    packet.extend(user.bytes().filter(|&byte| byte != 0));
    packet.push(0);
    let password = no_password(plugin);
    // At most 64 bytes, so the length fits one.
    packet.push(password.len() as u8);
    packet.extend(password);
    if !plugin.is_empty() {
        packet.extend(plugin);
        packet.push(0);
    }
    packet
}

/// What "no password" looks like to a plugin. A wrong shape would count as a broken handshake, not as a wrong password.
fn no_password(plugin: &[u8]) -> &'static [u8] {
    match plugin {
        b"client_ed25519" => &[0; 64],
        b"caching_sha2_password" | b"sha256_password" | b"mysql_clear_password" | b"dialog" => &[0],
        _ => &[],
    }
}

/// An error packet: code, perhaps `#` and an SQL state of five, text.
fn refusal(packet: &[u8]) -> (u16, Failure) {
    let code = packet.get(1..3).map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
    let rest = packet.get(3..).unwrap_or_default();
    let message = if rest.starts_with(b"#") { rest.get(6..).unwrap_or_default() } else { rest };
    (code, Failure::new(format!("{} ({code})", text(message))))
}

/// A packet: length 3 (little-endian), sequence 1, body.
async fn packet<S: Io>(talk: &mut Talk<'_, S>) -> Result<(u8, Vec<u8>), Failure> {
    let head = talk.take(4).await?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    if length > ANSWER_MAX {
        let rest = std::mem::take(&mut talk.heard);
        return Err(Failure::new(format!("not a MySQL answer: {}", text(&[head, rest].concat()))));
    }
    Ok((head[3], talk.take(length).await?))
}

/// Answers the packet of number `sequence`. The bodies here are far below the 16 MiB of a packet.
async fn say_packet<S: Io>(talk: &mut Talk<'_, S>, sequence: u8, body: &[u8]) -> Result<(), Failure> {
    let length = (body.len() as u32).to_le_bytes();
    let head = [length[0], length[1], length[2], sequence.wrapping_add(1)];
    talk.say(&[&head, body].concat()).await
}
