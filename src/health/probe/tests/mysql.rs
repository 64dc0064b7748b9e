//! Tests: MySQL and MariaDB.

use super::*;
use crate::health::probe::mysql;

const CLIENT_CAPABILITIES: u32 = 0x0000_8200;

fn my(sequence: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..3], &[sequence], body].concat()
}

fn my_greeting(plugin: Option<&str>) -> Vec<u8> {
    let capabilities = CLIENT_CAPABILITIES | if plugin.is_some() { 0x0008_0000 } else { 0 };
    let [low1, low2, high1, high2] = capabilities.to_le_bytes();
    let mut body = b"\x0a8.0.36\0\x01\0\0\0nonce678\0".to_vec();
    body.extend([low1, low2, 33, 2, 0, high1, high2, if plugin.is_some() { 21 } else { 0 }]);
    body.extend([0; 10]);
    body.extend(b"nonce9012345\0");
    if let Some(plugin) = plugin {
        body.extend(plugin.bytes());
        body.push(0);
    }
    my(0, &body)
}

fn my_error(sequence: u8, code: u16, message: &str) -> Vec<u8> {
    my(sequence, &[&[0xff], code.to_le_bytes().as_slice(), b"#08004", message.as_bytes()].concat())
}

/// Length of the log-in of user "eve".
const MY_LOGIN: usize = 4 + 32 + 4 + 1 + "mysql_native_password\0".len();

#[tokio::test]
async fn mysql_that_lets_us_in_is_up_and_is_left_with_quit() {
    for piece in PIECES {
        let turns = vec![(0, my_greeting(Some("mysql_native_password"))), (MY_LOGIN, my(2, &[0, 0, 0, 2, 0, 0, 0]))];
        let (mut near, heard) = backend(piece, turns);
        assert_eq!(mysql::probe(&mut near, "eve").await, Ok(()));
        drop(near);
        let heard = heard.await.unwrap();
        assert_eq!(heard[..9], [MY_LOGIN as u8 - 4, 0, 0, 1, 0x00, 0x82, 0x08, 0x00, 0x00]);
        assert_eq!(&heard[36..MY_LOGIN], b"eve\0\0mysql_native_password\0");
        assert_eq!(heard[MY_LOGIN..], [1, 0, 0, 0, 1]);
    }
}

#[tokio::test]
async fn mysql_that_knows_no_plugins_is_answered_without_one() {
    let (mut near, heard) = backend(3, vec![(0, my_greeting(None)), (41, my(2, &[0]))]);
    assert_eq!(mysql::probe(&mut near, "eve").await, Ok(()));
    drop(near);
    assert_eq!(heard.await.unwrap()[36..], *b"eve\0\0\x01\0\0\0\x01");
}

#[tokio::test]
async fn mysql_may_ask_for_another_plugin_and_gets_no_password_in_its_shape() {
    for (plugin, shape) in [("mysql_native_password", vec![]), ("client_ed25519", vec![0; 64])] {
        let switch = my(2, format!("\u{0}{plugin}\0nonce\0").as_bytes());
        let switch = switch.iter().enumerate().map(|(i, &b)| if i == 4 { 0xfe } else { b }).collect();
        let turns = vec![
            (0, my_greeting(Some("caching_sha2_password"))),
            (MY_LOGIN + 1, switch),
            (4 + shape.len(), my_error(4, 1045, "Access denied")),
        ];
        let (mut near, heard) = backend(1, turns);
        assert_eq!(mysql::probe(&mut near, "eve").await, Ok(()), "refusing us is being alive");
        drop(near);
        assert_eq!(heard.await.unwrap()[MY_LOGIN + 1..], my(3, &shape));
    }
}

#[tokio::test]
async fn mysql_is_down_when_it_can_take_nobody() {
    for piece in PIECES {
        let blocked = my(0, b"\xff\x69\x04Host '10.0.0.1' is blocked");
        let (mut near, _heard) = backend(piece, vec![(0, blocked)]);
        assert_eq!(reason(mysql::probe(&mut near, "eve").await), "Host '10.0.0.1' is blocked (1129)");
        for (code, is_up) in [(1040, false), (1053, false), (1045, true), (1698, true)] {
            let turns = vec![(0, my_greeting(Some("mysql_native_password"))), (MY_LOGIN, my_error(2, code, "no"))];
            let (mut near, _heard) = backend(piece, turns);
            assert_eq!(mysql::probe(&mut near, "eve").await.is_ok(), is_up, "{code}");
        }
    }
}

#[tokio::test]
async fn what_is_no_mysql_is_down() {
    let greeting = my_greeting(Some("mysql_native_password"));
    for length in 5..greeting.len() - 30 {
        let mut near = stubborn(my(0, &greeting[4..length]), false);
        assert!(mysql::probe(&mut near, "eve").await.is_err(), "a greeting cut at {length}");
    }
    let mut near = stubborn(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), false);
    assert!(reason(mysql::probe(&mut near, "eve").await).starts_with("not a MySQL answer: SSH-2.0"));
    let mut near = stubborn([greeting, my(2, &[1]).repeat(100_000)].concat(), true);
    assert_eq!(reason(mysql::probe(&mut near, "eve").await), "its answer is longer than 64 KiB");
}
