//! Tests: PostgreSQL, well and badly.

use super::*;
use crate::health::probe::postgres;

fn pg(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], ((body.len() + 4) as u32).to_be_bytes().as_slice(), body].concat()
}

fn pg_error(code: &str, message: &str) -> Vec<u8> {
    pg(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0").as_bytes())
}

const PG_STARTUP: &[u8] = b"\0\0\0\x3f\0\x03\0\0user\0eve\0database\0shop\0application_name\0evener-health\0\0";

async fn ask_postgres(piece: usize, says: Vec<u8>) -> (Result<(), Failure>, Vec<u8>) {
    let (mut near, heard) = backend(piece, vec![(PG_STARTUP.len(), says)]);
    let answer = postgres::probe(&mut near, "eve", "shop").await;
    drop(near);
    (answer, heard.await.unwrap())
}

#[tokio::test]
async fn postgres_that_wants_no_password_is_up_and_is_left_with_terminate() {
    for piece in PIECES {
        let says = [
            pg(b'R', &[0; 4]),
            pg(b'S', b"server_version\x0015.4\0"),
            pg(b'K', &[1; 8]),
            pg(b'N', b"SNOTICE\0\0"),
            pg(b'Z', b"I"),
        ];
        let (answer, heard) = ask_postgres(piece, says.concat()).await;
        assert_eq!(answer, Ok(()));
        assert_eq!(heard, [PG_STARTUP, b"X\0\0\0\x04"].concat());
    }
}

#[tokio::test]
async fn postgres_that_wants_a_password_is_up_and_is_told_nothing_more() {
    for piece in PIECES {
        for request in [b"\0\0\0\x05salt".as_slice(), b"\0\0\0\x0aSCRAM-SHA-256\0\0", b"\0\0\0\x03"] {
            let (answer, heard) = ask_postgres(piece, pg(b'R', request)).await;
            assert_eq!(answer, Ok(()));
            assert_eq!(heard, PG_STARTUP);
        }
    }
}

#[tokio::test]
async fn postgres_is_down_when_it_can_take_nobody_and_up_when_it_refuses_us() {
    for piece in PIECES {
        for (code, message) in [
            ("57P03", "the database system is starting up"),
            ("53300", "sorry, too many clients already"),
            ("XX000", "oops"),
        ] {
            let (answer, _) = ask_postgres(piece, pg_error(code, message)).await;
            assert_eq!(reason(answer), format!("FATAL: {message} ({code})"));
            let late = [pg(b'R', &[0; 4]), pg_error(code, message)].concat();
            assert!(ask_postgres(piece, late).await.0.is_err(), "also after AuthenticationOk");
        }
        for code in ["28000", "28P01", "3D000"] {
            assert_eq!(ask_postgres(piece, pg_error(code, "no")).await.0, Ok(()));
        }
    }
}

#[tokio::test]
async fn what_is_no_postgres_is_down() {
    let no_length = reason(ask_postgres(4096, b"Ecould not fork new process\n\0".to_vec()).await.0);
    assert_eq!(no_length, "not a PostgreSQL answer: Ecould not fork new process\\n\\0");
    assert!(reason(ask_postgres(1, b"HTTP/1.1 400 Bad\r\n".to_vec()).await.0).starts_with("not a PostgreSQL"));
    assert_eq!(reason(ask_postgres(1, Vec::new()).await.0), "it closed the connection before its answer");
    assert_eq!(
        reason(ask_postgres(1, b"R\0\0".to_vec()).await.0),
        "it closed the connection in the middle of its answer"
    );
    let mut endless = stubborn(pg(b'S', b"a\0b\0"), true);
    assert_eq!(reason(postgres::probe(&mut endless, "eve", "shop").await), "its answer is longer than 64 KiB");
}
